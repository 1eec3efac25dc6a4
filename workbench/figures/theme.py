"""How every figure looks: one plotly template, and one colour for each variant in every figure.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which remain distinct under the common forms
of colour blindness. A variant's colour depends on its name alone, never on what else is drawn.
"""

from __future__ import annotations

import html
import zlib
from typing import Any, cast

import plotly.graph_objects as go

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY, FAINT_GREY, INK, GRID = "#6B7280", "#C4C8CE", "#1F2933", "#E5E7EB"

STREAM_COLOURS = {"none": BLUE, "value": VERMILION, "key": GREEN, "query": PURPLE}
OTHER_COLOURS = (ORANGE, SKY, BLACK)
POSITION_LOOKS = {
    "standard": (BLUE, "solid"),
    "sinusoidal": (ORANGE, "dash"),
    "relative": (GREEN, "dashdot"),
    "rotary": (VERMILION, "longdash"),
    "nopos": (BLACK, "dot"),
}
"""colour and dash of each position type, where a figure compares them"""
SUFFIX_DASHES = {"": "solid", "first": "dash", "accumulated": "dot", "detached": "dashdot", "permuted": "longdash"}
SUFFIX_DASHES |= {position: dash for position, (_, dash) in POSITION_LOOKS.items()}
OTHER_DASHES = ("longdashdot", "5px,2px", "2px,4px")

SCORE_SCALE = "Blues"
"""Colour scale of quantities in [0, 1]: darker is larger."""
DIVERGING_SCALE = [[0.0, BLUE], [0.5, "#FFFFFF"], [1.0, VERMILION]]
"""Colour scale of quantities on both sides of 0: vermilion is positive, blue negative."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', 'DejaVu Sans', sans-serif"

TEMPLATE = go.layout.Template(
    layout=go.Layout(
        font={"family": FONT, "size": 13, "color": INK},
        title={
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 16, "t": 14},
            "font": {"size": 16},
        },
        colorway=[BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK],
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 64, "r": 24, "t": 64, "b": 56},
        xaxis={"gridcolor": GRID, "zeroline": False, "linecolor": GREY, "showline": True, "ticks": "outside", "automargin": True},
        yaxis={"gridcolor": GRID, "zeroline": False, "linecolor": GREY, "showline": True, "ticks": "outside", "automargin": True},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "yref": "container", "y": 0.01, "yanchor": "bottom"},
        hoverlabel={"font": {"family": FONT, "size": 12}},
        hovermode="closest",
    )
)


def variant_colour(variant: str) -> str:
    """The colour of a variant, as "#RRGGBB". Variants that differ only by a suffix ("value-first") share it; see `variant_dash`."""
    base = variant.partition("-")[0]
    return STREAM_COLOURS.get(base) or OTHER_COLOURS[zlib.crc32(base.encode()) % len(OTHER_COLOURS)]


def variant_dash(variant: str) -> str:
    """The line style of a variant: solid for a plain stream, otherwise one for each suffix."""
    suffix = variant.partition("-")[2]
    return SUFFIX_DASHES.get(suffix) or OTHER_DASHES[zlib.crc32(suffix.encode()) % len(OTHER_DASHES)]


def position_type(variant: str) -> str:
    """The suffix of a variant's name that tells its position type; "standard" where there is none.

    >>> position_type("value-first-rotary"), position_type("none")
    ('rotary', 'standard')
    """
    return next((suffix for suffix in variant.split("-")[1:] if suffix in POSITION_LOOKS), "standard")


def translucent(colour: str, alpha: float) -> str:
    """`colour` ("#RRGGBB") with an opacity in [0, 1], as plotly takes it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def line_mode(points: int) -> str:
    """How plotly draws a curve of so many points: a single one (a run with one checkpoint) needs a marker to be seen."""
    return "lines" if points > 1 else "markers"


def as_text(text: object) -> str:
    """Text that plotly shows letter by letter: plotly reads a small set of HTML tags in every label."""
    return html.escape(str(text), quote=False)


def finish(figure: go.Figure, title: str, caption: str, height: int) -> go.Figure:
    """Give `figure` the common look, its title, its height in pixels, and its caption (see `caption`)."""
    figure.update_layout(template=TEMPLATE, title_text=title, height=height, meta={"caption": caption})
    return figure


def caption(figure: go.Figure) -> str:
    """What to see in a figure of this package, and how its numbers were computed: it travels with the figure."""
    return cast(Any, figure.layout).meta["caption"]
