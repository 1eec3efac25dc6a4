"""Reading the tidy tables: what a figure needs is checked here, where the error can say what was meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import pandas as pd

from workbench.errors import UsageError, unknown_name

FORMATION_COLUMNS = ("run", "variant", "seed", "step", "metric", "value")
REPEATS = {
    "equal-repeats": "repeated random tokens, at one distance",
    "jittered-repeats": "repeated random tokens, at a distance that varies",
    "non-periodic-repeats": "repeated random tokens, at random places",
}
"""the tasks on which every model's heads are scored beside its own, in words"""


def require_columns(table: pd.DataFrame, columns: Iterable[str], name: str) -> None:
    """Raise UsageError unless `table` (called `name` in the message) has rows and all of `columns`."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UsageError(f"the {name} table lacks the columns {', '.join(missing)}; it has {', '.join(map(str, table.columns)) or 'none'}")
    if table.empty:
        raise UsageError(f"the {name} table has no rows; analyse the run first")


def where(table: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """The rows in which every named column has the given value; None: in which it is empty, as it is where the table lacks it."""
    mask = np.ones(len(table), dtype=bool)
    for column, value in equal.items():
        if value is None:
            mask &= table[column].isna().to_numpy(dtype=bool) if column in table else True
            continue
        mask &= cast(pd.Series, table[column] == value).to_numpy(dtype=bool, na_value=False)
    return cast(pd.DataFrame, table.loc[mask])


def numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    """A column as floating-point numbers, NaN where it has none; all NaN where the table lacks the column."""
    if column not in table:
        return np.full(len(table), np.nan)
    return cast(pd.Series, table[column]).to_numpy(dtype=float, na_value=np.nan)


def distinct(table: pd.DataFrame, column: str) -> list[str]:
    """The values of a column of names, each once, in the order of the table."""
    return [str(value) for value in dict.fromkeys(table[column])]


def metric_rows(formation: pd.DataFrame, metric: str, task: str | None = None) -> pd.DataFrame:
    """The rows of one metric (and task), in the order of steps.

    Args:
        formation: a formation table; concatenate those of several runs.
        metric: a name in its column `metric`.
        task: a name in its column `task`; None where the metric was computed on one task only in each run.

    Raises:
        UsageError: a column, the metric or the task is missing, or the task is ambiguous.
    """
    require_columns(formation, FORMATION_COLUMNS, "formation")
    rows = where(formation, metric=metric)
    if rows.empty:
        raise unknown_name("metric in the formation table:", metric, distinct(formation, "metric"))
    if task is not None:
        require_columns(rows, ["task"], "formation")
        tasks = distinct(rows, "task")
        rows = where(rows, task=task)
        if rows.empty:
            raise unknown_name(f"task of {metric} in the formation table:", task, tasks)
    elif "task" in rows and any(len(distinct(where(rows, run=run), "task")) > 1 for run in distinct(rows, "run")):
        raise UsageError(f"{metric} was computed on several tasks ({', '.join(distinct(rows, 'task'))}); name one with task=")
    return rows.sort_values(by="step", kind="stable")


def head_rows(formation: pd.DataFrame, metric: str, task: str | None = None) -> pd.DataFrame:
    """The rows of one metric of heads, with integer `layer` and `head`, and the head's name in a column `name` ("L1H3").

    Raises:
        UsageError: as `metric_rows`, or the metric is not one of heads.
    """
    require_columns(formation, [*FORMATION_COLUMNS, "layer", "head"], "formation")
    rows = metric_rows(formation, metric, task)
    layers, heads = numbers(rows, "layer"), numbers(rows, "head")
    if np.isnan(layers).any() or np.isnan(heads).any():
        raise UsageError(f"{metric} has no layer and head in every row; it is not a score of heads")
    names = [f"L{layer:.0f}H{head:.0f}" for layer, head in zip(layers, heads, strict=True)]
    return rows.assign(layer=layers.astype(int), head=heads.astype(int), name=names)


def score_tasks(formation: pd.DataFrame) -> list[str]:
    """The tasks on which heads were scored: the runs' own first, then the repeats."""
    if "layer" not in formation or "task" not in formation:
        return []
    scored = cast(pd.DataFrame, formation.loc[~np.isnan(numbers(formation, "layer"))])
    return sorted(distinct(scored, "task"), key=lambda task: task in REPEATS)
