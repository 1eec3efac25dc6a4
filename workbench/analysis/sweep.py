"""Any set of sections over all checkpoints of a run, with one model that is loaded again and again."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
from tqdm import tqdm

from workbench.analysis import attention
from workbench.analysis.data import SEQUENCES, AnalysisData
from workbench.analysis.sections import chosen, measure_of
from workbench.analysis.summary import summarise
from workbench.errors import UsageError
from workbench.model import HookedTransformer
from workbench.runs import Run
from workbench.tasks.base import Task

COLUMNS = ["run", "variant", "task", "seed", "step", "layer", "head", "metric", "value", "ci_low", "ci_high", "n"]


def analyze(
    target: Run | HookedTransformer,
    task: Task | None = None,
    *,
    only: Iterable[str] | None = None,
    steps: Sequence[int] | None = None,
    sequences: int = SEQUENCES,
    device: str = "cpu",
    write: bool = True,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure a run, over its checkpoints (or those of `steps`), or a model, on its task or on repeated tokens.

    `only` lists sections or metrics (default: all sections). For a run, the tables, patterns of a sample sequence and
    the summary are also written to `run.tables`, unless `write` is false: once everything is measured, or not at all.

    Returns a tidy table with the columns run, variant, task, seed, step, layer, head, metric, value, ci_low, ci_high
    (95 %, over sequences) and n (sequences); layer and head are missing where a metric has none, step for a model.

    Raises UsageError for an unknown name or a step that is not saved, CheckpointError for a damaged checkpoint.
    """
    sections, kept = chosen(only)
    if isinstance(target, HookedTransformer):
        data = AnalysisData.draw(target.config, task, sequences=sequences)
        rows = _measured(target, data, sections)
        return _table(rows, kept, run=None, variant=target.config.variant, seed=target.config.seed, step=None)

    data = AnalysisData.of_run(target, sequences)
    chosen_steps = target.steps if steps is None else sorted(set(steps))
    if steps is not None and not chosen_steps:
        raise UsageError("steps names no checkpoint; leave it out for all")
    model = target.model(chosen_steps[-1] if chosen_steps else None, device)
    tables: dict[str, list[pd.DataFrame]] = {section: [] for section in sections}
    names = {"run": target.name, "variant": target.config.model.variant, "seed": target.config.model.seed}
    bar = tqdm(
        chosen_steps, desc=f"analysing {target.name}", unit="checkpoint", disable=not progress, file=sys.stderr,
        mininterval=0.1 if sys.stderr.isatty() else 20,
    )  # fmt: skip
    for step in bar:
        target.load_weights(model, step)
        for section in sections:
            tables[section].append(_table(_measured(model, data, [section]), kept, **names, step=step))
    result = {section: pd.concat(parts, ignore_index=True) for section, parts in tables.items()}
    if write:
        _write(target, result, model, data, chosen_steps[-1], names)
    return pd.concat(result.values(), ignore_index=True)


def _measured(model: HookedTransformer, data: AnalysisData, sections: Iterable[str]) -> list[dict[str, Any]]:
    with _evaluating(model):
        return [row for section in sections for row in measure_of(section)(model, data)]


@contextmanager
def _evaluating(model: HookedTransformer) -> Iterator[None]:
    """In evaluation mode; the mode that the model came in returns, also after an exception."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _table(rows: list[dict[str, Any]], kept: set[str] | None, **names: Any) -> pd.DataFrame:
    rows = [row for row in rows if kept is None or row["metric"] in kept]
    table = pd.DataFrame(rows, columns=COLUMNS).assign(**names)
    return table.astype({"step": "Int64", "layer": "Int64", "head": "Int64", "n": "Int64", "seed": "Int64"})


def _write(
    run: Run, result: dict[str, pd.DataFrame], model: HookedTransformer, data: AnalysisData, step: int, names: dict[str, Any]
) -> None:
    with _evaluating(model):
        patterns = attention.patterns_table(model, data)
    for section, table in result.items():
        run.tables.write(section, table)
    run.tables.write("attention", patterns.assign(**names, step=step))
    run.tables.write("tokens", attention.tokens_table(data).assign(**names))
    if "formation" in result:
        run.tables.write_summary(summarise(result["formation"], data))
