"""The circuit by position, inside the training length and beyond it, at the last analysed step of each run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.seeds import t_interval
from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.tables import distinct, numbers, require_columns, where

PANELS = {
    "accuracy_by_position": "In-context accuracy",
    "previous_token_by_position": "Previous-token score, best head",
    "hijack_rate_by_position": "Hijack rate",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
PANEL_HEIGHT = 230


def accuracy_by_position(length_table: pd.DataFrame, labels: Mapping[str, str] | None = None) -> go.Figure:
    """In-context accuracy by position, and below it, where the table has them, the score of the best previous-token head and the
    hijack rate, all in [0, 1]; one colour and dash a position type.

    Args:
        length_table: a table of the section length; concatenate those of several runs. Only the last step of each run is drawn.
        labels: for each run, the line that it belongs to; runs of one line are averaged. Default: its variant.

    Raises:
        UsageError: a column or accuracy_by_position is missing, or a run has no label.
    """
    require_columns(length_table, ["run", "variant", "step", "layer", "head", "metric", "value", "position", "part"], "length")
    table = _at_the_end(length_table)
    labels = {run: where(table, run=run)["variant"].iloc[0] for run in distinct(table, "run")} if labels is None else labels
    if unnamed := [run for run in distinct(table, "run") if run not in labels]:
        raise UsageError(f"the run {unnamed[0]!r} has no label; there are labels for {', '.join(labels) or 'none'}")
    table = table.assign(line=[labels[str(run)] for run in table["run"]])
    drawn = {metric: rows for metric in PANELS if not (rows := _binned(table, metric)).empty}
    if "accuracy_by_position" not in drawn:
        raise UsageError("the length table has no rows of accuracy_by_position; analyse the section length")
    titles = [PANELS[metric] for metric in drawn]
    figure = make_subplots(rows=len(drawn), cols=1, shared_xaxes=True, vertical_spacing=0.22 / len(drawn), subplot_titles=titles)
    looks = _looks({line: str(where(table, line=line)["variant"].iloc[0]) for line in distinct(table, "line")})
    for row, rows in enumerate(drawn.values(), start=1):
        curves = {line: curve for line in looks if not (curve := _curve(where(rows, line=line))).empty}
        # All bands first, so that none covers a line.
        for line, curve in curves.items():
            _add_band(figure, curve, line, looks[line][0], row)
        for line, curve in curves.items():
            _add_line(figure, curve, line, *looks[line], row)
    if (trained := _training_length(table)) is not None:
        figure.add_vline(x=trained - 0.5, line={"color": theme.GREY, "dash": "dash", "width": 1})
        text = {"text": f"training length {trained}", "font": {"color": theme.GREY, "size": 12}, "showarrow": False}
        first: dict[str, Any] = {"row": 1, "col": 1}
        figure.add_annotation(x=trained, y=-0.03, yanchor="bottom", xanchor="left", xshift=4, **text, **first)
    figure.update_yaxes(range=[-0.03, 1.06])
    figure.update_xaxes(rangemode="tozero")
    figure.update_xaxes(title_text="position in the sequence (a bin stands at its first)", row=len(drawn))
    figure = theme.finish(figure, "By position", _caption(table, drawn, trained), height=130 + PANEL_HEIGHT * len(drawn))
    return figure.update_layout(legend={"traceorder": "normal"}, margin={"b": 100})


def _at_the_end(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last step; all rows of a run without steps."""
    steps = numbers(table, "step")
    last = pd.Series(steps).groupby(np.asarray(table["run"].astype(str))).transform("max").to_numpy()
    return cast(pd.DataFrame, table.loc[(steps == last) | np.isnan(last)])


def _binned(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of a metric that have a position, in order; of a metric of heads, those of each run's best head inside."""
    rows = where(table, metric=metric)
    if not np.isnan(numbers(rows, "layer")).all():
        whole = rows.loc[np.isnan(numbers(rows, "position")) & (rows["part"] == "inside").to_numpy(dtype=bool)]
        best = whole.sort_values(by="value", ascending=False, kind="stable").drop_duplicates("run")
        rows = rows.merge(best[["run", "layer", "head"]], on=["run", "layer", "head"])
    return cast(pd.DataFrame, rows.loc[~np.isnan(numbers(rows, "position"))]).sort_values(by="position", kind="stable")


def _looks(variants: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """line -> colour and dash. Where position types differ, each has its own of both; lines that would share a colour
    (streams, or numbers of layers) differ by their dashes."""
    several = len({theme.position_type(variant) for variant in variants.values()}) > 1
    own = {
        line: theme.POSITION_LOOKS[theme.position_type(variant)]
        if several
        else (theme.variant_colour(variant), theme.variant_dash(variant))
        for line, variant in variants.items()
    }
    looks = {}
    for line, (colour, dash) in own.items():
        alike = [other for other in own if own[other][0] == colour]
        distinct_dashes = len({own[other][1] for other in alike}) == len(alike)
        looks[line] = (colour, dash if distinct_dashes else DASHES[alike.index(line) % len(DASHES)])
    return looks


def _training_length(table: pd.DataFrame) -> int | None:
    """Where the first stretch beyond the training length starts, if the runs that go beyond agree on it."""
    beyond = where(table, metric="accuracy_by_position", part="1x to 2x").dropna(subset="position")
    first = {int(where(beyond, run=run)["position"].min()) for run in distinct(beyond, "run")}
    return first.pop() if len(first) == 1 else None


def _curve(rows: pd.DataFrame) -> pd.DataFrame:
    """One line of a panel: position, value, ci_low, ci_high and runs. Of several runs: the mean with its t interval, at the
    positions at which all have a value."""
    runs = distinct(rows, "run")
    if len(runs) < 2:
        columns = {column: numbers(rows, column) for column in ("position", "value", "ci_low", "ci_high")}
        return pd.DataFrame(columns).assign(runs=len(runs))
    values = rows.pivot(index="position", columns="run", values="value").dropna()
    means = [t_interval(of_position) for of_position in values.to_numpy(dtype=float)]
    columns = {
        "value": [mean.mean for mean in means],
        "ci_low": [mean.ci_low for mean in means],
        "ci_high": [mean.ci_high for mean in means],
    }
    return pd.DataFrame({"position": values.index.to_numpy(dtype=float), **columns}).assign(runs=len(runs))


def _add_band(figure: go.Figure, curve: pd.DataFrame, line: str, colour: str, row: int) -> None:
    known = curve.dropna()
    if len(known) < 2:
        return
    x, low, high = (numbers(known, column) for column in ("position", "ci_low", "ci_high"))
    around = {"x": [*x, *x[::-1]], "y": [*high, *low[::-1]], "mode": "lines", "name": "interval", "legendgroup": line, "showlegend": False}
    band: dict[str, Any] = {"fill": "toself", "fillcolor": theme.translucent(colour, 0.12), "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_trace(go.Scatter(**around, **band), row=row, col=1)


def _add_line(figure: go.Figure, curve: pd.DataFrame, line: str, colour: str, dash: str, row: int) -> None:
    runs = int(curve["runs"].iloc[0])
    name = theme.as_text(line) + (f" (mean of {runs})" if runs > 1 else "")
    shown = not any(trace.legendgroup == line and trace.showlegend for trace in cast(Any, figure.data))
    hover = f"{name}<br>position %{{x}}: %{{y:.3f}}<extra></extra>"
    look: dict[str, Any] = {"line": {"color": colour, "dash": dash, "width": 2.2}, "marker": {"color": colour, "size": 6}}
    look |= {"name": name, "legendgroup": line, "showlegend": shown, "hovertemplate": hover, "mode": "lines+markers"}
    figure.add_trace(go.Scatter(x=numbers(curve, "position"), y=numbers(curve, "value"), **look), row=row, col=1)


def _caption(table: pd.DataFrame, drawn: Mapping[str, pd.DataFrame], trained: int | None) -> str:
    words = ["Share of correct predictions, by position, where the context has already shown the answer."]
    if "previous_token_by_position" in drawn:
        words.append(
            "Previous-token score: attention to the position before, at the positions that an induction head has to read, of the head"
            " with the highest score inside the training length."
        )
    if "hijack_rate_by_position" in drawn:
        words.append(
            "Hijack rate: share of prompts of that length at whose end the bigrams overrule what the context has shown just before."
        )
    if trained is not None:
        words.append(
            "Dashed grey: the training length; bins are twice as wide from twice that length on. Beyond it, accuracy can still profit"
            " from answers shown inside; prompts of the hijack rate show theirs once, just before the end."
        )
    runs = [len(distinct(where(table, line=line), "run")) for line in distinct(table, "line")]
    if min(runs) == 1:
        words.append("Shaded: 95% interval over sequences or prompts" + (", for a single run." if max(runs) > 1 else "."))
    if max(runs) > 1:
        words.append("Shaded, for means: 95% t interval over runs.")
    return " ".join(words)
