"""How often AMICL, the associative-memory model of in-context learning, is right, and where it looks (Burns et al., arXiv 2412.15113)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.tables import distinct, numbers, require_columns, where

SIMILARITIES = {"dot": "dot product", "pearson": "Pearson", "manhattan": "Manhattan", "euclidean": "Euclidean"}
"""name in the tables -> in words"""
LOOKS = {
    "dot": {"color": theme.BLUE, "width": 3.0, "dash": "solid"},
    "pearson": {"color": theme.VERMILION, "width": 3.0, "dash": "solid"},
    "manhattan": {"color": theme.GREEN, "width": 1.3, "dash": "solid"},
    "euclidean": {"color": theme.PURPLE, "width": 1.3, "dash": "dash"},
}
BANDED = ("dot", "pearson")
"""the similarities with a band; four would hide each other"""
PARTS = ("scores", "softmax", "argmax")
COLUMNS = ("metric", "value", "ci_low", "ci_high", "n")
NBSP = "\u00a0"
PANEL = 330
"""pixels from one row of matrices to the next"""


def accuracy_by_strength(table: pd.DataFrame, published: Mapping[float, float] | None = None, ceiling: float | None = None) -> go.Figure:
    """Proportion right against a, one line a similarity, with 95 % bands for the dot product and Pearson.

    Args:
        table: rows of amicl_accuracy of one or several sweeps over a.
        published: a -> the proportion that the paper states; drawn as diamonds.
        ceiling: what bounds Pearson, in [0, 1]; drawn as a dotted line.

    Raises:
        UsageError: a column or the metric is missing.
    """
    rows = _accuracy(table, ("a", "similarity"))
    figure = go.Figure()
    drawn = [name for name in SIMILARITIES if name in distinct(rows, "similarity")]
    own = {name: where(rows, similarity=name).sort_values(by="a") for name in drawn}
    for name in drawn:
        if name in BANDED:
            _add_band(figure, own[name], name)
    # The thick lines last, on top.
    for name in sorted(drawn, key=lambda name: LOOKS[name]["width"]):
        hover = f"{SIMILARITIES[name]}<br>a = %{{x:.3g}}<br>right %{{y:.3f}}<extra></extra>"
        look: dict[str, Any] = {"mode": theme.line_mode(len(own[name])), "line": LOOKS[name], "legendgroup": name, "hovertemplate": hover}
        figure.add_scatter(x=own[name]["a"], y=own[name]["value"], name=SIMILARITIES[name], legendrank=drawn.index(name), **look)
    if published:
        marker = {"symbol": "diamond", "size": 11, "color": "white", "line": {"color": theme.INK, "width": 2}}
        hover = "published<br>a = %{x:g}<br>right %{y:.3f}<extra></extra>"
        x, y = list(published), list(published.values())
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name="published (dot product)", hovertemplate=hover, legendrank=9)
    if ceiling is not None:
        text = {"text": f"ceiling of Pearson {ceiling:.3f}", "font": {"color": theme.GREY, "size": 12}}
        line = {"color": theme.GREY, "dash": "dot", "width": 1.4}
        figure.add_hline(y=ceiling, line=line, annotation=text, annotation_position="top left")
    figure.update_xaxes(title={"text": "a, strength of the memory of the token before", "standoff": 6})
    figure.update_yaxes(title_text="proportion right", range=[-0.03, 1.06])
    caption = (
        "How often the answer is exactly the label of the query's class. The sequences are the same at every point, so that the points"
        " err together. Below a = 1 the best key is an object's, above it the label's; at a = 1 the dot product ties one label with two"
        " objects, and is right about one time in three."
    )
    if "pearson" in drawn:
        caption += (
            " Pearson stays below 1 for every a: the first object has nothing before it, so where it is of the query's class its bare key"
            " correlates best."
        )
        caption += " Dotted: the probability that it is of another class." if ceiling is not None else ""
    if len(drawn) > len(set(drawn) & set(BANDED)):
        caption += " The distances fail there too, but only below a = 2; at a = 0 the query is zero, and they choose the shortest key."
    if published:
        caption += " Diamonds: the paper's numbers, each of 1,000 trials."
    figure = theme.finish(figure, "Proportion right by strength of memory", f"{caption} {_setting(rows)} {_trials(rows)}", height=450)
    return figure.update_layout(margin={"b": 96})


def accuracy_by_size(table: pd.DataFrame) -> go.Figure:
    """Proportion right against the number of tokens, one line a dimension; and against the dimension, one line a number of tokens.

    Args:
        table: rows of amicl_accuracy for numbers of tokens at several dimensions.

    Raises:
        UsageError: a column or the metric is missing.
    """
    rows = _accuracy(table, ("n_tokens", "d"))
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=["Over n, a line a D", "Over D, a line an n"]
    )
    sizes = sorted({int(size) for name in ("n_tokens", "d") for size in rows[name]})
    colours = dict(zip(sizes, _ladder(len(sizes)), strict=True))
    in_legend: set[int] = set()
    for column, (x, line, sign) in enumerate((("n_tokens", "d", "D"), ("d", "n_tokens", "n")), start=1):
        for size in sorted({int(size) for size in rows[line]}):
            own = where(rows, **{line: size}).sort_values(by=x)
            value, low, high = (numbers(own, name) for name in ("value", "ci_low", "ci_high"))
            error = {"type": "data", "array": high - value, "arrayminus": value - low, "thickness": 1.2, "width": 3}
            look: dict[str, Any] = {"line": {"color": colours[size], "width": 2}, "marker": {"size": 6}, "mode": "lines+markers"}
            look |= {"legendgroup": str(size), "showlegend": size not in in_legend, "legendrank": sizes.index(size), "customdata": own["n"]}
            in_legend.add(size)
            look["hovertemplate"] = (
                f"{sign} = {size}, {'n' if sign == 'D' else 'D'} = %{{x}}<br>right %{{y:.3f}} of %{{customdata}}<extra></extra>"
            )
            place: dict[str, Any] = {"row": 1, "col": column}
            figure.add_scatter(x=own[x], y=value, error_y=error, name=f"{size:,}", **look, **place)
        ticks = sorted({int(size) for size in rows[x]})
        title = "n, tokens of a sequence" if column == 1 else "D, dimension of a token"
        axis: dict[str, Any] = {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks], "minor": {"ticks": ""}}
        figure.update_xaxes(title={"text": title, "standoff": 6}, **axis, row=1, col=column)
    figure.update_yaxes(range=[float(numbers(rows, "ci_low").min()) - 0.03, 1.04])
    figure.update_yaxes(title_text="proportion right", col=1)
    caption = (
        "Random vectors of few dimensions are often alike by chance, and a longer sequence holds more of them: the proportion falls with n"
        " where D is small, and rises with D. Both panels show the same points. Bars: 95 % intervals."
    )
    figure = theme.finish(figure, "Proportion right by length and dimension", f"{caption} {_setting(rows)} {_trials(rows)}", height=480)
    return figure.update_layout(legend={"title": {"text": "D (left), n (right)"}}, margin={"b": 110, "t": 84})


def attention_matrices(table: pd.DataFrame) -> go.Figure:
    """Scores, softmax and argmax of one sequence, a row of matrices for each similarity.

    Args:
        table: what `workbench.amicl.attention.attention_table` gives.

    Raises:
        UsageError: a column, or all of the known similarities, are missing.
    """
    require_columns(table, ("similarity", "part", "dst", "src", "dst_token", "src_token", "answered", "value"), "attention")
    drawn = [name for name in SIMILARITIES if name in distinct(table, "similarity")]
    if not drawn:
        raise UsageError(f"the attention table has none of the similarities {', '.join(SIMILARITIES)}")
    first = where(table, similarity=drawn[0], part="scores")
    n = int(first["dst"].max()) + 1
    names = [str(name) for name in where(first, dst=0).sort_values(by="src")["src_token"]]
    answer = int(where(where(first, dst=0), answered=True)["src"].iloc[0])
    panels = {(name, part): _matrix(where(table, similarity=name, part=part), n) for name in drawn for part in PARTS}
    titles = [f"{SIMILARITIES[name]}: {_part_title(part, panels[name, part])}" for name, part in panels]
    layout: dict[str, Any] = {"horizontal_spacing": 0.05, "vertical_spacing": 66 / (PANEL * len(drawn)), "subplot_titles": titles}
    figure = make_subplots(rows=len(drawn), cols=len(PARTS), **layout)
    ticks: dict[str, Any] = {"tickvals": list(range(n)), "ticktext": names, "tickangle": 0, "tickfont": {"size": 9}, "ticks": ""}
    for number, ((name, part), matrix) in enumerate(panels.items()):
        place: dict[str, Any] = {"row": number // len(PARTS) + 1, "col": number % len(PARTS) + 1}
        looks = "%{customdata[0]} (%{y}) looks at %{customdata[1]} (%{x})"
        hover = f"{SIMILARITIES[name]}, {part}<br>{looks}: %{{z:.4f}}<extra></extra>"
        tokens = [[(dst, src) for src in names] for dst in names]
        figure.add_heatmap(z=matrix, customdata=tokens, hovertemplate=hover, colorscale=theme.SCORE_SCALE, showscale=False, **place)
        box = {"x0": answer - 0.5, "x1": answer + 0.5, "y0": n - 1.5, "y1": n - 0.5, "line": {"color": theme.VERMILION, "width": 2.5}}
        figure.add_shape(type="rect", **box, **place)
    figure.update_xaxes(showgrid=False, showline=False, range=[-0.5, n - 0.5], constrain="domain", **ticks)
    figure.update_yaxes(showgrid=False, showline=False, range=[n - 0.5, -0.5], **ticks)
    figure.update_yaxes(title={"text": "query of", "standoff": 4}, col=1)
    figure.update_xaxes(title={"text": "key of", "standoff": 4}, row=len(drawn))
    caption = (
        "One sequence: a capital is an object, the small letter its label, the one with a question mark the query, _ the empty slot. A row"
        " is the position that looks, a column the one looked at; darker is more, and each matrix has its own range, in its title. The last"
        f" row gives the answer: it should be darkest in the red box, at {names[answer]}. Most other queries are their own best key, hence"
        " the diagonal; the empty slot has a random key instead, or it would match itself. There is no causal mask."
    )
    figure = theme.finish(figure, "Attention in one sequence", caption, height=120 + PANEL * len(drawn))
    figure.update_annotations(font_size=13)
    return figure.update_layout(margin={"t": 88, "b": 56, "l": 50, "r": 16})


def _accuracy(table: pd.DataFrame, more: tuple[str, ...]) -> pd.DataFrame:
    require_columns(table, (*COLUMNS, *more), "amicl")
    rows = where(table, metric="amicl_accuracy")
    if rows.empty:
        raise UsageError("the amicl table has no rows of amicl_accuracy")
    return rows


def _add_band(figure: go.Figure, rows: pd.DataFrame, name: str) -> None:
    a, low, high = (numbers(rows, column) for column in ("a", "ci_low", "ci_high"))
    around: dict[str, Any] = {"x": [*a, *a[::-1]], "y": [*high, *low[::-1]], "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    fill = theme.translucent(str(LOOKS[name]["color"]), 0.15)
    figure.add_scatter(fill="toself", fillcolor=fill, name="interval", legendgroup=name, showlegend=False, **around)


def _ladder(steps: int) -> list[str]:
    """Colours of sizes in order, from light to dark; none so light that it is lost on white."""
    at = np.linspace(0.1, 0.95, steps) if steps > 1 else np.array([0.5])
    return cast(list[str], sample_colorscale("Viridis_r", at.tolist()))


def _matrix(rows: pd.DataFrame, n: int) -> list[list[float]]:
    matrix = np.full((n, n), np.nan)
    matrix[rows["dst"].to_numpy(dtype=int), rows["src"].to_numpy(dtype=int)] = numbers(rows, "value")
    return matrix.tolist()


def _part_title(part: str, matrix: list[list[float]]) -> str:
    """The name of a part, with the range of its colours where that is not 0 to 1."""
    if part == "argmax":
        return part
    # A zero has no sign.
    low, high = (f"{round(end, 2) + 0.0:.2f}".replace("-", "−") for end in (np.nanmin(matrix), np.nanmax(matrix)))
    return f"{part}<br>{low} to {high}"


def _setting(rows: pd.DataFrame) -> str:
    """What the rows have in common, as the paper writes it."""
    signs = {"d": "D", "n_classes": "K", "n_tokens": "n", "a": "a"}
    common = {sign: rows[name].iloc[0] for name, sign in signs.items() if name in rows and rows[name].nunique() == 1}
    return f"{', '.join(f'{sign}{NBSP}={NBSP}{value:g}' for sign, value in common.items())}." if common else ""


def _trials(rows: pd.DataFrame) -> str:
    most, least = int(rows["n"].max()), int(rows["n"].min())
    return f"{most:,} trials a point" + ("." if most == least else f", down to {least:,} where n times D is large (the table says which).")
