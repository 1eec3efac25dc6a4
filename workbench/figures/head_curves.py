"""Scores of every head over training steps: which heads become the previous-token and induction heads, and when."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import unknown_name
from workbench.figures import theme
from workbench.figures.tables import distinct, head_rows, numbers, where

SCORE_TITLES = {
    "previous_token_score": "Previous-token score",
    "previous_token_at_answers": "Previous token, at answers",
    "prefix_matching_score": "Prefix-matching score",
    "duplicate_token_score": "Duplicate-token score",
}
ROLE_COLOURS = {"previous-token head": theme.ORANGE, "induction head": theme.PURPLE}
OTHER_HEADS = "other heads"


def score_curves(
    formation: pd.DataFrame,
    *,
    task: str | None = None,
    roles: Mapping[str, Mapping[str, str]] | None = None,
    metrics: Sequence[str] = ("previous_token_score", "prefix_matching_score"),
) -> go.Figure:
    """Scores of every head over steps: a row of panels for each metric, a column for each variant.

    Args:
        formation: a formation table with scores of heads, in [0, 1].
        task: the sequences on which heads were scored; needed where there are several.
        roles: for each run, the heads to emphasise ("L0H1") and their role: a key of `ROLE_COLOURS`. Others are grey.
        metrics: the rows of panels.

    Raises:
        UsageError: a metric is missing or not one of heads, the task is ambiguous, or a role is unknown.
    """
    tables = [head_rows(formation, metric, task) for metric in metrics]
    roles = {} if roles is None else roles
    for role in {role for heads in roles.values() for role in heads.values()}:
        if role not in ROLE_COLOURS:
            raise unknown_name("role of a head", role, ROLE_COLOURS)
    variants = distinct(pd.concat(tables), "variant")
    layout: dict[str, Any] = {"shared_xaxes": True, "shared_yaxes": True, "horizontal_spacing": 0.05, "vertical_spacing": 0.07}
    figure = make_subplots(rows=len(metrics), cols=len(variants), column_titles=[theme.as_text(name) for name in variants], **layout)
    for row, (metric, rows) in enumerate(zip(metrics, tables, strict=True), start=1):
        for column, variant in enumerate(variants, start=1):
            _add_panel(figure, where(rows, variant=variant), roles, {"row": row, "col": column})
        figure.update_yaxes(title_text=SCORE_TITLES.get(metric, metric), row=row, col=1)
    _one_legend_entry_each(figure)
    figure.update_yaxes(range=[-0.03, 1.06])
    figure.update_xaxes(title_text="training step", row=len(metrics))
    where_scored = f" on {theme.as_text(task)} sequences" if task else ""
    caption = (
        "Each line is a head. Previous-token score: mean attention to the position just before, from everywhere or (at"
        " answers) from the positions that an induction head has to read."
        " Prefix-matching score: mean attention to the positions that follow earlier occurrences of the present token,"
        " as an induction head attends. Both are fractions of the attention, between 0 and 1."
    )
    return theme.finish(figure, f"Head scores over training{where_scored}", caption, height=130 + 230 * len(metrics))


def _add_panel(figure: go.Figure, rows: pd.DataFrame, roles: Mapping[str, Mapping[str, str]], place: dict[str, Any]) -> None:
    """One panel. Emphasised heads are drawn last, above the others, and labelled at the end where the panel holds one run."""
    runs = distinct(rows, "run")
    heads = [(run, name) for run in runs for name in distinct(where(rows, run=run), "name")]
    heads.sort(key=lambda head: head[1] in roles.get(head[0], {}))
    labels: list[tuple[str, str, float]] = []
    for run, name in heads:
        own, role = where(rows, run=run, name=name), roles.get(run, {}).get(name)
        line = {"color": ROLE_COLOURS[role], "width": 2.6} if role else {"color": theme.FAINT_GREY, "width": 1.4}
        hover = f"{name} of {theme.as_text(run)}<br>step %{{x}}<br>%{{y:.4g}}<extra></extra>"
        look = {"name": role or OTHER_HEADS, "legendgroup": role or OTHER_HEADS, "meta": {"run": run, "head": name}}
        figure.add_scatter(
            x=own["step"],
            y=own["value"],
            mode=theme.line_mode(len(own)),
            line=line,
            marker={"color": line["color"]},
            hovertemplate=hover,
            **look,
            **place,
        )
        if role:
            labels.append((name, role, numbers(own, "value")[-1]))
    if len(runs) > 1:
        return
    heights = _spread([value for _, _, value in labels], gap=0.1)
    for (name, role, _), height in zip(labels, heights, strict=True):
        look = {"font": {"size": 12}, "bgcolor": theme.translucent(ROLE_COLOURS[role], 0.25), "showarrow": False}
        figure.add_annotation(x=numbers(rows, "step").max(), y=height, text=name, xanchor="left", xshift=4, **look, **place)


def _one_legend_entry_each(figure: go.Figure) -> None:
    """Show each role once in the legend, in the order of `ROLE_COLOURS`."""
    order = [*ROLE_COLOURS, OTHER_HEADS]
    shown: set[str] = set()
    for trace in cast(tuple[Any, ...], figure.data):
        first: dict[str, Any] = {"showlegend": trace.name not in shown, "legendrank": 1000 + order.index(trace.name)}
        trace.update(**first)
        shown.add(trace.name)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved apart, downwards from the largest, so that neighbours differ by `gap` or more."""
    order = sorted(range(len(heights)), key=lambda i: -heights[i])
    spread = list(heights)
    for above, below in itertools.pairwise(order):
        spread[below] = min(spread[below], spread[above] - gap)
    return spread
