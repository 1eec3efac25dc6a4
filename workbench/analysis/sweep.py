"""Any set of sections over all checkpoints of a run, with one model that is loaded again and again."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from workbench.analysis import attention, formation
from workbench.analysis.data import SEQUENCES, AnalysisData
from workbench.analysis.emergence import Curves, events
from workbench.analysis.roles import Roles, name_heads
from workbench.analysis.rows import CASES, CASES_KEPT, Row, compact, tabulate
from workbench.analysis.sections import EMERGENCE, SECTIONS, applicable, chosen, measure_of
from workbench.analysis.summary import summarise
from workbench.errors import UsageError
from workbench.model import HookedTransformer
from workbench.runs import Run
from workbench.tasks.base import Task


def analyze(
    target: Run | HookedTransformer,
    task: Task | None = None,
    *,
    only: Iterable[str] | None = None,
    steps: Sequence[int] | None = None,
    sequences: int = SEQUENCES,
    causal_every: int = 1,
    device: str = "cpu",
    write: bool = True,
    progress: bool = False,
    watch: Callable[[int, str], bool] | None = None,
) -> pd.DataFrame:
    """Measure a run, over its checkpoints (or those of `steps`), or a model, on its task or on repeated tokens.

    `only` lists sections or metrics (default: all sections). Heads are named at the last checkpoint, on half of the
    sequences. For a run, the tables, patterns of a sample sequence and the summary are also written to `run.tables`,
    unless `write` is false: once everything is measured, or not at all. `causal_every` measures the section causal, by far
    the most expensive, at every n-th of the checkpoints only, counted back from the last. `watch` is told how many
    checkpoints are measured; where it answers True, KeyboardInterrupt is raised and nothing is written.

    Returns a tidy table: run, variant, task, seed, step, layer, head, metric, value, ci_low, ci_high (95 %), n (the
    sequences, or whatever the estimate is over), and the optional columns of `rows.OPTIONAL` that are not empty. What has
    no layer, head or step lacks it. The model comes back as it was: mode, hooks, gradients and random state.

    Raises UsageError for an unknown name, a step that is not saved, or a section that the model has nothing for;
    CheckpointError for a damaged checkpoint.
    """
    sections, kept = chosen(only)
    config = target.config if isinstance(target, HookedTransformer) else target.config.model
    trained_on = target.config.task if isinstance(target, Run) else None if task is None else task.config
    sections = applicable(sections, config, trained_on, asked=only is not None, kept=kept)
    if causal_every < 1:
        raise UsageError(f"causal_every must be at least 1, got {causal_every}")
    if isinstance(target, HookedTransformer):
        data = AnalysisData.draw(config, task, sequences=sequences)
        model = _in_single_precision(target)
        with _evaluating(model):
            roles, rows = _roles(model, data)
            rows = [row for section in sections for row in (rows if section == "formation" else measure_of(section)(model, data, roles))]
        table = tabulate(_kept(rows, kept), run=None, variant=config.variant, seed=config.seed, step=None)
        return compact(table)

    data = AnalysisData.of_run(target, sequences)
    chosen_steps = target.steps if steps is None else sorted(set(steps))
    if steps is not None and not chosen_steps:
        raise UsageError("steps names no checkpoint; leave it out for all")
    model = target.model(chosen_steps[-1] if chosen_steps else None, device)
    with _evaluating(model):
        roles, _ = _roles(model, data)
    names = {"run": target.name, "variant": config.variant, "seed": config.seed}
    bar = tqdm(
        chosen_steps, desc=f"analysing {target.name}", unit="checkpoint", disable=not progress, file=sys.stderr,
        mininterval=0.1 if sys.stderr.isatty() else 20,
    )  # fmt: skip
    tables: dict[str, list[pd.DataFrame]] = {section: [] for section in sections}
    cases: dict[str, list[pd.DataFrame]] = {}
    curves = Curves(roles, data.own, config)
    for left, step in zip(range(len(chosen_steps) - 1, -1, -1), bar, strict=True):
        target.load_weights(model, step)
        for section in sections:
            if section == "causal" and left % causal_every:
                continue
            with _evaluating(model):
                rows = list(measure_of(section)(model, data, roles))
            curves.add(step, rows)
            for name, table in (row[CASES] for row in rows if CASES in row):
                cases.setdefault(name, []).append((table.head(CASES_KEPT) if left else table).assign(**names, step=step))
            tables[section].append(tabulate(_kept(rows, kept), **names, step=step))
        if watch is not None and watch(len(chosen_steps) - left, ""):
            raise KeyboardInterrupt(f"stopped at checkpoint {len(chosen_steps) - left} of {len(chosen_steps)}; nothing was written")
    result = {section: pd.concat(parts, ignore_index=True) for section, parts in tables.items() if parts}
    if len(chosen_steps) > 1:
        result[EMERGENCE] = tabulate(_kept(events(curves), kept), **names)
    result = {name: table for name, table in result.items() if len(table)}
    if write:
        single = {name: pd.concat(parts) for name, parts in cases.items()}
        _write(target, result, single, model, data, roles, chosen_steps, names)
    return compact(pd.concat(result.values(), ignore_index=True) if result else tabulate([]))


def _roles(model: HookedTransformer, data: AnalysisData) -> tuple[Roles, list[Row]]:
    """What the heads of a model are named, and the rows that name them."""
    rows = list(formation.measure(model, data))
    return name_heads(rows, data.own, data.control), rows


def _kept(rows: Iterable[Row], kept: set[str] | None) -> list[Row]:
    return [row for row in rows if kept is None or row["metric"] in kept]


@contextmanager
def _evaluating(model: HookedTransformer) -> Iterator[None]:
    """In evaluation mode and without gradients; the mode that the model came in returns, also after an exception."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _in_single_precision(model: HookedTransformer) -> HookedTransformer:
    """The model itself, or a copy in fp32 where its weights are in a shorter format."""
    if model.W_E.dtype in (torch.float32, torch.float64):
        return model
    return copy.deepcopy(model).float()


def _write(
    run: Run,
    result: dict[str, pd.DataFrame],
    cases: dict[str, pd.DataFrame],
    model: HookedTransformer,
    data: AnalysisData,
    roles: Roles,
    steps: Sequence[int],
    names: dict[str, Any],
) -> None:
    with _evaluating(model):
        patterns = attention.patterns_table(model, data)
    held = _held(run, steps)
    if EMERGENCE in held and EMERGENCE in result:
        # Events whose curves were not measured this time are still those of these checkpoints.
        others = held[EMERGENCE][~held[EMERGENCE]["part"].isin(result[EMERGENCE]["part"])]
        result[EMERGENCE] = pd.concat([result[EMERGENCE], others], ignore_index=True)
    for name, table in (*result.items(), *cases.items()):
        run.tables.write(name, compact(table))
    run.tables.write("attention", patterns.assign(**names, step=steps[-1]))
    run.tables.write("tokens", attention.tokens_table(data).assign(**names))
    run.tables.write_summary(summarise(held | result, data, roles))


def _held(run: Run, steps: Sequence[int]) -> dict[str, pd.DataFrame]:
    """The tables of sections that an earlier analysis of the same checkpoints left; none where it was of others."""
    found = {name: table for name in (*SECTIONS, EMERGENCE) if (table := run.tables.read(name)) is not None}
    measured = {int(step) for name, table in found.items() if name != EMERGENCE for step in table["step"].dropna()}
    return found if measured and max(measured) == steps[-1] and measured <= set(steps) else {}
