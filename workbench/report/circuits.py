"""The report's sections on weights and wires: the matrices of the circuit, and what a stream carries."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from workbench.figures.circuit import HEAD_NAME
from workbench.figures.matrices import circuit_matrices
from workbench.figures.stream import own_and_streamed, split_rows, wire_cuts
from workbench.figures.tables import where
from workbench.report.blocks import Block, Entry, Section

MAX_MATRIX_RUNS = 3
"""Runs whose matrices are drawn: those of one run of 65 tokens take some 100 KB."""
MAX_STREAM_RUNS = 4
"""Runs whose wire is drawn, a row of panels each."""


def matrices_section(runs: Sequence[Entry]) -> Section | None:
    """What the induction head and the previous-token head of each run do with tokens and positions, by their weights."""
    tables = {entry.label: table for entry in runs if (table := entry.table("circuit_matrices")) is not None}
    blocks = [Block("figure", figure=circuit_matrices(table)) for table in list(tables.values())[:MAX_MATRIX_RUNS]]
    return Section("matrices", "Circuit matrices", [*blocks, *_left_out(list(tables)[MAX_MATRIX_RUNS:], "matrices")]) if blocks else None


def stream_section(runs: Sequence[Entry]) -> Section | None:
    """Own and streamed parts of the induction head, and what cutting the wire costs, of the runs that have a wire."""
    tables = {entry.label: (entry, table) for entry in runs if (table := entry.table("stream")) is not None}
    drawn = dict(list(tables.items())[:MAX_STREAM_RUNS])
    splits = [
        split_rows(table, entry.table("circuits"), heads[0])
        for entry, table in drawn.values()
        if (heads := [head for head in entry.summary.get("induction_heads", ()) if HEAD_NAME.fullmatch(head)])
    ]
    cuts = [table for _, table in drawn.values() if not where(table, metric="cut_accuracy_share", layer=None, head=None).empty]
    figures = [
        draw(pd.concat(found, ignore_index=True))
        for draw, found in ((own_and_streamed, [rows for rows in splits if len(rows)]), (wire_cuts, cuts))
        if found
    ]
    blocks = [Block("figure", figure=figure) for figure in figures]
    return Section("stream", "Stream", [*blocks, *_left_out(list(tables)[MAX_STREAM_RUNS:], "streams")]) if blocks else None


def _left_out(labels: Sequence[str], what: str) -> list[Block]:
    if not labels:
        return []
    words = f"The {what} of these runs are left out to keep this file small: {', '.join(labels)}."
    return [Block("note", text=f"{words} Make a report of these runs alone to see them.")]
