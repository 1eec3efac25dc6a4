"""Small runs for tests: two layers, a value stream, sizes that are distinct primes; and damage done to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.config import ModelConfig, RunConfig, TrainConfig, TriggerBigramConfig
from workbench.model import HookedTransformer
from workbench.runs import Run

TASK: dict[str, Any] = {"d_vocab": 11, "seq_len": 13, "n_triggers": 3}
MODEL: dict[str, Any] = {"n_heads": 3, "d_head": 5, "d_model": 7, "d_vocab": 11, "n_ctx": 17, "stream": "value"}
TRAIN: dict[str, Any] = {"steps": 4, "batch_size": 5, "eval_every": 2, "eval_size": 7, "checkpoint_every": 1}


def small_config(model: dict[str, Any] = {}, task: dict[str, Any] = {}, **train: Any) -> RunConfig:
    """A run that trains in some milliseconds, with the fields given."""
    return RunConfig(
        model=ModelConfig(**{**MODEL, **model}), task=TriggerBigramConfig(**{**TASK, **task}), train=TrainConfig(**{**TRAIN, **train})
    )


def untrained_run(path: Path, steps: int = 1) -> Run:
    """A run by somebody else's loop: the initial model, saved for every step."""
    config = RunConfig(model=ModelConfig(**MODEL))
    run = Run.create(path, config)
    for step in range(steps):
        run.save(step, HookedTransformer(config.model))
    return run


def flip(path: Path, place: int) -> None:
    """Change the lowest bit of one byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def leftovers(path: Path) -> list[Path]:
    """What interrupted writes left anywhere below a folder."""
    return [entry for entry in path.rglob("*") if entry.name.endswith(".part")]
