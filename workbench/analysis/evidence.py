"""A sentence and the rows of the tables that its numbers come from: whoever reads the sentence can look them up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

PLACES = ("layer", "head", "source_layer", "source_head", "position", "part", "condition", "intervention")


@dataclass
class Line:
    """A sentence, and the rows of the tables that its numbers come from."""

    tables: Mapping[str, pd.DataFrame]
    step: int
    task: str
    text: str = ""
    evidence: list[dict[str, Any]] = field(default_factory=list)

    def value(
        self,
        table: str,
        metric: str,
        place: Mapping[str, Any] = {},
        column: str = "value",
        *,
        task: str | None = None,
        cite: bool = True,
    ) -> float | None:
        """One number of one row, at the last checkpoint (of emergence: of the run); places that are not given are empty.
        None where there is no such row, or it has no such number."""
        rows = self.tables.get(table)
        if rows is None or rows.empty or column not in rows:
            return None
        chosen = (rows["metric"] == metric) & (rows["task"] == (task or self.task))
        if table != "emergence":
            chosen &= rows["step"] == self.step
        for name in PLACES:
            if name in rows:
                chosen &= rows[name].isna() if place.get(name) is None else (rows[name] == place[name]).fillna(False)
            elif place.get(name) is not None:
                return None
        found = rows.loc[chosen, column]
        if len(found) != 1 or pd.isna(found.iloc[0]):
            return None
        number = float(found.iloc[0])
        if cite:
            self.evidence.append({"table": table, "task": task or self.task, "metric": metric, "column": column, **place, "value": number})
        return number

    def interval(self, table: str, metric: str, place: Mapping[str, Any] = {}, style: str = ".2f") -> str:
        """A value with its 95 % interval, as text; empty where there is no such row."""
        value, low, high = (self.value(table, metric, place, column) for column in ("value", "ci_low", "ci_high"))
        if value is None:
            return ""
        return f"{value:{style}}" if low is None or high is None else f"{value:{style}} [{low:{style}}, {high:{style}}]"
