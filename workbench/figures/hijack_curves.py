"""When context overtakes the bigrams: the hijack rate, the parts of the margin and the fitted strengths over training
(Wang & Sato, arXiv 2412.11459).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.tables import distinct, numbers, require_columns, where

MAX_SINGLE = 4
"""Runs with a line of their own; of more, those of one variant become one line."""
LIGHTER = 0.45
"""how much of the way to white each further line of one colour goes"""
SATURATED = 4.0
"""t1 from which the table's value is a lower bound (as in analysis/hijack_fit.py)"""


@dataclass(frozen=True)
class Panel:
    """One panel: a metric, and the dash of each of its parts (None: the rows without a part)."""

    title: str
    under: str
    metric: str
    parts: dict[str | None, str]
    limits: tuple[float, float] | None = None
    """of the y axis, where they are known; otherwise the bulk of the values"""
    condition: str | None = None
    """of its rows; None: all prompts whose context shows c"""


PANELS = (
    Panel("Hijack rate", "share of the prompts", "hijack_rate", {None: "solid"}, (-0.02, 1.02)),
    Panel(
        "Parts of the margin",
        "in context solid, global dashed",
        "hijack_causal_part",
        {"in context": "solid", "global": "dash"},
        condition="log_odds above 0",
    ),
    Panel(
        "Margins predicted, R²",
        "closed form solid, attention dashed",
        "hijack_r2",
        {"closed form": "solid", "attention of the induction heads": "dash"},
        (-0.25, 1.03),
    ),
    Panel(
        "Boundary t3 / t2",
        "closed form solid, attention dashed",
        "hijack_boundary",
        {"closed form": "solid", "attention of the induction heads": "dash"},
    ),
    Panel("Strength t1", "finding the trigger", "hijack_strength", {"t1": "solid"}, (-0.2, 8.2)),
    Panel("Strength t2", "copying, logits", "hijack_strength", {"t2": "solid"}),
    Panel("Strength t3", "bigrams", "hijack_strength", {"t3": "solid"}),
)
COLUMNS = 3


@dataclass(frozen=True)
class Line:
    """One run, or the runs of one variant."""

    name: str
    colour: str
    runs: tuple[str, ...]


def hijack_curves(hijack: pd.DataFrame) -> go.Figure:
    """Rate, causal parts, quality of the predictions and strengths over steps, on all prompts whose context shows c.

    Args:
        hijack: the table `hijack`; concatenate those of several runs. Up to `MAX_SINGLE` runs have a line each; of more, those of
            one variant are drawn as their mean with the range over them.

    Raises:
        UsageError: a column is missing, or the table has none of the metrics.
    """
    require_columns(hijack, ["run", "variant", "step", "metric", "value"], "hijack")
    rows = {panel.title: _rows(hijack, panel) for panel in PANELS}
    panels = [panel for panel in PANELS if not rows[panel.title].empty]
    if not panels:
        raise UsageError(f"the hijack table holds none of {', '.join(dict.fromkeys(panel.metric for panel in PANELS))}")
    lines = _lines(pd.concat(rows.values()))
    columns = min(COLUMNS, len(panels))
    height = -(-len(panels) // columns)
    titles = [f"{panel.title}<br><span style='font-size:12px'>{panel.under}</span>" for panel in panels]
    spacing: dict[str, Any] = {"horizontal_spacing": 0.085, "vertical_spacing": 0.4 / height}
    figure = make_subplots(rows=height, cols=columns, subplot_titles=titles, **spacing)
    for number, panel in enumerate(panels):
        place: dict[str, Any] = {"row": number // columns + 1, "col": number % columns + 1}
        for line in lines:
            for part, dash in panel.parts.items():
                own = cast(pd.DataFrame, rows[panel.title].loc[rows[panel.title]["run"].isin(line.runs).to_numpy(dtype=bool)])
                _add_line(figure, where(own, part=part), line, dash, f"{panel.title} {part or ''}".strip(), place)
        if panel.parts.keys() == {"t1"} and (numbers(rows[panel.title], "value") >= SATURATED).any():
            text = {"text": "above: a lower bound", "font": {"size": 11, "color": theme.GREY}}
            look: dict[str, Any] = {"annotation": text, "annotation_position": "top left"}
            figure.add_hline(y=SATURATED, line={"color": theme.GREY, "dash": "dot", "width": 1}, **look, **place)
        limits = panel.limits or _limits(numbers(rows[panel.title], "value"))
        figure.update_yaxes(range=list(limits), zeroline=limits[0] < 0 < limits[1], zerolinecolor=theme.FAINT_GREY, **place)
        if number + columns >= len(panels):
            figure.update_xaxes(title={"text": "training step", "standoff": 4}, **place)
    _one_legend_entry_each(figure)
    theme.finish(figure, "Context against bigrams over training", _caption(panels, lines), height=130 + 300 * height)
    return figure.update_layout(margin={"t": 104, "b": 100}, legend={"traceorder": "normal"})


def _rows(hijack: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """The panel's rows over all prompts, in the order of steps; all of them have a value."""
    rows = where(hijack, metric=panel.metric, condition=panel.condition)
    parts = pd.concat([where(rows, part=part) for part in panel.parts])
    return parts.dropna(subset="value").sort_values(by="step", kind="stable")


def _lines(rows: pd.DataFrame) -> list[Line]:
    """A line for each run or, of many runs, for each variant; lines of one colour become lighter one by one."""
    runs, variants = distinct(rows, "run"), distinct(rows, "variant")
    groups: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    if len(runs) > MAX_SINGLE and len(variants) < len(runs):
        for variant in variants:
            own = tuple(distinct(where(rows, variant=variant), "run"))
            groups[variant] = (f"{variant} (mean of {len(own)} runs)" if len(own) > 1 else variant, variant, own)
    else:
        groups = {run: (run, distinct(where(rows, run=run), "variant")[0], (run,)) for run in runs}
    lines: list[Line] = []
    used: list[str] = []
    for name, variant, own in groups.values():
        colour = theme.variant_colour(variant)
        lines.append(Line(name, _lighter(colour, used.count(colour)), own))
        used.append(colour)
    return lines


def _lighter(colour: str, times: int) -> str:
    """`colour` ("#RRGGBB") moved towards white."""
    left = (1 - LIGHTER) ** times
    return "#" + "".join(f"{round(255 - (255 - int(colour[i : i + 2], 16)) * left):02X}" for i in (1, 3, 5))


def _add_line(figure: go.Figure, rows: pd.DataFrame, line: Line, dash: str, what: str, place: dict[str, Any]) -> None:
    """The run and its 95 % interval; of several runs the mean and their range, at the steps that all of them have."""
    if rows.empty:
        return
    if len(distinct(rows, "run")) > 1:
        by_step = rows.pivot(index="step", columns="run", values="value").dropna()
        steps, values = by_step.index.to_numpy(dtype=float), by_step.mean(axis=1).to_numpy()
        low, high = by_step.min(axis=1).to_numpy(), by_step.max(axis=1).to_numpy()
    else:
        steps, values, low, high = (numbers(rows, column) for column in ("step", "value", "ci_low", "ci_high"))
    known = np.isfinite(low) & np.isfinite(high)
    look: dict[str, Any] = {"legendgroup": line.name, "name": theme.as_text(line.name)}
    if known.sum() > 1:
        around = {"x": [*steps[known], *steps[known][::-1]], "y": [*high[known], *low[known][::-1]]}
        band: dict[str, Any] = {"fill": "toself", "fillcolor": theme.translucent(line.colour, 0.15), "line": {"width": 0}}
        unnamed = {"legendgroup": line.name, "name": "interval", "showlegend": False}
        figure.add_trace(go.Scatter(**around, **band, **unnamed, mode="lines", hoverinfo="skip"), **place)
    hover = f"{theme.as_text(line.name)}, {what}<br>step %{{x}}: %{{y:.3g}}<extra></extra>"
    drawn = {"color": line.colour, "dash": dash, "width": 2.2}
    marker = {"color": line.colour, "size": 8, "symbol": "circle" if dash == "solid" else "circle-open"}
    curve = go.Scatter(x=steps, y=values, mode=theme.line_mode(len(steps)), line=drawn, marker=marker, hovertemplate=hover, **look)
    figure.add_trace(curve, **place)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """A range that holds the bulk of the values: at the first steps a strength can be any number, as nothing hangs on it."""
    low, high = np.quantile(values, [0.03, 0.97])
    low, high = min(low, 0.0), max(high, 0.0)
    room = 0.08 * (high - low) or 0.1
    return float(low - room), float(high + room)


def _one_legend_entry_each(figure: go.Figure) -> None:
    """Each line once in the legend, which switches it on and off in every panel."""
    shown: set[str] = set()
    for trace in cast(tuple[Any, ...], figure.data):
        if trace.name != "interval":
            trace.update(showlegend=trace.name not in shown)
            shown.add(trace.name)


def _caption(panels: Sequence[Panel], lines: Sequence[Line]) -> str:
    held = [panel.metric for panel in panels]
    words = "Over prompts whose context shows c after the trigger, where the bigrams of training may prefer g."
    if "hijack_rate" in held:
        words += " Hijack rate: how often the model finds g more likely than c."
    if "hijack_causal_part" in held:
        words += (
            " Margin logit(c) − logit(g) where the bigrams prefer g: global, what is left when every head's output is replaced by its"
            " corpus mean; in context, the rest. The context overtakes where their sum becomes positive."
        )
    if "hijack_r2" in held:
        words += (
            " R², on prompts that were not fitted: of the closed form with its fitted strengths, and of the induction heads' attention gap"
            " with the log-odds; below 0 the mean margin does better."
        )
    if "hijack_boundary" in held:
        words += " Boundary: how much more attention c needs for each nat by which the bigrams prefer g."
    if "hijack_strength" in held:
        words += " Strengths of the closed form: t1 and t2 mean little where the closed form predicts little."
    if any(len(line.runs) > 1 for line in lines):
        return f"{words} Lines: means over the runs of a variant; shaded: their range."
    return f"{words} Shaded: 95% interval over prompts, where the table has one."
