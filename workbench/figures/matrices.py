"""The whole matrices of an induction circuit at the end of training, as heat maps: what its heads do with every token and position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.hijack import one_run
from workbench.figures.tables import distinct, require_columns, where

NEEDED = (
    "run",
    "step",
    "matrix",
    "part",
    "layer",
    "head",
    "source_layer",
    "source_head",
    "row",
    "column",
    "row_text",
    "column_text",
    "value",
)
OV, QK, COMPOSED, POSITIONS = KINDS = ("OV", "QK", "K-composition", "positions")
PARTS = {"own": "own weights", "streamed": "weights along the wire", "total": "own and along the wire"}
PANEL = 440
"""pixels of a row of panels, with titles and axes"""
LEVELS = 100
"""Values are rounded to this share of the largest, or finer: less than colours tell apart."""


@dataclass(frozen=True)
class Panel:
    """One heat map: the matrix of a head."""

    kind: str
    title: str
    axes: tuple[str, str]
    """what a row and a column are"""
    texts: tuple[list[str], list[str]]
    values: np.ndarray


def circuit_matrices(table: pd.DataFrame) -> go.Figure:
    """The matrices of a run's induction head and previous-token head; own and streamed parts side by side on one colour scale.

    Args:
        table: the table `circuit_matrices` of one run.

    Raises:
        UsageError: a column is missing, there is no row, or there are several runs.
    """
    if table.empty:
        raise UsageError("there are no circuit matrices: no head of the run is named for a role, or its vocabulary is too large to draw")
    require_columns(table, NEEDED, "circuit_matrices")
    one_run(table, "circuit_matrices")
    grid = _grid([_panel(table, kind, part) for kind in KINDS for part in PARTS if not where(table, matrix=kind, part=part).empty])
    panels = [panel for panel in grid if panel]
    kinds = list(dict.fromkeys(panel.kind for panel in panels))
    reach = {kind: max(float(np.nanmax(np.abs(panel.values))) for panel in panels if panel.kind == kind) or 1.0 for kind in kinds}
    titles = [f"{panel.title}<br><span style='font-size:12px'>max {_digits(reach[panel.kind])}</span>" if panel else "" for panel in grid]
    rows = len(grid) // 2
    layout: dict[str, Any] = {"horizontal_spacing": 0.13, "vertical_spacing": 108 / (PANEL * rows), "subplot_titles": titles}
    figure = make_subplots(rows=rows, cols=2, **layout)
    for number, panel in enumerate(grid):
        if panel:
            _add(
                figure, panel, reach[panel.kind], f"coloraxis{kinds.index(panel.kind) + 1}", {"row": number // 2 + 1, "col": number % 2 + 1}
            )
    for number, kind in enumerate(kinds, start=1):
        # One bar is enough: each kind of matrix has its own largest value, which stands in the panel's title.
        bar = {"thickness": 12, "len": 0.4, "outlinewidth": 0, "tickvals": [-reach[kind], 0, reach[kind]], "ticktext": ["−max", "0", "max"]}
        scale = {"cmin": -reach[kind], "cmax": reach[kind], "colorscale": theme.DIVERGING_SCALE}
        figure.update_layout({f"coloraxis{number}": {**scale, "showscale": number == 1, "colorbar": bar}})
    step = int(table["step"].iloc[0])
    title = f"Circuit matrices: {theme.as_text(distinct(table, 'run')[0])}"
    theme.finish(figure, title, _caption(table, kinds, step), height=90 + PANEL * rows)
    figure.update_annotations(font_size=14)
    return figure.update_layout(margin={"t": 104, "b": 64, "l": 70, "r": 16})


def _digits(value: float) -> str:
    """A number with two digits or more, never as a power of ten."""
    return np.format_float_positional(value, precision=2, fractional=False, trim="-") if value < 10 else f"{value:,.0f}"


def _panel(table: pd.DataFrame, kind: str, part: str) -> Panel:
    rows = where(table, matrix=kind, part=part)
    first = rows.iloc[0]
    head, source = f"L{first['layer']}H{first['head']}", f"L{first['source_layer']}H{first['source_head']}"
    titles = {OV: f"OV of {head}", QK: f"QK of {head}", COMPOSED: f"QK of {head} through {source}", POSITIONS: f"QK of {head} on positions"}
    axes = {
        OV: ("token attended to", "token whose logit changes"),
        QK: ("token of the query", "token of the key"),
        COMPOSED: ("token of the query", f"token that {source} moved to the key"),
        POSITIONS: ("position of the query", "position of the key"),
    }
    split = len(distinct(where(table, matrix=kind), "part")) > 1
    return Panel(kind, titles[kind] + (f", {PARTS[part]}" if split or part == "total" else ""), axes[kind], *_matrix(rows, kind))


def _matrix(rows: pd.DataFrame, kind: str) -> tuple[tuple[list[str], list[str]], np.ndarray]:
    """The texts of rows and columns, and the values; of positions those that attention may look at."""
    row, column = (rows[name].to_numpy(dtype=int) for name in ("row", "column"))
    values = np.full((row.max() + 1, column.max() + 1), np.nan)
    values[row, column] = rows["value"].to_numpy(dtype=float)
    if kind == POSITIONS:
        values[np.triu_indices(len(values), k=1)] = np.nan
    texts = (_texts(rows, "row", len(values)), _texts(rows, "column", values.shape[1]))
    return texts, values


def _texts(rows: pd.DataFrame, axis: str, n: int) -> list[str]:
    """The texts along an axis, all different: those that occur again are numbered."""
    firsts = rows.drop_duplicates(subset=axis).set_index(axis)[f"{axis}_text"]
    texts = [str(firsts.get(number, number)) for number in range(n)]
    return [theme.as_text(text if texts.count(text) == 1 else f"{text} ({number})") for number, text in enumerate(texts)]


def _grid(panels: list[Panel]) -> list[Panel | None]:
    """The panels of two columns, row by row: those of one kind beside each other, then the single ones."""
    kinds = [[panel for panel in panels if panel.kind == kind] for kind in KINDS]
    grid: list[Panel | None] = [panel for group in kinds if len(group) > 1 for panel in group]
    grid += [group[0] for group in kinds if len(group) == 1]
    return grid + [None] * (len(grid) % 2)


def _add(figure: go.Figure, panel: Panel, reach: float, coloraxis: str, place: dict[str, Any]) -> None:
    decimals = max(0, math.ceil(math.log10(LEVELS / reach)))
    # Lists, not arrays: rounded numbers are shorter as text than as bytes. Halves of a row that may not be attended to are left empty.
    values = [[None if math.isnan(value) else round(value, decimals) for value in row] for row in panel.values.tolist()]
    hover = f"{panel.axes[0]} %{{y}}<br>{panel.axes[1]} %{{x}}<br>%{{z}}<extra></extra>"
    look: dict[str, Any] = {"coloraxis": coloraxis, "hovertemplate": hover, "hoverongaps": False}
    figure.add_heatmap(z=values, x=panel.texts[1], y=panel.texts[0], **look, **place)
    axis: dict[str, Any] = {"type": "category", "showgrid": False, "showline": False, "ticks": "", "tickfont": {"size": 10}}
    figure.update_xaxes(title={"text": panel.axes[1], "standoff": 4, "font": {"size": 12}}, constrain="domain", **axis, **place)
    x_axis = next(figure.select_xaxes(**place)).plotly_name.replace("axis", "")
    square = {"scaleanchor": x_axis, "constrain": "domain", "constraintoward": "top", "autorange": "reversed"}
    figure.update_yaxes(title={"text": panel.axes[0], "standoff": 6, "font": {"size": 12}}, **square, **axis, **place)


def _caption(table: pd.DataFrame, kinds: list[str], step: int) -> str:
    heads = {kind: where(table, matrix=kind).iloc[0] for kind in kinds}
    names = {kind: f"L{row['layer']}H{row['head']}" for kind, row in heads.items()}
    words = [f"Read off the weights of step {step}; tokens are in the order of the vocabulary."]
    if OV in kinds:
        words.append(
            f"OV: what {names[OV]}, the induction head, adds to the logit of a token (column) when it attends to a token (row). A bright"
            " diagonal means that it copies."
        )
        if not where(table, matrix=OV, part="streamed").empty:
            words.append(
                "Its own weights and those that arrive along the wire, which read the same embedding, have one colour scale: where the"
                " diagonal is brighter, there is more copying (where norms stand before them, their divisors are taken as equal)."
            )
    if QK in kinds:
        words.append(
            f"QK of {names[QK]}: how high a query scores a token directly; a bright diagonal means that it looks for equal tokens."
        )
    if COMPOSED in kinds:
        source = f"L{heads[COMPOSED]['source_layer']}H{heads[COMPOSED]['source_head']}"
        words.append(
            f"QK through {source}: how high a query scores a position to which the previous-token head {source} has moved a token. A bright"
            " diagonal, often at the triggers alone, is the match of an induction head."
        )
    if POSITIONS in kinds:
        words.append(
            f"QK on positions: how high a position scores those that it may look at, by the position vectors alone. {names[POSITIONS]}"
            " looks at the token before where a row is brightest just below the diagonal."
        )
    words.append(
        "Vermilion is positive, blue negative. The centring and learned scales of norms are in the matrices; their divisors, and that of"
        " the scores, are left out: compare within a panel, not with logits. Rounded here; the table circuit_matrices holds all digits."
    )
    return " ".join(words)
