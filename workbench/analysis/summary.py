"""What the numbers say, in sentences and as plain values. Nothing here that is not a row of the tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.analysis.data import CONTROL, AnalysisData
from workbench.analysis.emergence import first_reached

ACCURACY = 0.95
"""In-context accuracy from which in-context learning counts as formed."""
PREVIOUS_TOKEN = 0.4
"""Score previous_token_at_answers from which a head is called a previous-token head. A choice: in four trained
models (two tasks, one seed each) the strongest head scored 0.42 to 0.82; of the others one scored 0.67, the rest 0.23 or less."""
PREFIX_MATCHING = 0.5
"""Prefix-matching score from which a head is called an induction head: most of its attention, where the answer has
been seen."""


def summarise(formation: pd.DataFrame, data: AnalysisData) -> dict[str, Any]:
    """Sentences and values for the last checkpoint of a formation table, and when they were first reached."""
    own = formation[formation["task"] == data.own]
    last = int(own["step"].max())
    task = data.tasks[data.own]
    summary: dict[str, Any] = {
        "task": data.own,
        "step": last,
        "threshold": ACCURACY,
        "references": task.references(),
        "in_context_accuracy": _last(own, "in_context_accuracy", last),
        "bigram_loss": _last(own, "bigram_loss", last),
        "in_context_score": _last(own, "in_context_score", last),
        "formed_step": _reached(own, "in_context_accuracy", ACCURACY),
        "heads": _heads(own, formation[formation["task"] == CONTROL], last),
    }
    of_kind = {kind: [head for head in summary["heads"] if head["kind"] == kind] for kind in ("previous-token", "induction", "positional")}
    summary["previous_token_head"] = of_kind["previous-token"][0]["head"] if of_kind["previous-token"] else None
    summary["induction_heads"] = [head["head"] for head in of_kind["induction"]]
    summary["lines"] = [line for line in (_accuracy(own, summary), *_circuit(own, summary, of_kind), _bigram(own, summary)) if line]
    return summary


def _row(table: pd.DataFrame, metric: str, step: int) -> pd.Series | None:
    rows = table[(table["metric"] == metric) & (table["step"] == step)]
    return None if rows.empty or rows["value"].isna().all() else rows.iloc[0]


def _last(table: pd.DataFrame, metric: str, step: int) -> float | None:
    row = _row(table, metric, step)
    return None if row is None else float(row["value"])


def _reached(table: pd.DataFrame, metric: str, threshold: float) -> int | None:
    rows = table[table["metric"] == metric]
    return first_reached(rows["step"].astype(int).tolist(), rows["value"].tolist(), threshold)


def _heads(own: pd.DataFrame, control: pd.DataFrame, last: int) -> list[dict[str, Any]]:
    """The heads that a score names, strongest first, each with its score and the step at which half of it was first reached."""
    found = []
    for kind, metric, threshold in (
        ("previous-token", "previous_token_at_answers", PREVIOUS_TOKEN),
        ("induction", "prefix_matching_score", PREFIX_MATCHING),
    ):
        rows = own[own["metric"] == metric]
        final = rows[(rows["step"] == last) & (rows["value"] >= threshold)].sort_values("value", ascending=False)
        for layer, head, value in final[["layer", "head", "value"]].itertuples(index=False):
            curve = rows[(rows["layer"] == layer) & (rows["head"] == head)]
            half = first_reached(curve["step"].astype(int).tolist(), curve["value"].tolist(), float(value) / 2)
            entry = {"kind": kind, "head": f"L{layer}H{head}", "score": float(value), "half_step": half}
            found.append(_unmasked(entry, control, int(layer), int(head), last) if kind == "induction" else entry)
    return found


def _unmasked(entry: dict[str, Any], control: pd.DataFrame, layer: int, head: int, last: int) -> dict[str, Any]:
    """A head with a high prefix-matching score, called positional where it cannot be matching: in layer 0, where no
    earlier head can have told it what came before, or where its score does not hold on non-periodic repeats."""
    here = (control["step"] == last) & (control["layer"] == layer) & (control["head"] == head)
    values = control[here & (control["metric"] == "prefix_matching_score")]["value"]
    held = None if values.empty else float(values.iloc[0])
    positional = layer == 0 or (held is not None and held < PREFIX_MATCHING)
    return {**entry, "kind": "positional" if positional else "induction", "control_score": held}


def _accuracy(own: pd.DataFrame, summary: dict[str, Any]) -> str:
    row = _row(own, "in_context_accuracy", summary["step"])
    if row is None:
        return "In-context accuracy was not measured."
    now = f"{row['value']:.1%} at step {summary['step']} (95% interval {row['ci_low']:.1%} to {row['ci_high']:.1%}, {row['n']} sequences)"
    if own["step"].nunique() == 1:
        return f"In-context accuracy is {now}."
    if summary["formed_step"] is None:
        return f"In-context accuracy never reaches {ACCURACY:.0%}; it ends at {now}."
    return f"In-context accuracy first reaches {ACCURACY:.0%} at step {summary['formed_step']} and ends at {now}."


def _circuit(own: pd.DataFrame, summary: dict[str, Any], of_kind: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One sentence on each kind of head, with the step by which half of its score was there."""
    if own[own["metric"] == "prefix_matching_score"].empty and own[own["metric"] == "previous_token_at_answers"].empty:
        return []
    several = own["step"].nunique() > 1
    lines = []
    for kind, article, places, threshold in (
        ("previous-token", "a previous-token head", "the token before, at the positions that hold answers", PREVIOUS_TOKEN),
        ("induction", "an induction head", "what followed earlier occurrences of the token", PREFIX_MATCHING),
    ):
        heads = of_kind[kind]
        if heads:
            named = "; ".join(_named(head, several) for head in heads)
            lines.append(f"{kind.capitalize()} head{'s' if len(heads) > 1 else ''}, with mean attention to {places}: {named}.")
        else:
            lines.append(f"No head qualifies as {article} (a score of at least {threshold}).")
    if of_kind["positional"]:
        named = "; ".join(_named(head, several) + _on_control(head) for head in of_kind["positional"])
        lines.append(f"Not induction heads, though they score high (in layer 0, or on periodic repeats alone): {named}.")
    return lines


def _on_control(head: dict[str, Any]) -> str:
    held = head["control_score"]
    return "" if held is None else f", {held:.2f} on non-periodic repeats"


def _named(head: dict[str, Any], several: bool) -> str:
    since = f", half of it by step {head['half_step']}" if several else ""
    return f"{head['head']} ({head['score']:.2f}{since})"


def _bigram(own: pd.DataFrame, summary: dict[str, Any]) -> str:
    row = _row(own, "bigram_loss", summary["step"])
    if row is None:
        return ""
    floor = summary["references"].get("bigram_loss")
    beside = f"; the best possible is {floor:.2f}" if floor is not None else ""
    return f"Where only learnt statistics help, the loss is {row['value']:.2f} nats{beside}."
