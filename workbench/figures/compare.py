"""Variants beside a reference: mean curves over seeds with their bands, and the differences seed by seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures import theme
from workbench.figures.tables import distinct, numbers, require_columns, where

COLUMNS = 3
"""panels beside each other"""
ROW = 46
"""pixels of a variant among the differences"""


def comparison_curves(curves: pd.DataFrame, *, metric: str, reference: str | None = None, threshold: float | None = None) -> go.Figure:
    """Mean curves over seeds, a panel for each variant with the reference behind it.

    Args:
        curves: variant, step, mean, ci_low, ci_high, n (see analysis/compare.py, `curve_means`).
        metric: the name of what the curves show.
        reference: the variant that is drawn in every panel.
        threshold: drawn as a dashed line.

    Raises:
        UsageError: a column is missing, or there are no rows.
    """
    require_columns(curves, ["variant", "step", "mean", "ci_low", "ci_high", "n"], "curves")
    variants = distinct(curves, "variant")
    panels = [name for name in variants if name != reference] or variants
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    titles = [_label(where(curves, variant=name), name) for name in panels] if len(panels) > 1 else None
    spacing: dict[str, Any] = {"horizontal_spacing": 0.05, "vertical_spacing": 0.28 / rows, "shared_xaxes": "all", "shared_yaxes": "all"}
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, **spacing)
    shown = set(panels) if len(panels) > 1 else set[str]()  # a panel's title names its variant
    for number, name in enumerate(panels):
        place: dict[str, Any] = {"row": number // columns + 1, "col": number % columns + 1}
        behind = [] if reference is None or reference not in variants else [reference]
        for variant in dict.fromkeys([*behind, name]):
            dash = "solid" if len(panels) > 1 else theme.variant_dash(variant)
            _add_mean(figure, where(curves, variant=variant), variant, dash, legend=variant not in shown, place=place)
            shown.add(variant)
        if threshold is not None:
            figure.add_hline(y=threshold, line={"color": theme.GREY, "dash": "dash", "width": 1}, **place)
        if number + columns >= len(panels):
            figure.update_xaxes(title_text="training step", showticklabels=True, **place)
        if place["col"] == 1:
            figure.update_yaxes(title_text=theme.as_text(metric.replace("_", " ")), **place)
    figure.update_xaxes(nticks=6 if columns < COLUMNS else 4)
    caption = "Mean over seeds; shaded: its 95 % t interval, at the steps that all seeds of a variant have."
    if threshold is not None:
        caption += f" Dashed: the threshold {threshold:g}."
    theme.finish(figure, "Over training", caption, height=150 + (280 if rows == 1 else 210) * rows)
    return figure.update_layout(margin={"t": 80, "b": 110})


def _label(rows: pd.DataFrame, variant: str) -> str:
    seeds = int(numbers(rows, "n").max())
    return f"{theme.as_text(variant)} ({seeds} seed{'s' * (seeds != 1)})"


def _add_mean(figure: go.Figure, rows: pd.DataFrame, variant: str, dash: str, *, legend: bool, place: dict[str, Any]) -> None:
    rows = rows.sort_values(by="step")
    steps, mean, low, high = (numbers(rows, name) for name in ("step", "mean", "ci_low", "ci_high"))
    colour = theme.variant_colour(variant)
    known = np.isfinite(low) & np.isfinite(high)
    if known.sum() > 1:
        around = {"x": [*steps[known], *steps[known][::-1]], "y": [*high[known], *low[known][::-1]]}
        band: dict[str, Any] = {"fill": "toself", "fillcolor": theme.translucent(colour, 0.18), "line": {"width": 0}, "mode": "lines"}
        figure.add_trace(go.Scatter(**around, **band, legendgroup=variant, name="interval", showlegend=False, hoverinfo="skip"), **place)
    label = _label(rows, variant)
    look: dict[str, Any] = {
        "mode": theme.line_mode(len(rows)),
        "line": {"color": colour, "dash": dash, "width": 2.4},
    }
    hover = f"{label}, mean<br>step %{{x}}: %{{y:.4g}}<extra></extra>"
    marker = {"color": colour, "size": 8}
    drawn = go.Scatter(x=steps, y=mean, name=label, legendgroup=variant, showlegend=legend, hovertemplate=hover, marker=marker, **look)
    figure.add_trace(drawn, **place)


def paired_differences(seeds: pd.DataFrame, table: pd.DataFrame, *, quantity: str, reference: str, unit: str = "") -> go.Figure:
    """Each variant's differences from the reference: a point for each seed, below them the mean with its 95 % t interval.

    Args:
        seeds: variant, seed, difference, low, high of one quantity; a pair with a censored seed has no difference but bounds,
            and is drawn as an arrowhead at its bound.
        table: variant, difference, difference_low, difference_high of the same quantity (see analysis/compare.py, `compared`).
        quantity, unit: what the axis says.
        reference: the variant that was subtracted.

    Raises:
        UsageError: a column is missing, or there are no rows.
    """
    require_columns(seeds, ["variant", "seed", "difference", "low", "high"], "seeds")
    require_columns(table, ["variant", "difference", "difference_low", "difference_high"], "comparison")
    variants = [name for name in distinct(table, "variant") if name != reference]
    figure = go.Figure()
    for line, variant in enumerate(variants):
        own = where(seeds, variant=variant)
        _add_points(figure, own, variant, line, unit)
        _add_interval(figure, where(table, variant=variant), variant, line, unit)
    figure.add_vline(x=0, line={"color": theme.INK, "width": 1})
    names = [theme.as_text(name) for name in variants]
    figure.update_yaxes(tickvals=list(range(len(variants))), ticktext=names, range=[len(variants) - 0.4, -0.6], showgrid=False)
    figure.update_xaxes(title_text=f"{theme.as_text(quantity)}: difference from {theme.as_text(reference)}")
    bounded = bool(
        (~np.isfinite(numbers(seeds, "difference")) & (np.isfinite(numbers(seeds, "low")) | np.isfinite(numbers(seeds, "high")))).any()
    )
    caption = f"Points: the difference from {reference} of one seed each; diamond and line: their mean and its 95 % t interval."
    if bounded:
        caption += " Arrowheads: a seed of the pair was censored, the difference lies at least so far out; then there is no mean."
    theme.finish(figure, "Differences, paired by seed", caption, height=150 + ROW * len(variants))
    return figure.update_layout(showlegend=False)


def _add_points(figure: go.Figure, rows: pd.DataFrame, variant: str, line: int, unit: str) -> None:
    """The seeds of one variant. Points above the line of the mean, so that neither hides the other."""
    difference, low, high = (numbers(rows, name) for name in ("difference", "low", "high"))
    seeds = numbers(rows, "seed")
    colour = theme.variant_colour(variant)
    unit = f" {unit}" if unit else ""
    bounds = [
        (difference, "circle", "seed %{customdata:d}: %{x:+.4g}"),
        (np.where(np.isnan(difference) & np.isfinite(low), low, np.nan), "triangle-right-open", "seed %{customdata:d}: at least %{x:+.4g}"),
        (np.where(np.isnan(difference) & np.isfinite(high), high, np.nan), "triangle-left-open", "seed %{customdata:d}: at most %{x:+.4g}"),
    ]
    for x, symbol, hover in bounds:
        known = np.isfinite(x)
        if not known.any():
            continue
        marker = {"symbol": symbol, "size": 9 if symbol == "circle" else 12, "color": theme.translucent(colour, 0.55)}
        look: dict[str, Any] = {"mode": "markers", "marker": marker, "name": theme.as_text(variant)}
        text = f"{theme.as_text(variant)}<br>{hover}{unit}<extra></extra>"
        figure.add_scatter(x=x[known], y=np.full(known.sum(), line - 0.17), customdata=seeds[known], hovertemplate=text, **look)


def _add_interval(figure: go.Figure, rows: pd.DataFrame, variant: str, line: int, unit: str) -> None:
    mean, low, high = (numbers(rows, name) for name in ("difference", "difference_low", "difference_high"))
    if not np.isfinite(mean).all():
        return
    colour = theme.variant_colour(variant)
    bar = {"type": "data", "array": np.nan_to_num(high - mean), "arrayminus": np.nan_to_num(mean - low), "thickness": 2.4, "width": 5}
    marker = {"symbol": "diamond", "size": 11, "color": colour, "line": {"color": "white", "width": 1.2}}
    hover = f"{theme.as_text(variant)}: mean %{{x:+.4g}}{f' {unit}' if unit else ''}<extra></extra>"
    look: dict[str, Any] = {"mode": "markers", "marker": marker, "error_x": {**bar, "color": colour}, "name": theme.as_text(variant)}
    figure.add_scatter(x=mean, y=[line + 0.17], hovertemplate=hover, **look)
