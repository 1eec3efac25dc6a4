"""A stream's wire over training: what of the induction head is its own and what came along the wire, and what is lost when it is cut
(Burns et al., arXiv 2412.15113).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.circuit import place_of
from workbench.figures.tables import distinct, numbers, require_columns, where

PANEL_HEIGHT = 270
DECIMALS = 4


@dataclass(frozen=True)
class Curve:
    """A curve of a panel: the rows of `metric` with these values in other columns."""

    name: str
    metric: str
    where: Mapping[str, str | None]
    colour: str
    dash: str = "solid"


@dataclass(frozen=True)
class Panel:
    """A column of panels, one for each run."""

    title: str
    curves: tuple[Curve, ...]
    limits: tuple[float, float] | None = None
    """of the y axis; None: what the values need, with 0"""


PARTS = {"own": theme.BLUE, "streamed": theme.VERMILION}
SPLIT = (
    Panel("Copying score of the weights", tuple(Curve(part, "copying_score", {"part": part}, colour) for part, colour in PARTS.items())),
    Panel("Match score of the weights", tuple(Curve(part, "qk_match_score", {"part": part}, colour) for part, colour in PARTS.items())),
    Panel(
        "Share that came along the wire",
        (
            Curve("share of what it reads", "streamed_input_share", {"part": None}, theme.SKY),
            Curve("share of what it writes", "streamed_output_share", {"part": None}, theme.ORANGE),
            Curve("share of its OV weights", "streamed_ov_share", {"part": None}, theme.GREEN, "dash"),
        ),
        (-0.12, 1.12),
    ),
    Panel("Score contrast", tuple(Curve(part, "score_contrast", {"part": part}, colour) for part, colour in PARTS.items())),
)
CUTS = (
    Panel(
        "The wire is cut",
        tuple(
            Curve(name, "cut_accuracy_share", {"intervention": how}, colour, dash)
            for name, how, colour, dash in (
                ("cut: mean over sequences", "mean", theme.ORANGE, "solid"),
                ("cut: another sequence's", "resample", theme.VERMILION, "solid"),
                ("cut: another head's", "permuted", theme.PURPLE, "dash"),
            )
        ),
        (-0.12, 1.08),
    ),
    Panel(
        "Another sequence's, by path",
        tuple(
            Curve(name, "path_accuracy_share", {"part": part, "intervention": "resample"}, colour)
            for name, part, colour in (
                ("path: wire alone", "wire", theme.SKY),
                ("path: residual stream alone", "residual", theme.BLUE),
                ("path: both", "both", theme.INK),
            )
        ),
        (-0.12, 1.08),
    ),
)


def split_rows(stream: pd.DataFrame, circuits: pd.DataFrame | None, head: str) -> pd.DataFrame:
    """The rows of a run's tables `stream` and `circuits` that `own_and_streamed` draws, those of one head ("L1H3")."""
    tables = [stream] if circuits is None else [stream, circuits]
    metrics = {curve.metric for panel in SPLIT for curve in panel.curves}
    letter = {"value": "copying_score"}.get(str(stream["variant"].iloc[0]).partition("-")[0], "qk_match_score")
    metrics -= {"copying_score", "qk_match_score"} - {letter}
    rows = pd.concat([where(table, **place_of(head)) for table in tables], ignore_index=True)
    return cast(pd.DataFrame, rows.loc[rows["metric"].isin(metrics)]).assign(name=head)


def own_and_streamed(rows: pd.DataFrame) -> go.Figure:
    """What an induction head does by itself and what through the wire, over steps; a row of panels for each run.

    Args:
        rows: what `split_rows` gives, of one or several runs.

    Raises:
        UsageError: a column is missing, or there is no row.
    """
    require_columns(rows, ["run", "step", "layer", "head", "metric", "part", "value", "name"], "stream")
    figure = _panels(rows, SPLIT, [f"{run}<br>{where(rows, run=run)['name'].iloc[0]}" for run in distinct(rows, "run")])
    held = set(rows["metric"])
    words = ["Of the strongest induction head at the end of training."]
    if "copying_score" in held:
        words.append(
            "Copying: how far its output-value circuit raises the logit of the token that it reads (1: for every combination of tokens, −1:"
            " it lowers them), with its own value weights and with those that arrive along the wire; the higher curve is the better copier."
        )
    if "qk_match_score" in held:
        words.append("Match: how far its scores go from a token to equal tokens, with its own and with the arriving queries or keys.")
    words.append(
        "Shares: of the squared length of the queries, keys or values that it uses"
        + (", of its output and of the size of its OV weights" if "streamed_output_share" in held else "")
        + "; at one half, the wire brings as much as the head makes itself."
    )
    if "score_contrast" in held:
        words.append("Score contrast: how much higher it scores the places that followed earlier occurrences than other positions.")
    words.append("Weights can be there long before anything depends on them: see what a cut costs. Shaded: 95% interval over sequences.")
    return theme.finish(figure, "Own and streamed parts of the induction head", " ".join(words), figure.layout["height"])


def wire_cuts(stream: pd.DataFrame) -> go.Figure:
    """The share of the in-context accuracy that is lost when the wire is cut, and by path, over steps; a row of panels for each run.

    Args:
        stream: the table `stream`; concatenate those of several runs.

    Raises:
        UsageError: a column is missing, or there are no rows of cut_accuracy_share over all layers.
    """
    require_columns(stream, ["run", "step", "layer", "head", "metric", "intervention", "value"], "stream")
    rows = where(stream, layer=None, head=None)
    rows = cast(pd.DataFrame, rows.loc[rows["metric"].isin(["cut_accuracy_share", "path_accuracy_share"])])
    if where(rows, metric="cut_accuracy_share").empty:
        raise UsageError("the stream table has no rows of cut_accuracy_share; analyse the section stream")
    sources = {run: where(rows, run=run, metric="path_accuracy_share")["source_layer"].dropna() for run in distinct(rows, "run")}
    # Of several source layers the first is drawn: where the embedding's own values go out.
    rows = pd.concat([_of_source(where(rows, run=run), int(found.min()) if len(found) else None) for run, found in sources.items()])
    figure = _panels(rows, CUTS, distinct(rows, "run"))
    permuted = not where(rows, metric="cut_accuracy_share", intervention="permuted").empty
    words = (
        "Share of the in-context accuracy that is lost; 1 is all of it. Left: what arrives along the wire is replaced in every layer, by"
        " its mean over the sequences"
        + (
            ", by that of another sequence, or by what another head should have received. The last is a control: sequence and position are"
            " right, so that a loss shows that each head needs its own partner."
            if permuted
            else " or by that of another sequence."
        )
        + f" Right: what {_layers(sources)} projects for the stream is replaced by another sequence's, and the change travels by the wire"
        " alone, by the residual stream alone, or by both. Where either alone costs nearly everything, both are needed: the parts do not"
        " add up. At the first steps there is little accuracy to lose, and shares mean little. Shaded: 95% interval over sequences."
    )
    return theme.finish(figure, "What the wire carries for the behaviour", words, figure.layout["height"])


def _of_source(rows: pd.DataFrame, source: int | None) -> pd.DataFrame:
    paths = where(rows, metric="path_accuracy_share")
    return pd.concat([where(rows, metric="cut_accuracy_share"), paths if source is None else where(paths, source_layer=source)])


def _layers(sources: Mapping[str, Any]) -> str:
    firsts = sorted({int(found.min()) for found in sources.values() if len(found)})
    return f"layer {firsts[0]}" if len(firsts) == 1 else "the first layer"


def _panels(rows: pd.DataFrame, panels: Sequence[Panel], names: Sequence[str]) -> go.Figure:
    """The panels that have rows, a row of them for each run."""
    drawn = [panel for panel in panels if rows["metric"].isin([curve.metric for curve in panel.curves]).any()]
    if not drawn:
        raise UsageError("the stream table has no rows of " + ", ".join(dict.fromkeys(c.metric for p in panels for c in p.curves)))
    runs = distinct(rows, "run")
    titles: dict[str, Any] = {"column_titles": [panel.title for panel in drawn], "row_titles": [_escaped(name) for name in names]}
    layout: dict[str, Any] = {"horizontal_spacing": 0.08, "vertical_spacing": 0.18 / len(runs), "shared_xaxes": True}
    figure = make_subplots(rows=len(runs), cols=len(drawn), **titles, **layout)
    for row, run in enumerate(runs, start=1):
        for column, panel in enumerate(drawn, start=1):
            for number, curve in enumerate(panel.curves, start=1):
                # Where there is one checkpoint, a marker does not hide those under it.
                _add(
                    figure, _rows_of(where(rows, run=run), curve), curve, 8 + 4 * (len(panel.curves) - number), {"row": row, "col": column}
                )
            if panel.limits:
                figure.update_yaxes(range=list(panel.limits), row=row, col=column)
            else:
                figure.update_yaxes(rangemode="tozero", zeroline=True, zerolinecolor=theme.FAINT_GREY, row=row, col=column)
    figure.update_xaxes(title={"text": "training step", "standoff": 4}, row=len(runs))
    figure.update_yaxes(title={"text": "score" if panels is SPLIT else "share of accuracy lost", "standoff": 4}, col=1)
    figure.update_layout(height=150 + PANEL_HEIGHT * len(runs), margin={"t": 84, "b": 112}, legend={"traceorder": "normal"})
    return figure


def _escaped(name: str) -> str:
    return "<br>".join(theme.as_text(part) for part in name.split("<br>"))


def _rows_of(rows: pd.DataFrame, curve: Curve) -> pd.DataFrame:
    return where(rows, metric=curve.metric, **curve.where).dropna(subset="value").sort_values(by="step")


def _add(figure: go.Figure, rows: pd.DataFrame, curve: Curve, size: int, place: dict[str, Any]) -> None:
    if rows.empty:
        return
    steps, values, low, high = (np.round(numbers(rows, name), DECIMALS) for name in ("step", "value", "ci_low", "ci_high"))
    group: dict[str, Any] = {"legendgroup": curve.name}
    if len(rows) > 1 and np.isfinite([low, high]).all():
        around = {"x": [*steps, *steps[::-1]], "y": [*high, *low[::-1]]}
        band: dict[str, Any] = {"fill": "toself", "fillcolor": theme.translucent(curve.colour, 0.13), "line": {"width": 0}}
        figure.add_trace(go.Scatter(**around, **band, **group, mode="lines", name="interval", showlegend=False, hoverinfo="skip"), **place)
    shown = not any(trace.name == curve.name for trace in cast(Any, figure.data))
    line = {"color": curve.colour, "dash": curve.dash, "width": 2.2}
    look: dict[str, Any] = {"mode": theme.line_mode(len(rows)), "line": line, "marker": {"color": curve.colour, "size": size}}
    hover = f"{curve.name}<br>{curve.metric}, step %{{x}}: %{{y:.3f}}<extra></extra>"
    trace = go.Scatter(x=steps.tolist(), y=values.tolist(), name=curve.name, showlegend=shown, hovertemplate=hover, **look, **group)
    figure.add_trace(trace, **place)
