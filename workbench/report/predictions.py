"""The report's section on predictions: the sample sequence of a few runs, coloured by what the last checkpoint gave each token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from workbench.errors import UsageError
from workbench.figures.predictions import MAX_POSITIONS, predictions_html, sequence_predictions
from workbench.report.blocks import Block, Entry, Section, spread

MAX_RUNS = 3
"""Runs whose predictions are drawn. Of several variants, each has one before any has two."""


def predictions_section(runs: Sequence[Entry]) -> Section | None:
    """One sequence of each run in CircuitsVis; None where no run predicts tokens."""
    found = []
    for entry in runs:
        predictions, tokens = entry.table("predictions"), entry.table("tokens")
        if predictions is not None and tokens is not None:
            with suppress(UsageError):  # tables of an earlier form
                found.append((entry, sequence_predictions(predictions, tokens)))
    chosen = spread([entry for entry, _ in found], MAX_RUNS)
    if not chosen:
        return None
    blocks = [Block("predictions-legend", data={"marked": any(found[number][1].answered for number in chosen)})]
    for number in chosen:
        entry, read = found[number]
        length = len(read.target_ranks)
        data = {"label": entry.label, "step": read.step, "sequence": read.sequence, "shown": min(length, MAX_POSITIONS), "length": length}
        blocks.append(Block("predictions", html=predictions_html(read, f"predictions-{number}", MAX_POSITIONS), data=data))
    left_out = [entry.label for number, (entry, _) in enumerate(found) if number not in chosen]
    if left_out:
        words = f"Predictions left out to keep this file small: {', '.join(left_out)}. Make a report of these runs alone to see them."
        blocks.append(Block("note", text=words))
    return Section("predictions", "Predictions", blocks)
