"""What a report is made of: runs under labels, and sections of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import plotly.graph_objects as go

from workbench.config import RunConfig
from workbench.figures.theme import variant_colour
from workbench.figures.viewer import run_labels


class ReportRun(Protocol):
    """What the report needs of a run (`workbench.runs.Run` has it)."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> RunConfig: ...
    @property
    def provenance(self) -> dict[str, Any]: ...
    def metrics(self) -> pd.DataFrame: ...
    def table(self, name: str) -> pd.DataFrame | None: ...
    def summary(self) -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class Entry:
    """A run and the label that tells it from the others in this report."""

    label: str
    run: ReportRun
    summary: Mapping[str, Any]

    @property
    def variant(self) -> str:
        return self.run.config.model.variant

    @property
    def colour(self) -> str:
        return variant_colour(self.variant)

    def table(self, name: str) -> pd.DataFrame | None:
        """A table of the run, its rows named by the label; None where there is none."""
        table = self.run.table(name)
        return None if table is None or table.empty else table.assign(run=self.label)


@dataclass(frozen=True)
class Block:
    """One piece of a section; `kind` says how the template shows it and which of the other fields it holds."""

    kind: str
    text: str = ""
    figure: go.Figure | None = None
    html: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A heading, its anchor in the page, and what stands under it."""

    id: str
    title: str
    blocks: list[Block]


def spread(runs: Sequence[Entry], most: int) -> list[int]:
    """Which runs are shown where there is room for `most`, in their order: of several variants, each has one before any has two."""
    seen: dict[str, int] = {}
    turns = []
    for number, entry in enumerate(runs):
        seen[entry.variant] = seen.get(entry.variant, 0) + 1
        turns.append((seen[entry.variant], number))
    return sorted(number for _, number in sorted(turns)[:most])


def entries(runs: Sequence[ReportRun]) -> list[Entry]:
    """The runs under labels that differ: the name, with the variant or a number where names are equal."""
    return [Entry(label, run, run.summary() or {}) for label, run in zip(run_labels(runs), runs, strict=True)]
