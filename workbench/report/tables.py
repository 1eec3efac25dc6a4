"""The numbers behind a report, as tables to sort, search and save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from workbench.report.blocks import Block, Entry, Section

TITLES = {
    "emergence": "Events: when each part of the circuit appeared",
    "formation": "Formation: losses, accuracy and head scores",
    "circuits": "Circuits: what the weights say",
    "probes": "Probes: where the largest attention falls",
    "stream": "Stream: what the wire carries, and what cutting it costs",
    "causal": "Causal: what is lost without a head or an edge",
    "attribution": "Attribution: what writes the answer",
    "hijack": "Hijack: the context against the bigrams",
    "length": "Length: by position",
}
"""table -> what a reader calls it; in this order"""
MAX_ROWS = 4000
"""rows of one table in a page"""
DIGITS = 6
"""significant digits of a number in a page"""


def tables_section(runs: Sequence[Entry]) -> Section | None:
    """Every table of the analysis at the last step of its run; events, which belong to no step, whole."""
    blocks = [block for name, title in TITLES.items() if (block := _block(runs, name, title)) is not None]
    if not blocks:
        return None
    words = (
        "Open a table to sort it by a column, to keep the rows that hold some words, and to save these as CSV. Each holds the last "
        f"checkpoint of its runs, to {DIGITS} digits; the runs' folders hold every step in full, as parquet and CSV."
    )
    return Section("tables", "Tables", [Block("note", text=words), *blocks])


def _block(runs: Sequence[Entry], name: str, title: str) -> Block | None:
    parts = [_at_the_end(table) for entry in runs if (table := entry.table(name)) is not None]
    if not parts:
        return None
    table = pd.concat(parts, ignore_index=True).dropna(axis="columns", how="all")
    rows = table.head(MAX_ROWS)
    cut = f", the first {len(rows)} here" if len(rows) < len(table) else ""
    data = {"name": name, "columns": [str(column) for column in rows], "rows": _cells(rows)}
    return Block("data", text=f"{title} ({len(table)} rows{cut})", data=data)


def _at_the_end(table: pd.DataFrame) -> pd.DataFrame:
    if "step" not in table or table["step"].isna().all():
        return table
    return cast(pd.DataFrame, table.loc[table["step"] == table["step"].max()])


def _cells(table: pd.DataFrame) -> list[list[Any]]:
    """Rows of plain numbers and texts; None where there is no value."""
    columns = [[_cell(value) for value in table[name].tolist()] for name in table]
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value if isinstance(value, int | str) else str(value)
