"""The rows of the tidy tables: which columns there are, and how an estimate becomes one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from workbench.analysis.estimates import Estimate, PerSequence

Row = dict[str, Any]

ALWAYS = ["run", "variant", "task", "seed", "step", "layer", "head", "metric", "value", "ci_low", "ci_high", "n"]
OPTIONAL = {
    "source_layer": "Int64",
    "source_head": "Int64",
    "position": "Int64",
    "part": "object",
    "condition": "object",
    "intervention": "object",
    "baseline": "float64",
    "selection": "float64",
}
"""columns that a table has where one of its rows has a value for them, and their types:

source_layer, source_head   the earlier head of a pair, or the layer where a stream comes from
position                    the position in the sequence, from 0
part                        which part of a sum or which group of heads, as the metric's docstring says
condition                   which of the sequences or prompts the value is over, as the metric's docstring says; all, where it is empty
intervention                what was done to the model (zero, mean, resample, ...)
baseline                    what the metric gives where there is nothing to find, as the metric's docstring says
selection                   the same score on the other half of the sequences, by which heads are named
"""
COLUMNS = [*ALWAYS, *OPTIONAL]
INTEGERS = ("seed", "step", "layer", "head", "n")

SAMPLE = "sample"
"""A row may carry what each sequence adds to its value (a PerSequence of one number); it is no column."""
CASES = "cases"
"""One row of a section may carry a table of single cases, as (name, DataFrame): its first rows a fair sample of all. No column either."""
CASES_KEPT = 240
"""cases that are kept of each checkpoint; of the last, all"""


def numbers(estimate: Estimate, *index: int) -> Row:
    """Value, interval and n of one entry of an estimate."""
    value, low, high = (part[index].item() for part in (estimate.value, estimate.ci_low, estimate.ci_high))
    return {"value": value, "ci_low": low, "ci_high": high, "n": estimate.n}


def each_row(sample: PerSequence, *columns: str) -> Iterator[Row]:
    """A row for each thing that a sample averages, with its index in the columns; a column "" stays unnamed."""
    estimate = sample.estimate()
    for index in itertools.product(*(range(size) for size in estimate.value.shape)):
        place = {column: at for column, at in zip(columns, index, strict=True) if column}
        yield {**place, **numbers(estimate, *index), SAMPLE: sample.part(*index)}


def tabulate(rows: Iterable[Row], **names: Any) -> pd.DataFrame:
    """A tidy table of rows, with `names` (run, variant, seed, step) in every one."""
    table = pd.DataFrame(list(rows), columns=COLUMNS).assign(**names)
    return table.astype({name: "Int64" for name in INTEGERS} | OPTIONAL)


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """The table without those optional columns that are empty."""
    return table.drop(columns=[name for name in OPTIONAL if name in table and table[name].isna().all()])
