"""Which runs may be compared, and what a metric is in each of them: from the log of training, or from a table of the analysis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from workbench.errors import UsageError, unknown_name
from workbench.runs import Run

LOG, EMERGENCE = "metrics.jsonl", "emergence"
PLACES = ("task", "part", "condition", "intervention", "layer", "head", "source_layer", "source_head", "position")
"""columns that choose rows of a metric"""
OVER = ("first", "mean", "max", "min")
EVENTS = ("threshold_step", "emergence_step", "overtaking_step")
"""metrics that are the step of an event; no row where the heads that it is about are not there at the end of the run"""
TOLD = ("model.stream", "model.positional_embedding_type", "model.seed", "train.lr", "train.data_seed", "train.steps", "train.checkpoint")
"""fields in which compared runs differ by design, or that their variant, seed and learning rate tell; by their beginnings"""


def members_of(runs: str | Path | Run | Iterable[str | Path | Run]) -> list[Run]:
    """The runs, each once."""
    found: dict[Path, Run] = {}
    for target in [runs] if isinstance(runs, (str, Path, Run)) else runs:
        below = [target] if isinstance(target, Run) else _find(Path(target))
        found |= {run.path.resolve(): run for run in below}
    members = list(found.values())
    if not members:
        raise UsageError("there is nothing to compare: no run was given")
    _require_one_task(members)
    _require_one_each(members)
    return members


def _find(target: Path) -> list[Run]:
    if not target.exists():
        raise UsageError(f"there is no {target}")
    found = Run.find(target)
    if not found:
        raise UsageError(f"{target} is not a run and holds none (a run has a config.yaml)")
    return found


def key(run: Run) -> tuple[str, float, int]:
    """What tells a run from the others: its variant, its learning rate (NaN where it was not trained here), its seed."""
    lr = math.nan if run.config.train is None else run.config.train.lr
    return run.config.model.variant, lr, run.config.model.seed


def _require_one_task(members: Sequence[Run]) -> None:
    first = members[0]
    for run in members[1:]:
        different = [text for text in first.config.differences(run.config) if text.startswith("task")]
        if different:
            raise UsageError(
                f"{first.path} and {run.path} are of different tasks ({'; '.join(different[:3])}); runs of one task can be compared"
            )


def _require_one_each(members: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in members:
        variant, lr, seed = key(run)
        name = f"{variant}, seed {seed}" + ("" if math.isnan(lr) else f", lr {lr:g}")
        if (other := seen.setdefault(name, run)) is not run:
            different = other.config.differences(run.config)
            why = f"they differ in: {'; '.join(different[:3])}" if different else "they are of one configuration"
            raise UsageError(f"{other.path} and {run.path} are both {name} ({why}); name the runs to compare, one of each")


def other_differences(members: Sequence[Run]) -> list[str]:
    """Settings other than variant, seed and learning rate in which runs differ: a difference may be theirs."""
    first, seen = members[0], dict[str, str]()
    for run in members[1:]:
        for text in first.config.differences(run.config):
            name = text.partition(" ")[0]
            if not name.startswith(TOLD):
                seen.setdefault(name, f"{text} in {run.path}")
    return [f"The runs also differ in {'; '.join(seen.values())}: a difference may be due to that."] if seen else []


def curves_of(members: Sequence[Run], metric: str, place: Mapping[str, Any], over: str | None) -> tuple[pd.DataFrame, str]:
    """The metric's curve in each run: variant, lr, seed, run, step, value; and where it stands."""
    if over is not None and over not in OVER:
        raise unknown_name("choice of several rows:", over, OVER)
    if unknown := [name for name in place if name not in PLACES]:
        raise unknown_name("column", unknown[0], PLACES)
    if not place:
        logs = [run.metrics() for run in members]
        if all(metric in log for log in logs):
            return _stacked(members, [log.dropna(subset="step")[["step", metric]].rename(columns={metric: "value"}) for log in logs]), LOG
    source = _table_of(members, metric)
    curves = [_rows(run, source, metric, place, over) for run in members]
    if source == EMERGENCE and metric in EVENTS:
        if all(curve.empty for curve in curves):
            raise _no_such_event(members, metric)
        # An analysed run without a row: the heads that the event is about were not there at its end.
        curves = [
            _absent(run) if curve.empty and run.table(source) is not None else curve for run, curve in zip(members, curves, strict=True)
        ]
    return _stacked(members, curves), source


def _absent(run: Run) -> pd.DataFrame:
    return pd.DataFrame({"step": [float(run.steps[-1] if run.steps else 0)], "value": [math.nan]})


def _no_such_event(members: Sequence[Run], metric: str) -> UsageError:
    tables = [table for run in members if (table := run.table(EMERGENCE)) is not None]
    held = pd.concat([table.loc[table["metric"] == metric, ["part"]] for table in tables])
    return UsageError(
        f"no run has such a row of {metric}; its parts are: {', '.join(sorted({str(part) for part in held['part'].dropna()}))}"
    )


def _stacked(members: Sequence[Run], curves: Sequence[pd.DataFrame]) -> pd.DataFrame:
    parts = []
    for run, curve in zip(members, curves, strict=True):
        variant, lr, seed = key(run)
        if not curve.empty:
            parts.append(curve[["step", "value"]].astype("float64").assign(variant=variant, lr=lr, seed=seed, run=str(run.path)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["step", "value", "variant", "lr", "seed", "run"])


def _table_of(members: Sequence[Run], metric: str) -> str:
    """The table that holds a metric, found in the first run that has it."""
    known: set[str] = set()
    for run in members:
        for name in run.tables.names:
            if (table := run.table(name)) is None or "metric" not in table:
                continue
            held = set(table["metric"])
            if metric in held:
                return name
            known |= held
        log = run.metrics()
        known |= set(log.columns) - {"step"}
    if metric in known:
        missing = next(run for run in members if metric not in run.metrics())
        raise UsageError(f"{missing.path} has no {metric} in its {LOG}, and no table; run: workbench analyze {missing.path}")
    raise unknown_name("metric in these runs:", metric, known)


def _rows(run: Run, source: str, metric: str, place: Mapping[str, Any], over: str | None) -> pd.DataFrame:
    """The rows of a metric in one run: one for each step."""
    none = pd.DataFrame({"step": [], "value": []})
    table = run.table(source)
    if table is None:
        return none
    table = cast(pd.DataFrame, table[table["metric"] == metric])
    if table.empty:
        return none
    own = run.config.task.name if run.config.task is not None else None
    if "task" not in place and "task" in table and own in set(table["task"]):
        place = {"task": own, **place}
    for name, wanted in place.items():
        if name not in table:
            if wanted is not None:
                raise UsageError(f"{metric} has no {name} in the table {source}")
            continue
        held = table[name]
        chosen = held.isna() if wanted is None else held.astype("string").fillna("") == str(wanted)
        if not chosen.any():
            if source == EMERGENCE:
                return none
            raise unknown_name(f"{name} of {metric} in {run.path}:", str(wanted), {str(value) for value in held.dropna()})
        table = cast(pd.DataFrame, table[chosen])
    if source == EMERGENCE:
        table = table.assign(step=_absent(run)["step"].iloc[0])
    several = table.duplicated("step")
    if several.any() and over is None:
        varying = [name for name in PLACES if name in table and table[name].nunique(dropna=False) > 1]
        options = [f"--{name.replace('_', '-')} ({_listed(table[name])})" for name in varying]
        raise UsageError(f"{metric} has several rows in {run.path}; choose by {', '.join(options)}, or pass --over {', '.join(OVER)}")
    return table.groupby("step")["value"].agg(over or "first").reset_index()


def _listed(column: pd.Series) -> str:
    names = ["none" if pd.isna(value) else str(value) for value in column.unique()]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def with_values(members: Sequence[Run], held: pd.DataFrame, metric: str) -> tuple[list[Run], list[str]]:
    """The runs of those variants that have the metric; a variant in which only some runs have it needs an analysis."""
    there = {(row.variant, row.seed) for row in held[["variant", "seed"]].drop_duplicates().itertuples()}
    missing = [run for run in members if key(run)[::2] not in there]
    gone: list[str] = []
    for variant in dict.fromkeys(key(run)[0] for run in missing):
        lacking = [run for run in missing if key(run)[0] == variant]
        if len(lacking) < sum(key(run)[0] == variant for run in members):
            raise UsageError(f"{lacking[0].path} has no {metric}; run: workbench analyze {lacking[0].path}")
        gone.append(variant)
    left = [run for run in members if key(run)[0] not in gone]
    notes = [f"Left out, without any value of {metric} (nothing to measure, or not analysed): {', '.join(gone)}."] if gone else []
    return left, notes
