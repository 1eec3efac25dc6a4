"""The attention of heads on one sequence, a panel for each head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import unknown_name
from workbench.figures import theme
from workbench.figures.attention import attention_patterns, visible_token

COLUMNS = 4
"""panels side by side, at most"""
PANEL = 240
"""pixels of a panel's height; a single head has twice as many, and its tokens along the axes"""


def pattern_panels(
    attention: pd.DataFrame, heads: Sequence[str] | None = None, *, step: int | None = None, sequence: int | None = None
) -> go.Figure:
    """Attention from each position (downwards) to each earlier one (to the right), in [0, 1].

    Args:
        attention: what `run.attention()` gives, or the table attention of one run, in which tokens are not named.
        heads: such as "L1H3"; default: all. Of a single head, the tokens stand along the axes.
        step, sequence: default: the last, the first.

    Raises:
        UsageError: a column is missing, there are several runs, no such step or sequence, or an unknown head.
    """
    found = attention_patterns(attention, step=step, sequence=sequence)
    names = found.head_names if heads is None else list(heads)
    for name in names:
        if name not in found.head_names:
            raise unknown_name("head", name, found.head_names)
    texts = [theme.as_text(visible_token(text)) for text in _tokens(attention, found.step, found.sequence, len(found.values[0]))]
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=names, horizontal_spacing=0.04, vertical_spacing=0.28 / rows, shared_yaxes=True
    )
    above = np.triu(np.ones(found.values.shape[1:], dtype=bool), k=1)
    hover = "%{customdata[0]}<br>looks at %{customdata[1]}<br>attention %{z:.3f}<extra></extra>"
    named = [f"{position}: {text}" for position, text in enumerate(texts)]
    pairs = np.stack(np.meshgrid(named, named, indexing="ij"), axis=2)
    for place, name in enumerate(names):
        pattern = np.where(above, np.nan, found.values[found.head_names.index(name)])
        figure.add_heatmap(
            z=pattern, coloraxis="coloraxis", customdata=pairs, hovertemplate=hover, hoverongaps=False,
            row=place // columns + 1, col=place % columns + 1,
        )  # fmt: skip
    figure.update_xaxes(showgrid=False, showline=False, ticks="")
    figure.update_yaxes(showgrid=False, showline=False, ticks="", autorange="reversed")
    figure.update_xaxes(title={"text": "looks at", "standoff": 4}, row=rows)
    figure.update_yaxes(title={"text": "from", "standoff": 4}, col=1)
    if len(names) == 1:
        places = list(range(len(texts)))
        figure.update_xaxes(tickvals=places, ticktext=texts, tickangle=0, tickfont_size=9)
        figure.update_yaxes(tickvals=places, ticktext=texts, tickfont_size=9)
    bar = {"title": {"text": "attention", "side": "top"}, "thickness": 12, "outlinewidth": 0, "tickvals": [0, 0.5, 1]}
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 1, "colorscale": theme.SCORE_SCALE, "colorbar": bar})
    caption = (
        "Each row is a position and shows where it looks: a distribution over itself and what stands before it. A previous-token head is a"
        " line one below the diagonal; an induction head looks at what followed the earlier occurrences of its token."
    )
    height = 2 * PANEL + 150 if len(names) == 1 else rows * PANEL + 130
    return theme.finish(figure, f"Attention at step {found.step}, sequence {found.sequence}", caption, height)


def _tokens(attention: pd.DataFrame, step: int, sequence: int, length: int) -> list[str]:
    """The tokens in order; their positions where the table does not name them."""
    if "source_token" not in attention:
        return [str(position) for position in range(length)]
    here = attention[(attention["step"] == step) & (attention["sequence"] == sequence)]
    named = dict(zip(here["source"].tolist(), here["source_token"].tolist(), strict=True))
    return [str(named[position]) for position in range(length)]
