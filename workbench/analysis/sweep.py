"""Any set of sections over all checkpoints of a run, with one model that is loaded again and again."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
import torch
from tqdm import tqdm

from workbench.analysis import attention, circuit_matrices, formation
from workbench.analysis.data import SEQUENCES, AnalysisData
from workbench.analysis.emergence import Curves, events
from workbench.analysis.predictions import predictions_table
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
    only: str | Iterable[str] | None = None,
    steps: Sequence[int] | None = None,
    sequences: int = SEQUENCES,
    causal_every: int = 1,
    device: str = "cpu",
    write: bool = True,
    progress: bool = False,
    watch: Callable[[int, str], bool] | None = None,
) -> pd.DataFrame:
    """Measure a run, over its checkpoints (or those of `steps`), or a model, on its task or on repeated tokens.

    `only` names a section or metric, or lists several (default: all sections). Heads are named at the last checkpoint, on half of the
    sequences. For a run, the tables, patterns of sample sequences and the summary are also written to `run.tables`,
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
        return _of_model(target, AnalysisData.draw(config, task, sequences=sequences), sections, kept)
    chosen_steps = target.steps if steps is None else sorted(set(steps))
    if steps is not None and not chosen_steps:
        raise UsageError("steps names no checkpoint; leave it out for all")
    data = AnalysisData.of_run(target, sequences)
    model = target.model(chosen_steps[-1] if chosen_steps else None, device)
    with _evaluating(model):
        roles, _ = _roles(model, data)
    swept = _Sweep(target, model, data, roles, chosen_steps, sections, kept)
    swept.measure(causal_every, progress, watch)
    result = swept.tables()
    if write:
        _write(target, result, swept, data, roles, chosen_steps)
    return compact(pd.concat(result.values(), ignore_index=True) if result else tabulate([]))


def _of_model(target: HookedTransformer, data: AnalysisData, sections: list[str], kept: set[str] | None) -> pd.DataFrame:
    """The table of a single model."""
    model = _in_single_precision(target)
    with _evaluating(model):
        roles, rows = _roles(model, data)
        rows = [row for section in sections for row in (rows if section == "formation" else measure_of(section)(model, data, roles))]
    return compact(tabulate(_kept(rows, kept), run=None, variant=target.config.variant, seed=target.config.seed, step=None))


class _Sweep:
    """The checkpoints of a run one after another, loaded into one model, and what was measured so far."""

    def __init__(
        self,
        run: Run,
        model: HookedTransformer,
        data: AnalysisData,
        roles: Roles,
        steps: list[int],
        sections: list[str],
        kept: set[str] | None,
    ) -> None:
        self.run, self.model, self.data, self.roles, self.steps, self.kept = run, model, data, roles, steps, kept
        self.names = {"run": run.name, "variant": model.config.variant, "seed": model.config.seed}
        self.parts: dict[str, list[pd.DataFrame]] = {section: [] for section in sections}
        self.cases: dict[str, list[pd.DataFrame]] = {}
        self.curves = Curves(roles, data.own, model.config)
        self.patterns = attention.PatternsOverSteps.of_samples(data, steps, model.config.n_layers * model.config.n_heads)

    def measure(self, causal_every: int, progress: bool, watch: Callable[[int, str], bool] | None) -> None:
        """Every section at every checkpoint, the section causal at every n-th, counted back from the last."""
        bar = tqdm(
            self.steps, desc=f"analysing {self.run.name}", unit="checkpoint", disable=not progress, file=sys.stderr,
            mininterval=0.1 if sys.stderr.isatty() else 20,
        )  # fmt: skip
        for left, step in zip(range(len(self.steps) - 1, -1, -1), bar, strict=True):
            self.run.load_weights(self.model, step)
            for section in self.parts:
                if section != "causal" or left % causal_every == 0:
                    self._measure(section, step, last=not left)
            with _evaluating(self.model):
                self.patterns.add(step, self.model)
            done = len(self.steps) - left
            if watch is not None and watch(done, ""):
                raise KeyboardInterrupt(f"stopped at checkpoint {done} of {len(self.steps)}; nothing was written")

    def _measure(self, section: str, step: int, *, last: bool) -> None:
        with _evaluating(self.model):
            rows = list(measure_of(section)(self.model, self.data, self.roles))
        self.curves.add(step, rows)
        for name, table in (row[CASES] for row in rows if CASES in row):
            self.cases.setdefault(name, []).append((table if last else table.head(CASES_KEPT)).assign(**self.names, step=step))
        self.parts[section].append(tabulate(_kept(rows, self.kept), **self.names, step=step))

    def tables(self) -> dict[str, pd.DataFrame]:
        """The table of each section that has rows, and the events on their curves."""
        result = {section: pd.concat(parts, ignore_index=True) for section, parts in self.parts.items() if parts}
        if len(self.steps) > 1:
            result[EMERGENCE] = tabulate(_kept(events(self.curves), self.kept), **self.names)
        return {name: table for name, table in result.items() if len(table)}

    def case_tables(self) -> dict[str, pd.DataFrame]:
        """The tables of single cases."""
        return {name: pd.concat(parts) for name, parts in self.cases.items()}


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


def _write(run: Run, result: dict[str, pd.DataFrame], swept: _Sweep, data: AnalysisData, roles: Roles, steps: Sequence[int]) -> None:
    held = _held(run, steps)
    if EMERGENCE in held and EMERGENCE in result:
        # Events whose curves were not measured this time are still those of these checkpoints.
        others = held[EMERGENCE][~held[EMERGENCE]["part"].isin(result[EMERGENCE]["part"])]
        result[EMERGENCE] = pd.concat([result[EMERGENCE], others], ignore_index=True)
    for name, table in (*result.items(), *swept.case_tables().items()):
        run.tables.write(name, compact(table))
    matrices = circuit_matrices.matrices_table(swept.model, data, roles)
    run.tables.replace("circuit_matrices", matrices.assign(**swept.names, step=steps[-1]))
    run.tables.write_large("attention", swept.patterns.table(), **swept.names)
    run.tables.write("tokens", swept.patterns.tokens_table().assign(**swept.names))
    predictions = predictions_table(swept.model, data, len(swept.patterns.batch))
    run.tables.replace("predictions", predictions.assign(**swept.names, step=steps[-1]))
    run.tables.write_summary(summarise(held | result, data, roles))


def _held(run: Run, steps: Sequence[int]) -> dict[str, pd.DataFrame]:
    """The tables of sections that an earlier analysis of the same checkpoints left; none where it was of others."""
    found = {name: table for name in (*SECTIONS, EMERGENCE) if (table := run.tables.read(name)) is not None}
    measured = {int(step) for name, table in found.items() if name != EMERGENCE for step in table["step"].dropna()}
    return found if measured and max(measured) == steps[-1] and measured <= set(steps) else {}
