"""Prompts whose context says one thing and whose bigrams say another: where they lie in the plane of the theory, and who wins
(Wang & Sato, arXiv 2412.11459). Both figures take the table `hijack_prompts` of one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.tables import distinct, numbers, require_columns, where

MAX_POINTS = 250
"""Prompts in the map, the same at every step."""
DECIMALS = 2
OFFSET = 0.16
"""log-odds by which prompts of neighbouring numbers of context pairs stand apart in the map"""
FULL_COLOUR = 0.95
"""share of the margins that the colours of the map span; larger ones have the last colour"""

GAPS = {"gap": "attention gap A(c) − A(g)<br>of the induction heads", "theory_gap": "attention gap A(c) − A(g)<br>of the closed form"}
BOUNDARIES = {"closed form": ("closed form", "solid"), "attention of the induction heads": ("induction heads' attention", "dash")}
"""part of hijack_boundary -> its words in the legend, and its dash"""
WINNERS = {"context wins": "circle", "hijacked": "x"}
DIVERGING = [[0.0, theme.VERMILION], [0.5, "#F3F3F1"], [1.0, theme.BLUE]]
LOG_ODDS = "prior log-odds log π(g | q) / π(c | q), in nats"
Z95 = 1.959963984540054
LEVEL_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star")

HELD = ("run", "step", "n_context", "n_prior", "log_odds", "margin")
OF_A_PROMPT = ("trigger", "context", "prior", "n_context", "n_prior", "distance", "log_odds")


def hijack_map(prompts: pd.DataFrame, table: pd.DataFrame | None = None) -> go.Figure:
    """Each prompt in the plane of prior log-odds and attention gap, coloured by its margin, with a slider over the steps.

    Prompts whose context never shows c are left out: there is nothing to hijack. At most `MAX_POINTS` prompts are drawn, those
    that were followed through training.

    Args:
        prompts: the table `hijack_prompts` of one run.
        table: its table `hijack`; the rows hijack_boundary are drawn as lines, where there are any.

    Raises:
        UsageError: a column is missing, there are several runs, or no prompt has an attention gap.
    """
    require_columns(prompts, [*HELD, "prompt", *OF_A_PROMPT], "hijack_prompts")
    one_run(prompts, "hijack_prompts")
    shown = cast(pd.DataFrame, prompts.loc[(numbers(prompts, "n_context") > 0) & np.isfinite(numbers(prompts, "margin"))])
    column = _gap_column(shown)
    shown = cast(pd.DataFrame, shown.loc[np.isfinite(numbers(shown, column))])
    steps = sorted({int(step) for step in shown["step"]})
    followed = _followed(shown, steps)
    at_step = {step: where(shown, step=step).drop_duplicates("prompt").set_index("prompt").reindex(followed.index) for step in steps}
    odds = numbers(followed, "log_odds")
    pairs = np.unique(numbers(followed, "n_context"), return_inverse=True)[1]
    x = odds + OFFSET * (pairs - pairs.max() / 2)
    span = (float(x.min()) - 0.25, float(x.max()) + 0.25)
    parts = [] if table is None or "part" not in table else [part for part in BOUNDARIES if not _boundary(table, part).empty]
    frames = {step: _frame(at_step[step], column, table, parts, step, span) for step in steps}

    figure = go.Figure()
    last = frames[steps[-1]]
    hover = (
        "trigger %{customdata[0]}, context's token %{customdata[1]}, bigrams' token %{customdata[2]}<br>"
        "%{customdata[3]} pairs q c, %{customdata[4]} pairs q g, the last %{customdata[5]} tokens before the end<br>"
        "log-odds %{customdata[6]}, gap %{y}, margin %{marker.color}<extra></extra>"
    )
    facts = np.round(followed[list(OF_A_PROMPT)].astype(float).to_numpy(), DECIMALS).tolist()
    facts = [[*(int(value) for value in row[:-1]), row[-1]] for row in facts]
    for number, (winner, symbol) in enumerate(WINNERS.items()):
        marker = {"symbol": symbol, "size": 8, "color": last.colours, "coloraxis": "coloraxis", "line": {"width": 0.9, "color": theme.GREY}}
        look: dict[str, Any] = {"mode": "markers", "marker": marker, "customdata": facts, "hovertemplate": hover}
        figure.add_scatter(x=_rounded(x), y=last.heights[number], name=winner, showlegend=False, **look)
    for number, part in enumerate(parts, start=len(WINNERS)):
        line = {"color": theme.INK, "width": 1.8, "dash": BOUNDARIES[part][1]}
        figure.add_scatter(x=list(span), y=last.heights[number], name=last.names[number], mode="lines", line=line, hoverinfo="skip")
    for winner, symbol in WINNERS.items():  # in the legend, where a symbol that is coloured by its margin has no colour
        figure.add_scatter(x=[None], y=[None], name=winner, mode="markers", marker={"symbol": symbol, "color": theme.GREY})
    if len(steps) > 1:
        traces = list(range(len(WINNERS) + len(parts)))
        slider = [{"method": "restyle", "label": str(step), "args": [frames[step].changes(), traces]} for step in steps]
        style: dict[str, Any] = {"currentvalue": {"prefix": "training step ", "font": {"size": 14}}, "pad": {"t": 62, "b": 10}, "len": 1}
        figure.update_layout(sliders=[{"active": len(steps) - 1, "steps": slider, "x": 0, **style}])
    _axes_of_map(figure, [frame.heights[0] + frame.heights[1] for frame in frames.values()], span, column)
    reach = float(np.quantile(np.abs(numbers(shown, "margin")), FULL_COLOUR)) or 1.0
    bar = {"title": {"text": "margin<br>(logits)", "side": "top"}, "thickness": 12, "outlinewidth": 0}
    figure.update_layout(coloraxis={"cmin": -reach, "cmax": reach, "colorscale": DIVERGING, "colorbar": bar})
    figure.update_layout(legend={"itemsizing": "constant"})
    title = f"Context against bigrams, prompt by prompt: {theme.as_text(distinct(prompts, 'run')[0])}"
    theme.finish(figure, title, _map_caption(column, parts, len(followed), steps), height=640 if len(steps) > 1 else 540)
    return figure.update_layout(margin={"t": 56, "b": 212 if len(steps) > 1 else 120})


def margin_by_context(prompts: pd.DataFrame) -> go.Figure:
    """The mean margin against the number of context pairs, at the last step: the model's as points, the closed form's as lines.

    Args:
        prompts: the table `hijack_prompts` of one run.

    Raises:
        UsageError: a column is missing, there are several runs, or no prompt without a competing pair.
    """
    require_columns(prompts, [*HELD, "predicted"], "hijack_prompts")
    one_run(prompts, "hijack_prompts")
    last = int(numbers(prompts, "step").max())
    rows = where(prompts, step=last, n_prior=0)
    rows = cast(pd.DataFrame, rows.loc[np.isfinite(numbers(rows, "margin"))])
    if rows.empty:
        raise UsageError(f"the hijack_prompts table has no prompt with n_prior 0 at step {last}")
    rows = rows.assign(level=np.round(numbers(rows, "log_odds")) + 0.0)  # + 0.0: no level is called -0
    levels = sorted(set(rows["level"]))
    places = sorted({int(pairs) for pairs in rows["n_context"]})
    colours = sample_colorscale("Viridis", list(np.linspace(0, 0.82, len(levels)))) if len(levels) > 1 else [theme.BLUE]
    figure = go.Figure()
    for number, (level, colour) in enumerate(zip(levels, colours, strict=True)):
        cells = [_cell(where(rows, level=level, n_context=pairs)) for pairs in places]
        means, halves, predicted = (list(values) for values in zip(*cells, strict=True))
        shift = 0.05 * (number - (len(levels) - 1) / 2)
        label = f"log-odds {level:g}"
        if any(value is not None for value in predicted):
            line = {"color": colour, "width": 1.8}
            name = f"{label}, closed form"
            along: dict[str, Any] = {"x": places, "y": predicted, "mode": "lines" if len(places) > 1 else "markers"}
            figure.add_scatter(
                **along, line=line, name=name, legendgroup=label, showlegend=False, hovertemplate=f"{name}: %{{y:.2f}}<extra></extra>"
            )
        marker = {"color": colour, "size": 9, "symbol": LEVEL_SYMBOLS[number % len(LEVEL_SYMBOLS)]}
        bars = {"type": "data", "array": halves, "color": colour, "thickness": 1.6, "width": 4}
        at = [pairs + shift for pairs in places]
        hover = f"{label}, %{{customdata}} pairs: %{{y:.2f}}<extra></extra>"
        look: dict[str, Any] = {"mode": "markers", "marker": marker, "error_y": bars, "legendgroup": label, "customdata": places}
        figure.add_scatter(x=at, y=means, name=label, hovertemplate=hover, **look)
    if np.isfinite(numbers(rows, "predicted")).any():
        figure.add_scatter(x=[None], y=[None], mode="lines", line={"color": theme.GREY, "width": 1.8}, name="closed form")
    figure.add_hline(y=0, line={"color": theme.INK, "width": 1.2})
    for text, anchor, shift in (("context wins ↑", "bottom", 3), ("hijacked ↓", "top", -3)):
        look = {"font": {"size": 12, "color": theme.INK}, "showarrow": False, "xanchor": "left", "yanchor": anchor, "yshift": shift}
        figure.add_annotation(xref="paper", x=1.005, y=0, text=text, **look)
    figure.update_xaxes(title={"text": "number of pairs q c in the context", "standoff": 6}, tickvals=places)
    figure.update_yaxes(title_text="mean margin, logit(c) − logit(g)")
    caption = (
        "How much the context has to repeat itself before it overrules the bigrams, for each strength of their preference for g"
        f" (log-odds, in nats). Points: the model at step {last}, with the 95% interval over prompts, moved aside a little so that they can"
        " be told apart; lines: the closed form with the fitted strengths, on the same prompts. Prompts without a competing pair q g, at"
        " all distances. With 0 pairs the bigrams speak alone."
    )
    title = f"Margin by number of context pairs: {theme.as_text(distinct(prompts, 'run')[0])}"
    theme.finish(figure, title, caption, height=430)
    return figure.update_layout(margin={"r": 112, "b": 92}, legend={"traceorder": "normal"})


def one_run(table: pd.DataFrame, name: str) -> None:
    """Raise UsageError unless all rows of `table` (called `name` in the message) are of one run."""
    runs = distinct(table, "run")
    if len(runs) != 1:
        raise UsageError(f"the {name} table holds {len(runs)} runs ({', '.join(runs)}), but this figure draws one; choose one run's rows")


@dataclass(frozen=True)
class Frame:
    """What changes in the map from step to step; an entry for each trace: the two winners, then the boundaries."""

    heights: list[list[float | None]]
    colours: list[float | None]
    names: list[str]

    def changes(self) -> dict[str, Any]:
        """As plotly's restyle takes it."""
        without = [None] * (len(self.heights) - len(WINNERS))
        return {"y": self.heights, "name": self.names, "marker.color": [self.colours] * len(WINNERS) + without}


def _frame(rows: pd.DataFrame, column: str, table: pd.DataFrame | None, parts: list[str], step: int, span: tuple[float, float]) -> Frame:
    """The map at one step. Both winners hold every prompt and leave out those of the other."""
    margins, gaps = numbers(rows, "margin"), numbers(rows, column)
    heights = [_rounded(np.where(won, gaps, np.nan)) for won in (margins >= 0, margins < 0)]
    names = list(WINNERS)
    for part in parts:
        row = where(_boundary(cast(pd.DataFrame, table), part), step=step)
        slope, low, high = (numbers(row, name)[-1] if len(row) else np.nan for name in ("value", "ci_low", "ci_high"))
        heights.append(_rounded(slope * np.array(span)))
        interval = f" [{low:.2g}, {high:.2g}]" if np.isfinite(low) and np.isfinite(high) else ""
        words = f"gap = {slope:.2g}{interval} × log-odds" if np.isfinite(slope) else "none at this step"
        names.append(f"boundary, {BOUNDARIES[part][0]}: {words}")
    return Frame(heights, _rounded(margins), names)


def _boundary(table: pd.DataFrame, part: str) -> pd.DataFrame:
    return where(table, metric="hijack_boundary", part=part)


def _gap_column(prompts: pd.DataFrame) -> str:
    """Which attention gap the map draws: the induction heads', where the last step has one, else the closed form's."""
    last = where(prompts, step=prompts["step"].max()) if len(prompts) else prompts
    for column in GAPS:
        if np.isfinite(numbers(last, column)).any():
            return column
    raise UsageError(f"no prompt of the hijack_prompts table has an attention gap at its last step (columns {', '.join(GAPS)})")


def _followed(prompts: pd.DataFrame, steps: list[int]) -> pd.DataFrame:
    """The prompts of that step which has the fewest, by their number; beyond `MAX_POINTS` a fixed random choice: designs are in
    the order of their grid, and every third would be of one distance."""
    fewest = min((where(prompts, step=step).drop_duplicates("prompt") for step in reversed(steps)), key=len).set_index("prompt")
    if len(fewest) <= MAX_POINTS:
        return fewest
    return fewest.iloc[np.sort(np.random.default_rng(0).choice(len(fewest), MAX_POINTS, replace=False))]


def _rounded(values: np.ndarray) -> list[float | None]:
    """As JSON has it: None for what is no finite number."""
    return [round(float(value), DECIMALS) if np.isfinite(value) else None for value in values]


def _cell(rows: pd.DataFrame) -> tuple[float | None, float | None, float | None]:
    """Mean margin, half of its 95 % interval (as the hijack table has it), and mean prediction; None where there is none."""
    margins, predicted = numbers(rows, "margin"), numbers(rows, "predicted")
    if not len(margins):
        return None, None, None
    half = float(Z95 * margins.std(ddof=1) / np.sqrt(len(margins))) if len(margins) > 1 else None
    return float(margins.mean()), half, float(predicted.mean()) if np.isfinite(predicted).all() else None


def _axes_of_map(figure: go.Figure, heights: list[list[float | None]], span: tuple[float, float], column: str) -> None:
    """The same axes at every step: the boundary moves among points, not the picture under it."""
    known = [height for frame in heights for height in frame if height is not None]
    low, high = min(known), max(known)
    room = 0.06 * (high - low) or 0.1
    figure.update_xaxes(title={"text": LOG_ODDS, "standoff": 6}, range=list(span))
    figure.update_yaxes(title_text=GAPS[column], range=[low - room, high + room])


def _map_caption(column: str, parts: list[str], n: int, steps: list[int]) -> str:
    words = (
        "Each point is a prompt whose context has shown c after the trigger q, while the bigrams of training prefer g after q by the"
        " log-odds. Above the line the context should win (circles, blue: the model finds c more likely), below it the bigrams hijack the"
        " answer (crosses, orange). A colour means the same margin at every step."
    )
    if parts:
        lines = {"closed form": "solid, of the closed form with the fitted strengths (slope t3 / t2)"}
        lines["attention of the induction heads"] = "dashed, of margins fitted by the induction heads' attention gap and the log-odds"
        words += f" Where the margin is zero: {'; '.join(lines[part] for part in parts)}; with the 95% interval of the slope."
    if column == "theory_gap":
        words += " The run has no induction heads whose attention could be drawn: the gap is the closed form's at the fitted t1."
    words += f" {n} prompts; those with more pairs q c stand a little to the right within their log-odds."
    return words + (" Drag the slider to follow them through training." if len(steps) > 1 else "")
