"""A stand-in for a run, and a browser without a network."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.figures.synthetic import SMALL, Sizes, attention_table, formation_table, tokens_table, training_metrics
from workbench.config import ModelConfig, RunConfig, TrainConfig, TriggerBigramConfig

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


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


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium; a missing browser is a failure, since these tests are the only ones that see the page."""
    if not Path(CHROMIUM).is_file():
        pytest.fail(f"no browser at {CHROMIUM}: install chromium, or name one with the environment variable CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page and everything that went wrong, or out, while it was open."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """An empty page, 1280 pixels wide, without a network, that records errors, requests and dialogs."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    visit = Visit(context.new_page())
    visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
    visit.page.on("console", lambda message: visit.problems.append(message.text) if message.type in ("error", "warning") else None)
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("dialog", lambda dialog: (visit.dialogs.append(dialog.message), dialog.dismiss()))
    yield visit
    context.close()
