"""Curves over training steps: when a model begins to use its context.

Every function takes a formation table (one row for each run, step and metric; concatenate the tables of several
runs) and returns a figure that works alone in a notebook. `theme.caption` gives its caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.tables import distinct, metric_rows, numbers, require_columns, where

EVALUATION_METRICS = ("loss", "in_context_accuracy", "in_context_loss", "bigram_loss", "excess_loss")
LOSS_TITLES = {"loss": "All positions", "in_context_loss": "In-context positions", "bigram_loss": "Bigram positions"}
ERROR_TITLES = {
    "loss": "All asked positions",
    "in_context_loss": "In-context positions",
    "excess_loss": "Above least squares",
}
"""of a task that asks for numbers, where the loss is the squared error"""


def from_metrics(metrics: pd.DataFrame, *, run: str, variant: str, seed: int) -> pd.DataFrame:
    """The evaluations in a run's training metrics, as rows of a formation table (without intervals).

    For runs whose checkpoints were not analysed: `accuracy_curves` and `loss_curves` need no more.

    Raises:
        UsageError: there is no column `step`, or no evaluation.
    """
    require_columns(metrics, ["step"], "training metrics")
    known = [name for name in EVALUATION_METRICS if name in metrics]
    rows = metrics.melt(id_vars="step", value_vars=known, var_name="metric", value_name="value").dropna(subset="value")
    require_columns(rows, ["metric", "value"], "training metrics (evaluations)")
    return rows.assign(run=run, variant=variant, seed=seed).reset_index(drop=True)


def accuracy_curves(
    formation: pd.DataFrame, *, formed: Mapping[str, int | None] | None = None, threshold: float | None = None
) -> go.Figure:
    """In-context accuracy over steps, one colour a variant.

    Args:
        formation: a formation table with the metric in_context_accuracy, in [0, 1].
        formed: for each run, the first checkpoint at or above the threshold; None where it was not reached.
            Marked by a diamond on the curve and a vertical line, and named in the legend.
        threshold: drawn as a dashed line.

    Raises:
        UsageError: the table lacks the metric.
    """
    rows = metric_rows(formation, "in_context_accuracy")
    formed = {} if formed is None else formed
    figure = go.Figure()
    for variant in distinct(rows, "variant"):
        own = where(rows, variant=variant)
        _add_variant(figure, own, variant, label=_variant_label(own, variant) + _formed_words(own, formed))
        for run in distinct(own, "run"):
            _mark_formed(figure, where(own, run=run), variant, formed.get(run))
    if threshold is not None:
        text = {"text": f"threshold {threshold:g}", "font": {"color": theme.GREY, "size": 12}}
        line = {"color": theme.GREY, "dash": "dash", "width": 1}
        figure.add_hline(y=threshold, line=line, annotation=text, annotation_position="top left")
    figure.update_xaxes(title_text="training step (optimiser updates)")
    figure.update_yaxes(title_text="accuracy (fraction correct)", range=[-0.02, 1.06])
    caption = (
        "Share of correct predictions where the context has already shown the answer."
        " A sudden rise is the sign that an induction circuit formed."
    )
    if threshold is not None and formed:
        caption += f" Diamond and dotted line: the first checkpoint at or above {threshold:g}."
    return theme.finish(figure, "In-context accuracy", f"{caption} {_interval_words(rows)}".strip(), height=400)


def loss_curves(formation: pd.DataFrame, *, references: Mapping[str, float] | None = None, numbers: bool = False) -> go.Figure:
    """Cross-entropy (of tasks that ask for numbers, squared error) over steps, a panel for each kind of position that the table holds.

    Args:
        formation: a formation table with at least one of the metrics loss, in_context_loss, bigram_loss, in nats.
        references: for a metric, the loss that a perfect predictor reaches; drawn as a dashed line.
        numbers: the table is of tasks that ask for numbers; their losses are squared errors, and there is excess_loss.

    Raises:
        UsageError: the table holds none of the losses.
    """
    require_columns(formation, ["metric"], "formation")
    known = ERROR_TITLES if numbers else LOSS_TITLES
    metrics = [metric for metric in known if metric in distinct(formation, "metric")]
    if not metrics:
        raise UsageError(f"the formation table holds none of the losses {', '.join(known)}")
    references = {} if references is None else references
    titles = [known[metric] for metric in metrics]
    figure = make_subplots(rows=1, cols=len(metrics), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=titles)
    tables = [metric_rows(formation, metric) for metric in metrics]
    for column, (metric, rows) in enumerate(zip(metrics, tables, strict=True), start=1):
        for variant in distinct(rows, "variant"):
            own = where(rows, variant=variant)
            _add_variant(figure, own, variant, label=_variant_label(own, variant), unit="" if numbers else " nats", column=column)
        if metric in references:
            line = {"color": theme.INK, "dash": "dash", "width": 1.2}
            text = {"text": f"floor {references[metric]:.2f}", "font": {"size": 12}}
            place: dict[str, Any] = {"row": 1, "col": column}
            figure.add_hline(y=references[metric], line=line, annotation=text, annotation_position="bottom right", **place)
    figure.update_xaxes(title_text="training step")
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="squared error" if numbers else "cross-entropy (nats)", col=1)
    caption = (
        "Mean cross-entropy on evaluation sequences. In-context positions: the context has already shown the answer;"
        " bigram positions: only the statistics of neighbouring tokens help."
    )
    if numbers:
        caption = (
            "Mean squared error on evaluation sequences, where a number is asked for. In-context positions: without noise, the context"
            " determines it. Above least squares: minus the squared error of the least-squares prediction from the context."
        )
    if any(metric in references for metric in metrics):
        caption += " Dashed: the floor, which a perfect predictor reaches."
    return theme.finish(figure, "Loss", f"{caption} {_interval_words(pd.concat(tables))}".strip(), height=380)


def _add_variant(figure: go.Figure, rows: pd.DataFrame, variant: str, *, label: str, unit: str = "", column: int | None = None) -> None:
    """One run: its line and band. Several: thin lines and their mean, at the steps that all of them have."""
    runs = distinct(rows, "run")
    colour, dash = theme.variant_colour(variant), theme.variant_dash(variant)
    place: dict[str, Any] = {} if column is None else {"row": 1, "col": column}
    # One legend entry switches a variant on and off in every panel.
    in_legend = column in (None, 1)
    hover = "step %{x}<br>%{y:.4g}" + unit + "<extra></extra>"
    if len(runs) == 1:
        _add_interval(figure, rows, variant, place)
    for run in runs:
        own, name = where(rows, run=run), theme.as_text(run)
        line = {"color": colour, "dash": dash, "width": 2.4} if len(runs) == 1 else {"color": theme.translucent(colour, 0.45), "width": 1}
        look: dict[str, Any] = {
            "name": label if len(runs) == 1 else name,
            "legendgroup": variant,
            "showlegend": in_legend and len(runs) == 1,
        }
        look |= {"mode": theme.line_mode(len(own)), "hovertemplate": f"{name}<br>{hover}", "marker": {"color": colour}}
        figure.add_scatter(x=own["step"], y=own["value"], line=line, **look, **place)
    if len(runs) > 1:
        by_step = rows.pivot(index="step", columns="run", values="value").dropna()
        line = {"color": colour, "dash": dash, "width": 3}
        look: dict[str, Any] = {
            "name": label,
            "legendgroup": variant,
            "showlegend": in_legend,
            "hovertemplate": f"mean of {len(runs)}<br>{hover}",
        }
        look |= {"mode": theme.line_mode(len(by_step)), "marker": {"color": colour, "size": 9}}
        figure.add_scatter(x=by_step.index, y=by_step.mean(axis=1), line=line, **look, **place)


def _add_interval(figure: go.Figure, rows: pd.DataFrame, variant: str, place: dict[str, Any]) -> None:
    """The band from ci_low to ci_high, where the table has them."""
    low, high, steps = numbers(rows, "ci_low"), numbers(rows, "ci_high"), numbers(rows, "step")
    known = ~np.isnan(low) & ~np.isnan(high)
    if not known.any():
        return
    outline_x = np.concatenate([steps[known], steps[known][::-1]])
    outline_y = np.concatenate([high[known], low[known][::-1]])
    colour = theme.translucent(theme.variant_colour(variant), 0.18)
    look: dict[str, Any] = {"fill": "toself", "fillcolor": colour, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=outline_x, y=outline_y, name="interval", legendgroup=variant, showlegend=False, **look, **place)


def _mark_formed(figure: go.Figure, rows: pd.DataFrame, variant: str, step: int | None) -> None:
    at = where(rows, step=step)
    if step is None or at.empty:
        return
    colour = theme.variant_colour(variant)
    figure.add_vline(x=step, line={"color": colour, "dash": "dot", "width": 1.2})
    marker = {"symbol": "diamond", "size": 11, "color": colour, "line": {"color": "white", "width": 1.5}}
    look: dict[str, Any] = {"name": "formed", "legendgroup": variant, "showlegend": False}
    hover = "formed at step %{x}<br>accuracy %{y:.4g}<extra></extra>"
    figure.add_scatter(x=at["step"], y=at["value"], mode="markers", marker=marker, hovertemplate=hover, **look)


def _variant_label(rows: pd.DataFrame, variant: str) -> str:
    runs = len(distinct(rows, "run"))
    if runs == 1:
        return theme.as_text(variant)
    what = "seeds" if len(distinct(rows, "seed")) == runs else "runs"
    return f"{theme.as_text(variant)} (mean of {runs} {what})"


def _formed_words(rows: pd.DataFrame, formed: Mapping[str, int | None]) -> str:
    """What the legend says about the formed step; runs that did not reach the threshold are counted, not dropped."""
    known = [formed[run] for run in distinct(rows, "run") if run in formed]
    steps: Sequence[int] = [step for step in known if step is not None]
    if not known:
        return ""
    if not steps:
        return f": not formed by step {numbers(rows, 'step').max():.0f}"
    if len(known) == 1:
        return f": formed at step {steps[0]}"
    span = f"step {min(steps)}" if min(steps) == max(steps) else f"steps {min(steps)} to {max(steps)}"
    return f": {len(steps)} of {len(known)} formed, at {span}"


def _interval_words(rows: pd.DataFrame) -> str:
    """How to read bands and thin lines, where there are any."""
    runs_of_variant = cast(pd.Series, rows.groupby("variant")["run"].transform("nunique")).to_numpy()
    alone = cast(pd.DataFrame, rows.loc[runs_of_variant == 1])
    words = []
    if not np.isnan(numbers(alone, "ci_low")).all():
        sizes = np.unique(numbers(alone, "n"))
        count = f"; n = {sizes[0]:.0f}" if len(sizes) == 1 and not np.isnan(sizes[0]) else ""
        words.append(f"Shaded: 95% interval over sequences (columns ci_low and ci_high of the table{count}).")
    if len(alone) < len(rows):
        words.append("Thin lines: single runs; thick: their mean.")
    return " ".join(words)
