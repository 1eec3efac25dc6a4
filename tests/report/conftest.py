"""A stand-in for a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tests.figures.synthetic import SMALL, Sizes, attention_table, formation_table, tokens_table, training_metrics
from workbench.config import ModelConfig, RunConfig, TrainConfig, TriggerBigramConfig


@dataclass
class FakeRun:
    """What the report asks of a run, held in memory."""

    name: str
    config: RunConfig
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    words: dict[str, Any] | None = None
    training: pd.DataFrame = field(default_factory=training_metrics)
    path: Path = Path("runs/example")
    provenance: dict[str, Any] = field(default_factory=lambda: {"git_commit": "0123abc", "torch": "2.13.0"})

    def metrics(self) -> pd.DataFrame:
        return self.training

    def table(self, name: str) -> pd.DataFrame | None:
        return self.tables.get(name)

    def summary(self) -> dict[str, Any] | None:
        return self.words


def make_run(
    variant: str = "none", seed: int = 0, sizes: Sizes = SMALL, texts: Sequence[str] | None = None, name: str | None = None
) -> FakeRun:
    """An analysed run with every table."""
    texts = [chr(ord("a") + position % 7) for position in range(sizes.n_tokens)] if texts is None else texts
    config = RunConfig(
        model=ModelConfig(stream=variant, seed=seed, n_layers=sizes.n_layers),  # type: ignore[arg-type]
        task=TriggerBigramConfig(),
        train=TrainConfig(),
    )
    name = variant if name is None else name
    same: dict[str, Any] = {"run": name, "variant": config.model.variant, "seed": seed}
    formation = formation_table(sizes=sizes, **same)
    accuracy = formation[formation["metric"] == "in_context_accuracy"]
    reached = accuracy.loc[accuracy["value"] >= 0.95, "step"]
    words = {
        "lines": [f"In-context accuracy of {name} ends at {accuracy['value'].iloc[-1]:.3f}.", "L1H2 attends to what followed before."],
        "previous_token_head": "L0H1",
        "induction_heads": ["L1H2"],
        "formed_step": None if reached.empty else int(reached.iloc[0]),
        "threshold": 0.95,
        "in_context_accuracy": float(accuracy["value"].iloc[-1]),
        "references": {"bigram_loss": 2.31},
    }
    tables = {"formation": formation, "attention": attention_table(sizes=sizes, **same), "tokens": tokens_table(texts, **same)}
    return FakeRun(name, config, tables, words)
