"""Heat map of the scores of all heads, layers by heads, with a slider over training steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.head_curves import SCORE_TITLES
from workbench.figures.tables import distinct, head_rows, numbers, where

CELL_HEIGHT = 46
"""Pixels of one layer in a panel."""


def score_heat_map(
    formation: pd.DataFrame, *, task: str | None = None, metrics: Sequence[str] | None = None, step: int | None = None
) -> go.Figure:
    """Scores of every head at one step: a row of panels for each run, a column for each metric, and a slider over the steps.

    Args:
        formation: a formation table with scores of heads, in [0, 1].
        task: the sequences on which heads were scored; needed where there are several.
        metrics: the columns of panels; default: those of `SCORE_TITLES` that the table holds.
        step: shown first; default: the last.

    Raises:
        UsageError: there is no score of heads or no such step, or as `head_rows`.
    """
    if metrics is None:
        held = distinct(formation, "metric") if "metric" in formation else []
        metrics = [metric for metric in SCORE_TITLES if metric in held]
        if not metrics:
            raise UsageError(f"the formation table holds none of the scores {', '.join(SCORE_TITLES)}")
    rows = pd.concat([head_rows(formation, metric, task) for metric in metrics])
    steps = sorted({int(value) for value in rows["step"]})
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UsageError(f"the formation table has no step {step}; it has {steps[0]} to {steps[-1]}, {len(steps)} in all")
    runs = distinct(rows, "run")
    panels = [where(rows, run=run, metric=metric) for run in runs for metric in metrics]
    layers = [f"L{layer}" for layer in range(int(numbers(rows, "layer").max()) + 1)]
    heads = [f"H{head}" for head in range(int(numbers(rows, "head").max()) + 1)]
    scores = {at: [_grid(panel, at, len(layers), len(heads)) for panel in panels] for at in steps}
    figure = _panels(runs, metrics, layers, heads, scores[step])
    # A slider step replaces the numbers of every panel; nothing is drawn more than once.
    slider = [{"method": "restyle", "label": str(at), "args": [{"z": scores[at]}, list(range(len(panels)))]} for at in steps]
    look: dict[str, Any] = {"currentvalue": {"prefix": "training step ", "font": {"size": 14}}, "pad": {"t": 58, "b": 10}, "len": 1, "x": 0}
    figure.update_layout(sliders=[{"active": steps.index(step), "steps": slider, **look}])
    caption = (
        "Fraction of attention between 0 and 1, averaged over evaluation sequences; the colours span the whole range at every step."
        " Drag the slider to follow the heads through training. An empty cell has no value at that step."
        " Duplicate-token score: mean attention to earlier occurrences of the present token."
    )
    height = 236 + len(runs) * (CELL_HEIGHT * len(layers) + 46)
    where_scored = f" on {theme.as_text(task)} sequences" if task else ""
    return theme.finish(figure, f"Head scores{where_scored}", caption, height).update_layout(margin={"b": 146, "t": 84})


def _grid(panel: pd.DataFrame, step: int, n_layers: int, n_heads: int) -> list[list[float | None]]:
    """The scores of one panel at `step`, [layer][head]; None where the table has none."""
    grid: list[list[float | None]] = [[None] * n_heads for _ in range(n_layers)]
    for row in where(panel, step=step).dropna(subset="value").itertuples():
        grid[int(row.layer)][int(row.head)] = float(row.value)  # type: ignore[arg-type]
    return grid


def _panels(
    runs: Sequence[str], metrics: Sequence[str], layers: list[str], heads: list[str], grids: Sequence[list[list[float | None]]]
) -> go.Figure:
    """The heat maps without their slider: runs are rows, metrics columns."""
    layout: dict[str, Any] = {"shared_yaxes": True, "shared_xaxes": True, "horizontal_spacing": 0.03, "vertical_spacing": 0.14 / len(runs)}
    titles: dict[str, Any] = {
        "column_titles": [_in_two_lines(SCORE_TITLES.get(metric, metric)) for metric in metrics],
        "row_titles": [theme.as_text(run) for run in runs],
    }
    figure = make_subplots(rows=len(runs), cols=len(metrics), **titles, **layout)
    look: dict[str, Any] = {"coloraxis": "coloraxis", "texttemplate": "%{z:.2f}", "xgap": 2, "ygap": 2}
    panels = [(row, column) for row in range(len(runs)) for column in range(len(metrics))]
    for (row, column), grid in zip(panels, grids, strict=True):
        hover = (
            f"%{{y}}%{{x}} of {theme.as_text(runs[row])}<br>{SCORE_TITLES.get(metrics[column], metrics[column])} %{{z:.4f}}<extra></extra>"
        )
        figure.add_heatmap(z=grid, x=heads, y=layers, hovertemplate=hover, hoverongaps=False, row=row + 1, col=column + 1, **look)
    figure.update_xaxes(showgrid=False, showline=False, ticks="")
    figure.update_xaxes(title={"text": "head", "standoff": 2}, row=len(runs))
    figure.update_yaxes(showgrid=False, showline=False, ticks="", autorange="reversed")
    figure.update_yaxes(title_text="layer", col=1)
    bar = {"title": {"text": "score", "side": "top"}, "thickness": 12, "outlinewidth": 0, "x": 1.05, "tickvals": [0, 0.5, 1]}
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 1, "colorscale": theme.SCORE_SCALE, "colorbar": bar})
    return figure


def _in_two_lines(title: str) -> str:
    """A panel's title, broken near its end: four panels stand side by side in a narrow window."""
    first, last = title.split(", ") if ", " in title else title.rsplit(" ", 1) if " " in title else (title, "")
    return f"{first}<br>{last}" if last else title
