"""The parts of an induction circuit over training, what they do beside what the behaviour needs of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.tables import distinct, numbers, require_columns, where

STYLES: dict[str, tuple[str, str]] = {
    "previous-token head": (theme.ORANGE, "solid"),
    "trigger match": (theme.PURPLE, "solid"),
    "copying": (theme.GREEN, "solid"),
    "in-context accuracy": (theme.INK, "solid"),
    "lost without the induction heads": (theme.PURPLE, "dash"),
    "lost when the wire is cut": (theme.VERMILION, "dash"),
}
"""curve -> colour and dash: solid for what is there, dashed for what is lost without it"""
PANEL_HEIGHT = 300
HEAD_NAME = re.compile(r"L(\d+)H(\d+)")


def circuit_rows(tables: Mapping[str, pd.DataFrame | None], previous: str | None, induction: str | None) -> pd.DataFrame:
    """The rows of a run's tables that `circuit_curves` draws, with the curve's name in a column `curve`.

    Args:
        tables: by section; those of formation, probes, causal and stream are read, where they are there.
        previous, induction: the previous-token head and the strongest induction head ("L0H1"), where the run has them.
    """
    chosen: list[tuple[str, str, str, dict[str, Any]]] = [("in-context accuracy", "formation", "in_context_accuracy", {})]
    if previous:
        chosen.append(("previous-token head", "formation", "previous_token_at_answers", place_of(previous)))
    if induction:
        chosen.append(("trigger match", "formation", "prefix_matching_score", place_of(induction)))
        layer = place_of(induction)["layer"]
        chosen += [("copying", "probes", "copying_probe", {"layer": layer, "part": part}) for part in ("own", "total")]
        mean = {"part": "induction heads", "intervention": "mean"}
        chosen.append(("lost without the induction heads", "causal", "ablation_accuracy_loss", mean))
    chosen.append(("lost when the wire is cut", "stream", "cut_accuracy_share", {"intervention": "mean"}))
    found: dict[str, pd.DataFrame] = {}
    for curve, section, metric, place in chosen:
        table = tables.get(section)
        if table is None or table.empty:
            continue
        own_task = table["task"].iloc[0]
        rows = where(table, metric=metric, task=own_task)
        for column in ("layer", "head", "part", "intervention"):
            if column in rows:
                wanted = rows[column] == place[column] if column in place else rows[column].isna()
                rows = cast(pd.DataFrame, rows.loc[wanted.fillna(False).to_numpy(dtype=bool)])
            elif column in place:
                rows = rows.iloc[:0]
        if not rows.empty:
            found[curve] = rows.assign(curve=curve)  # copying by all values ("total") stands for that by own ones
    return pd.concat(found.values(), ignore_index=True) if found else pd.DataFrame()


def circuit_curves(curves: pd.DataFrame) -> go.Figure:
    """The parts of the circuit over steps, a panel for each run.

    Args:
        curves: rows of `circuit_rows` of one or several runs, in [0, 1] (what is lost may be a little below 0).

    Raises:
        UsageError: a column is missing, or there is no row.
    """
    require_columns(curves, ["run", "curve", "step", "value"], "circuit")
    unknown = [curve for curve in distinct(curves, "curve") if curve not in STYLES]
    if unknown:
        raise UsageError(f"there is no style for the curve {unknown[0]!r}; there are {', '.join(STYLES)}")
    runs = distinct(curves, "run")
    figure = make_subplots(
        rows=len(runs), cols=1, shared_xaxes=True, subplot_titles=[theme.as_text(run) for run in runs], vertical_spacing=0.08
    )
    for row, run in enumerate(runs, start=1):
        for curve, (colour, dash) in STYLES.items():
            own = where(curves, run=run, curve=curve).sort_values(by="step")
            if not own.empty:
                _add(figure, own, curve, colour, dash, row)
    figure.update_yaxes(range=[-0.06, 1.06])
    figure.update_xaxes(title_text="training step (optimiser updates)", row=len(runs))
    caption = (
        "Solid: attention of the strongest previous-token head (at the positions that hold answers) and of the strongest induction head"
        " (to what followed earlier occurrences), the share of the vocabulary that the heads' weights copy, and in-context accuracy."
        " Dashed: the in-context accuracy that is lost without the induction heads (their outputs replaced by their mean), and the share of"
        " it that is lost when the mean stands in for what arrives along the wire. A head can be active before anything depends on it."
        " Shaded: 95% interval over sequences."
    )
    figure = theme.finish(figure, "The circuit over training", caption, height=110 + PANEL_HEIGHT * len(runs))
    return figure.update_layout(legend={"traceorder": "normal"}, margin={"b": 110})


def _add(figure: go.Figure, rows: pd.DataFrame, curve: str, colour: str, dash: str, row: int) -> None:
    steps, values = numbers(rows, "step"), numbers(rows, "value")
    low, high = numbers(rows, "ci_low"), numbers(rows, "ci_high")
    place: dict[str, Any] = {"row": row, "col": 1}
    if len(rows) > 1 and not (np.isnan(low).any() or np.isnan(high).any()):
        band: dict[str, Any] = {"fill": "toself", "fillcolor": theme.translucent(colour, 0.12), "line": {"width": 0}, "hoverinfo": "skip"}
        around = {"x": [*steps, *steps[::-1]], "y": [*high, *low[::-1]]}
        figure.add_trace(go.Scatter(**around, mode="lines", name="interval", legendgroup=curve, showlegend=False, **band), **place)
    shown = not any(trace.name == curve for trace in cast(Any, figure.data))
    line = {"color": colour, "dash": dash, "width": 2.2}
    hover = f"{curve}<br>step %{{x}}: %{{y:.3f}}<extra></extra>"
    look: dict[str, Any] = {"mode": theme.line_mode(len(rows)), "line": line, "marker": {"color": colour}, "hovertemplate": hover}
    figure.add_trace(go.Scatter(x=steps, y=values, name=curve, legendgroup=curve, showlegend=shown, **look), **place)


def place_of(head: str) -> dict[str, int]:
    """Layer and head of a name such as L1H3."""
    match = HEAD_NAME.fullmatch(head)
    if match is None:
        raise UsageError(f"{head!r} is no name of a head; expected one such as L1H3")
    return {"layer": int(match[1]), "head": int(match[2])}
