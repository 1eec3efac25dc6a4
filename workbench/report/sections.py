"""What a report holds: one function for each section, from runs to figures and words.

A section is one entry in `SECTIONS`. A function returns None where the runs hold nothing for it, and the report
then has no such section.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import UsageError
from workbench.figures import formation as curves
from workbench.figures.circuit import HEAD_NAME, circuit_curves, circuit_rows
from workbench.figures.head_curves import SCORE_TITLES, score_curves
from workbench.figures.heads import score_heat_map
from workbench.figures.hijack import hijack_map, margin_by_context
from workbench.figures.hijack_curves import PANELS, hijack_curves
from workbench.figures.hijack_parts import margin_parts
from workbench.figures.length import accuracy_by_position
from workbench.figures.tables import REPEATS, distinct, score_tasks
from workbench.figures.viewer import head_roles
from workbench.report.attention import attention_section
from workbench.report.blocks import Block, Entry, Section
from workbench.report.circuits import matrices_section, stream_section
from workbench.report.predictions import predictions_section
from workbench.report.tables import tables_section

ON_REPEATS = ("previous_token_score", "prefix_matching_score")
"""Scores of heads that are drawn for repeated random tokens."""

MAX_HIJACK_RUNS = 4
"""Runs whose prompts are drawn: the map of one run of 41 checkpoints takes some 200 KB."""


def summary_section(runs: Sequence[Entry]) -> Section:
    """In words, run by run, and as a table."""
    rows = [
        {
            "label": entry.label,
            "colour": entry.colour,
            "variant": entry.variant,
            "seed": entry.run.config.model.seed,
            "previous_token_head": entry.summary.get("previous_token_head") or "none",
            "induction_heads": ", ".join(entry.summary.get("induction_heads", ())) or "none",
            "in_context_accuracy": entry.summary.get("in_context_accuracy"),
            "formed_step": entry.summary.get("formed_step"),
            "asks_numbers": _asks_numbers(entry),
            "lines": entry.summary.get("lines", ()),
            "analysed": bool(entry.summary),
        }
        for entry in runs
    ]
    thresholds = sorted({entry.summary["threshold"] for entry in runs if "threshold" in entry.summary})
    return Section("summary", "Summary", [Block("summary", data={"runs": rows, "thresholds": thresholds})])


def formation_section(runs: Sequence[Entry]) -> Section | None:
    """Accuracy and loss over training, from the analysed checkpoints, or else from the evaluations during training."""
    tables = [table for entry in runs if (table := _formation(entry)) is not None]
    if not tables:
        return None
    table = pd.concat(tables, ignore_index=True)
    metrics = distinct(table, "metric")
    figures: list[go.Figure] = []
    if "in_context_accuracy" in metrics:
        formed = {entry.label: entry.summary["formed_step"] for entry in runs if "formed_step" in entry.summary}
        thresholds = {entry.summary["threshold"] for entry in runs if "threshold" in entry.summary}
        figures.append(curves.accuracy_curves(table, formed=formed, threshold=thresholds.pop() if len(thresholds) == 1 else None))
    for titles in (curves.LOSS_TITLES, curves.ERROR_TITLES):
        of_kind = [entry for entry in runs if _asks_numbers(entry) == (titles is curves.ERROR_TITLES)]
        own = cast(pd.DataFrame, table.loc[table["run"].isin([entry.label for entry in of_kind])])
        if any(metric in set(own["metric"]) for metric in titles):
            figures.append(curves.loss_curves(own, references=_shared_references(of_kind), numbers=titles is curves.ERROR_TITLES))
    return Section("formation", "Formation", [Block("figure", figure=figure) for figure in figures]) if figures else None


def _asks_numbers(entry: Entry) -> bool:
    task = entry.run.config.task
    return task is not None and task.asks_numbers


def _formation(entry: Entry) -> pd.DataFrame | None:
    table = entry.table("formation")
    if table is not None:
        return table
    try:
        return curves.from_metrics(entry.run.metrics(), run=entry.label, variant=entry.variant, seed=entry.run.config.model.seed)
    except UsageError:  # a run without an evaluation has no curves
        return None


def _shared_references(runs: Sequence[Entry]) -> dict[str, float]:
    """The floors on which all runs that give them agree: where tasks differ, one line would be true of one run only."""
    values: dict[str, set[float]] = {}
    for entry in runs:
        for metric, value in (entry.summary.get("references") or {}).items():
            values.setdefault(metric, set()).add(round(value, 6))
    return {metric: found.pop() for metric, found in values.items() if len(found) == 1}


def circuit_section(runs: Sequence[Entry]) -> Section | None:
    """What the parts of the circuit do over training, beside what is lost without them."""
    tables = []
    for entry in runs:
        held = {name: entry.table(name) for name in ("formation", "probes", "causal", "stream")}
        if held["formation"] is None or not entry.summary:
            continue
        named = (entry.summary.get("previous_token_head"), *entry.summary.get("induction_heads", ())[:1], None)[:2]
        previous, induction = (head if head and HEAD_NAME.fullmatch(head) else None for head in named)
        rows = circuit_rows(held, previous, induction)
        # Accuracy alone has its own figure.
        if not rows.empty and set(rows["curve"]) != {"in-context accuracy"}:
            tables.append(rows)
    if not tables:
        return None
    figure = circuit_curves(pd.concat(tables, ignore_index=True))
    return Section("circuit", "Circuit", [Block("figure", figure=figure)])


def heads_section(runs: Sequence[Entry]) -> Section | None:
    """Scores of every head, over training and as a heat map, on each kind of sequence on which they were measured."""
    tables = [table for entry in runs if (table := entry.table("formation")) is not None]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    roles = {entry.label: head_roles(entry.summary) for entry in runs}
    own = {entry.summary.get("task") for entry in runs}
    blocks: list[Block] = []
    for task in score_tasks(table):
        rows = cast(pd.DataFrame, table.loc[(table["task"] == task) & table["metric"].isin(list(SCORE_TITLES))])
        held = distinct(rows, "metric")
        # Beside an own task the repeats are a control: what the heads do there at each step, no curves of their own.
        control = [metric for metric in ON_REPEATS if metric in held] if task in REPEATS and task not in own else None
        if not (held if control is None else control):
            continue
        blocks.append(Block("heading", text=f"On {REPEATS.get(task, f'{task} sequences')}"))
        if control:
            blocks.append(Block("figure", figure=score_heat_map(rows, task=task, metrics=control)))
            continue
        previous = "previous_token_at_answers" if "previous_token_at_answers" in held else "previous_token_score"
        followed = [metric for metric in (previous, "prefix_matching_score") if metric in held]
        if followed:
            blocks.append(Block("figure", figure=score_curves(rows, task=task, roles=roles, metrics=followed)))
        blocks.append(Block("figure", figure=score_heat_map(rows, task=task)))
    return Section("heads", "Heads", blocks) if blocks else None


def hijack_section(runs: Sequence[Entry]) -> Section | None:
    """Who wins where the context contradicts the bigrams: over training, then prompt by prompt and in parts for each run."""
    tables = {entry.label: table for entry in runs if (table := entry.table("hijack")) is not None}
    blocks: list[Block] = []
    followed = [table for table in tables.values() if _over_steps(table)]
    if followed:
        blocks.append(Block("figure", figure=hijack_curves(pd.concat(followed, ignore_index=True))))
    drawn: list[str] = []
    left_out: list[str] = []
    for entry in runs:
        if entry.label not in tables:
            continue
        if len(drawn) == MAX_HIJACK_RUNS:
            left_out.append(entry.label)
            continue
        figures = _hijack_figures(tables[entry.label], entry.table("hijack_prompts"))
        if figures:
            drawn.append(entry.label)
            blocks += [Block("heading", text=entry.label), *(Block("figure", figure=figure) for figure in figures)]
    if left_out:
        words = f"Prompts and parts of these runs are left out to keep this file small: {', '.join(left_out)}."
        blocks.append(Block("note", text=f"{words} Make a report of these runs alone to see them."))
    return Section("hijack", "Knowledge hijack", blocks) if blocks else None


def _over_steps(table: pd.DataFrame) -> bool:
    """Whether the table follows anything that the curves draw."""
    drawn = cast(pd.DataFrame, table.loc[table["metric"].isin([panel.metric for panel in PANELS])])
    return drawn["step"].nunique() > 1


def _hijack_figures(table: pd.DataFrame, prompts: pd.DataFrame | None) -> list[go.Figure]:
    """A run's map, margins and parts, as far as its tables hold them."""
    draws: list[Callable[[], go.Figure]] = [lambda: margin_parts(table)]
    if prompts is not None:
        draws = [lambda: hijack_map(prompts, table), lambda: margin_by_context(prompts), *draws]
    figures = []
    for draw in draws:
        with suppress(UsageError):  # older tables, and runs too short to be fitted, lack what some figure shows
            figures.append(draw())
    return figures


def length_section(runs: Sequence[Entry]) -> Section | None:
    """Accuracy, the previous-token head and hijacks by position; runs of one variant are averaged, those of as many layers together."""
    tables = {entry.label: table for entry in runs if (table := entry.table("length")) is not None}
    table = pd.concat(tables.values(), ignore_index=True) if tables else pd.DataFrame({"metric": []})
    if "accuracy_by_position" not in distinct(table, "metric"):
        return None
    models = {entry.label: entry.run.config.model for entry in runs if entry.label in tables}
    several = len({model.n_layers for model in models.values()}) > 1
    labels = {label: f"{model.variant}, {model.n_layers} layers" if several else model.variant for label, model in models.items()}
    return Section("length", "Length", [Block("figure", figure=accuracy_by_position(table, labels))])


def provenance_section(runs: Sequence[Entry]) -> Section:
    """The whole configuration of each run, and where it came from."""
    blocks = [
        Block(
            "provenance",
            data={
                "label": entry.label,
                "path": str(entry.run.path),
                "config": entry.run.config.to_yaml(),
                "provenance": json.dumps(entry.run.provenance, indent=2, ensure_ascii=False, default=str),
            },
        )
        for entry in runs
    ]
    return Section("provenance", "Configuration and provenance", blocks)


SECTIONS: list[Callable[[Sequence[Entry]], Section | None]] = [
    summary_section,
    formation_section,
    circuit_section,
    matrices_section,
    stream_section,
    heads_section,
    hijack_section,
    attention_section,
    predictions_section,
    length_section,
    tables_section,
    provenance_section,
]
"""The sections of a report, in the order of the page."""
