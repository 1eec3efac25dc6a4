"""When in-context learning forms, as a function of one or two fields of the configuration, with and without a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import UsageError, unknown_name
from workbench.figures import theme
from workbench.figures.tables import distinct, numbers, require_columns, where

LATE = "Blues"
"""later is darker"""
DIFFERENCE = [[0.0, theme.BLUE], [0.5, "#F3F3F1"], [1.0, theme.VERMILION]]
REFERENCE = "none"


def formation_map(sweep: pd.DataFrame, fields: Sequence[str]) -> go.Figure:
    """The step at which in-context learning forms in each cell, the mean over its seeds: a heat map a variant for two fields and, where
    the variant `none` is there, one of each other variant's difference from it, paired by seed; a line a variant for one field.

    A cell in which a seed has not formed has no mean: it says how many of its seeds have.

    Args:
        sweep: the table `sweep` of a sweep: variant, seed, status, formed_step and the fields; unfinished and failed members are left out.
        fields: one or two of its columns.

    Raises:
        UsageError: a column is missing, no member is finished, or there are more fields than two, or none.
    """
    require_columns(sweep, ["variant", "seed", "status", "formed_step"], "sweep")
    if not 1 <= len(fields) <= 2:
        raise UsageError(f"a formation map has one or two fields, got {len(fields)}: {', '.join(fields) or 'none'}")
    for name in fields:
        if name not in sweep:
            raise unknown_name("column in the sweep table:", name, [str(column) for column in sweep.columns])
    finished = where(sweep, status="finished")
    if finished.empty:
        raise UsageError("the sweep table has no finished member; train it first")
    return _lines(finished, fields[0]) if len(fields) == 1 else _maps(finished, fields[0], fields[1])


def _lines(table: pd.DataFrame, name: str) -> go.Figure:
    places = _levels(table, name)
    figure = go.Figure()
    missing: list[str] = []
    for variant in distinct(table, "variant"):
        own = where(table, variant=variant)
        cells = [_Cell(numbers(own.loc[(own[name] == place).to_numpy(dtype=bool)], "formed_step")) for place in places]
        missing += [f"{variant} at {place}: {cell.words()}" for place, cell in zip(places, cells, strict=True) if cell.censored and cell.n]
        colour = theme.variant_colour(variant)
        bars = {"type": "data", "array": [cell.half for cell in cells], "color": colour, "thickness": 1.4, "width": 4}
        look: dict[str, Any] = {"mode": "lines+markers", "line": {"color": colour, "dash": theme.variant_dash(variant)}, "error_y": bars}
        hover = f"{theme.as_text(variant)}, {name} %{{x}}: step %{{y:.0f}}<extra></extra>"
        figure.add_scatter(x=[str(place) for place in places], y=[cell.mean for cell in cells], name=variant, hovertemplate=hover, **look)
    figure.update_xaxes(title_text=name, type="category")
    figure.update_yaxes(title_text="first step at 95% in-context accuracy", rangemode="tozero")
    words = "The first evaluation at 95% in-context accuracy: mean over seeds, with the 95% t interval."
    words += f" Not drawn, because a seed has not formed: {'; '.join(missing)}." if missing else ""
    return theme.finish(figure, f"When in-context learning forms, by {theme.as_text(name)}", words, height=420)


def _maps(table: pd.DataFrame, x: str, y: str) -> go.Figure:
    across, up = _levels(table, x), _levels(table, y)
    variants = distinct(table, "variant")
    compared = [variant for variant in variants if variant != REFERENCE] if REFERENCE in variants else []
    titles = [theme.as_text(variant) for variant in variants] + [f"{theme.as_text(variant)} − {REFERENCE}" for variant in compared]
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.06)
    cells = {
        variant: [[_Cell.of(where(table, **{"variant": variant, x: column, y: row})) for column in across] for row in up]
        for variant in variants
    }
    apart = {
        variant: [[_Cell(_paired(where(table, **{x: column, y: row}), variant)) for column in across] for row in up] for variant in compared
    }
    names = {"x": [str(place) for place in across], "y": [str(place) for place in up]}
    for number, (variant, grid) in enumerate([*cells.items(), *apart.items()]):
        difference = number >= len(variants)
        words = [[cell.words(signed=difference) for cell in row] for row in grid]
        values = [[cell.mean for cell in row] for row in grid]
        hover = f"{theme.as_text(variant)}<br>{x} %{{x}}, {y} %{{y}}: %{{text}}<extra></extra>"
        look: dict[str, Any] = {"texttemplate": "%{text}", "text": words, "hovertemplate": hover, "xgap": 2, "ygap": 2}
        axis = "coloraxis2" if difference else "coloraxis"
        figure.add_trace(go.Heatmap(z=values, coloraxis=axis, **names, **look), row=1, col=number + 1)
    figure.update_xaxes(title_text=x, type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False)
    figure.update_yaxes(title_text=y, row=1, col=1)
    bar: dict[str, Any] = {"thickness": 10, "outlinewidth": 0, "len": 0.45, "yanchor": "middle"}
    figure.update_layout(coloraxis={"colorscale": LATE, "colorbar": {**bar, "title": {"text": "step", "side": "top"}, "y": 0.75}})
    if compared:
        reach = max((abs(cell.mean) for grid in apart.values() for row in grid for cell in row if cell.mean is not None), default=1.0)
        scale = {"colorscale": DIFFERENCE, "cmin": -reach, "cmax": reach}
        figure.update_layout(coloraxis2={**scale, "colorbar": {**bar, "title": {"text": "difference", "side": "top"}, "y": 0.25}})
    words = (
        "The first evaluation at 95% in-context accuracy: mean over the seeds of a cell, ± half of its 95% t interval. Where a seed has not"
        " formed there is no mean, but how many have."
    )
    words += " Difference: paired by seed; blue where the stream is earlier." if compared else ""
    title = f"When in-context learning forms, by {theme.as_text(x)} and {theme.as_text(y)}"
    return theme.finish(figure, title, words, height=150 + 64 * max(3, len(up)))


class _Cell:
    """The seeds of one cell: their mean and half of its interval, or how many have formed."""

    def __init__(self, steps: np.ndarray) -> None:
        self.n, self.censored = len(steps), int(np.isnan(steps).sum())
        known = self.n > 0 and not self.censored
        self.mean = float(steps.mean()) if known else None
        self.half = _half(steps) if known and self.n > 1 else None

    @classmethod
    def of(cls, rows: pd.DataFrame) -> _Cell:
        return cls(numbers(rows, "formed_step"))

    def words(self, *, signed: bool = False) -> str:
        if self.mean is None:
            return f"{self.n - self.censored} of {self.n}" if self.n else ""
        half = f" ± {self.half:.0f}" if self.half is not None else ""
        return (f"{self.mean:+.0f}" if signed else f"{self.mean:.0f}") + half


def _half(values: np.ndarray) -> float:
    from workbench.analysis.seeds import t_interval

    found = t_interval(values)
    return found.ci_high - found.mean


def _paired(rows: pd.DataFrame, variant: str) -> np.ndarray:
    """Steps of a variant less those of the reference, for the seeds that both have; nan where one has not formed."""
    steps = {name: where(rows, variant=name).set_index("seed")["formed_step"] for name in (variant, REFERENCE)}
    return (steps[variant] - steps[REFERENCE]).reindex(steps[variant].index.intersection(steps[REFERENCE].index)).to_numpy(dtype=float)


def _levels(table: pd.DataFrame, name: str) -> list[Any]:
    values = list(dict.fromkeys(cast(Any, table[name]).tolist()))
    return sorted(values) if all(isinstance(value, int | float) for value in values) else values
