"""What a margin between context and bigrams is made of, at the end of training: direct contributions, and the causal split
(Wang & Sato, arXiv 2412.11459).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.hijack import one_run
from workbench.figures.tables import distinct, numbers, require_columns, where

MAX_HEADS = 6
"""Heads after layer 0 that have a colour of their own, the largest; the others are one part."""
HEAD_COLOURS = (theme.GREEN, theme.PURPLE, theme.SKY, theme.ORANGE, "#F0E442", "#882255")
MLP_COLOURS = ("#6B4F32", "#A98B6A", "#D3BFA6")
EMBEDDING, FIRST_HEADS, OTHER_HEADS = "embedding, positions, biases", "heads of layer 0", "other heads"
CAUSAL = {"global": theme.VERMILION, "in context": theme.BLUE}
METRICS = ("hijack_contribution", "hijack_causal_part")


@dataclass(frozen=True)
class Part:
    """One colour of the stack; `values` has a number for each bar."""

    name: str
    colour: str
    values: np.ndarray
    streamed: bool = False


def margin_parts(table: pd.DataFrame) -> go.Figure:
    """The margin as a stack of its parts, by number of context pairs, at the last step.

    Args:
        table: the table `hijack` of one run, with the rows hijack_contribution, hijack_causal_part, or both.

    Raises:
        UsageError: a column is missing, there are several runs, or neither kind of rows.
    """
    require_columns(table, ["run", "step", "layer", "head", "metric", "value", "part"], "hijack")
    one_run(table, "hijack")
    last = int(numbers(table, "step").max())
    rows = {metric: where(table, metric=metric, step=last) for metric in METRICS}
    held = [metric for metric in METRICS if not rows[metric].empty]
    if not held:
        raise UsageError(f"the hijack table has no rows {' or '.join(METRICS)} at step {last}")
    titles = {"hijack_contribution": "Direct contributions", "hijack_causal_part": "Causal split"}
    layout: dict[str, Any] = {"shared_yaxes": True, "horizontal_spacing": 0.04}
    widths = [0.62, 0.38] if len(held) == 2 else [1.0]
    figure = make_subplots(rows=1, cols=len(held), subplot_titles=[titles[metric] for metric in held], column_widths=widths, **layout)
    for column, metric in enumerate(held, start=1):
        conditions = _conditions(rows[metric])
        values = [where(rows[metric], condition=condition) for condition in conditions.values()]
        stack = _contributions(values) if metric == METRICS[0] else _causal(values)
        _add_stack(figure, list(conditions), stack, column)
    figure.add_hline(y=0, line={"color": theme.INK, "width": 1.2})
    figure.update_xaxes(title={"text": "number of pairs q c in the context", "standoff": 6}, type="category")
    figure.update_yaxes(title_text="part of the margin (logits)", col=1)
    title = f"What the margin is made of: {theme.as_text(distinct(table, 'run')[0])}"
    theme.finish(figure, title, _caption(held, rows, last), height=470 + 10 * len(list(figure.data)))  # room for the legend's rows
    return figure.update_layout(barmode="relative", bargap=0.35, margin={"t": 84, "b": 140}, legend={"traceorder": "normal"})


def _conditions(rows: pd.DataFrame) -> dict[str, str | None]:
    """The bars and their condition: one for each number of context pairs, or one for all prompts where there is no other."""
    held = {str(name) for name in rows["condition"].dropna()} if "condition" in rows else set()
    numbered = sorted((int(name.removeprefix("n_context ")), name) for name in held if name.startswith("n_context "))
    return {str(number): name for number, name in numbered} or {"1 or more": None}


def _contributions(bars: Sequence[pd.DataFrame]) -> list[Part]:
    """The parts, from those that hold the bigrams to those that read the context."""
    every = pd.concat(bars)
    parts = [Part(EMBEDDING, theme.INK, _sums(where(bar, layer=None, head=None) for bar in bars))]
    layers = [int(layer) for layer in sorted(set(every["layer"].dropna()))]
    if not where(every, layer=0).dropna(subset="head").empty:
        first = [where(bar, layer=0, part=None).dropna(subset="head") for bar in bars]
        parts.append(Part(FIRST_HEADS, theme.GREY, _sums(first)))
    for layer in layers:
        if not where(every, layer=layer, head=None, part="mlp").empty:
            own = _sums(where(bar, layer=layer, head=None, part="mlp") for bar in bars)
            parts.append(Part(f"MLP {layer}", MLP_COLOURS[layer % len(MLP_COLOURS)], own))
    heads = [(layer, int(head)) for layer in layers if layer > 0 for head in sorted(set(where(every, layer=layer)["head"].dropna()))]
    shares = {head: _shares(bars, *head) for head in heads}
    largest = sorted(heads, key=lambda head: -np.abs(list(shares[head].values())).sum(axis=0).max())[:MAX_HEADS]
    for colour, (layer, head) in zip(HEAD_COLOURS, sorted(largest), strict=False):
        for share, values in shares[layer, head].items():
            parts.append(Part(f"L{layer}H{head} {share}".rstrip(), colour, values, streamed=share == "streamed"))
    if len(heads) > MAX_HEADS:
        others = [values for head in heads if head not in largest for values in shares[head].values()]
        parts.append(Part(OTHER_HEADS, theme.FAINT_GREY, np.sum(others, axis=0)))
    return parts


def _shares(bars: Sequence[pd.DataFrame], layer: int, head: int) -> dict[str, np.ndarray]:
    """What a head adds through its own and through the streamed values; as a whole ("") where the table does not split it."""
    split = {share: _sums(where(bar, layer=layer, head=head, part=share) for bar in bars) for share in ("own", "streamed")}
    if any(not where(bar, layer=layer, head=head, part="streamed").empty for bar in bars):
        return split
    return {"": _sums(where(bar, layer=layer, head=head, part=None) for bar in bars)}


def _causal(bars: Sequence[pd.DataFrame]) -> list[Part]:
    return [Part(f"causal: {name}", colour, _sums(where(bar, part=name) for bar in bars)) for name, colour in CAUSAL.items()]


def _sums(bars: Iterable[pd.DataFrame]) -> np.ndarray:
    return np.array([float(np.nansum(numbers(bar, "value"))) for bar in bars])


def _add_stack(figure: go.Figure, names: list[str], stack: Sequence[Part], column: int) -> None:
    """Stacked bars, and their sum as a marker."""
    place: dict[str, Any] = {"row": 1, "col": column}
    for part in stack:
        marker: dict[str, Any] = {"color": part.colour, "line": {"color": "white", "width": 0.6}}
        if part.streamed:
            marker["pattern"] = {"shape": "/", "fgcolor": "white", "fillmode": "overlay", "size": 7, "solidity": 0.35}
        hover = f"{part.name}, %{{x}} pairs: %{{y:.2f}}<extra></extra>"
        figure.add_bar(x=names, y=part.values.tolist(), name=part.name, marker=marker, hovertemplate=hover, **place)
    total = np.sum([part.values for part in stack], axis=0)
    marker = {"symbol": "diamond", "size": 11, "color": "white", "line": {"color": theme.INK, "width": 2}}
    look: dict[str, Any] = {"mode": "markers", "marker": marker, "legendgroup": "margin", "showlegend": column == 1, "legendrank": 2000}
    hover = "margin, %{x} pairs: %{y:.2f}<extra></extra>"
    figure.add_scatter(x=names, y=total.tolist(), name="margin (their sum)", hovertemplate=hover, **look, **place)


def _caption(held: Sequence[str], rows: dict[str, pd.DataFrame], last: int) -> str:
    words = f"Mean margin logit(c) − logit(g) at step {last}; above zero the context wins, below it the bigrams do."
    if METRICS[0] in held:
        words += " Direct contributions: what each component adds to the margin at the last position, the final norm's scale held fixed"
        streamed = not where(rows[METRICS[0]], part="streamed").empty
        words += "; hatched: through the values that the stream brings from an earlier layer." if streamed else "."
    if METRICS[1] in held:
        words += (
            " Causal split: global is the margin that is left when every head's output is replaced by its mean over the corpus at that"
            " position, in context the rest."
        )
    if len(held) == len(METRICS):
        words += " The two need not agree: an MLP that reads what heads wrote adds directly, and is in context in the split."
    return words
