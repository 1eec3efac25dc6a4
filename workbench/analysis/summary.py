"""The account of a run in sentences and plain values. Every number in it is a value of the tables, and says of which row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from workbench.analysis.data import AnalysisData
from workbench.analysis.emergence import ACCURACY, first_reached
from workbench.analysis.evidence import Line
from workbench.analysis.roles import PREFIX_MATCHING, PREVIOUS_TOKEN, Head, Roles
from workbench.analysis.rows import tabulate
from workbench.analysis.summary_hijack import hijack_lines

ALIKE = 0.5
"""Controls that lose at least this share of what the named heads lose are said to matter as much."""
NECESSARY = 0.05
"""In-context accuracy that a single head must cost to be called necessary by itself."""
GOOD_FIT = 0.95
"""Share of a curve's variance below which a single rise does not describe it."""
LASTING = 0.9
"""Share of what formed that must be left at the end, or it is said to decay."""

KINDS = (
    (
        "previous-token",
        "previous_token_at_answers",
        "previous_token",
        "the token before, at the positions that hold answers",
        PREVIOUS_TOKEN,
    ),
    ("induction", "prefix_matching_score", "induction", "what followed earlier occurrences of the token", PREFIX_MATCHING),
)
"""kind, the score that names it, its field in Roles, what such a head attends to, the threshold"""


def summarise(tables: Mapping[str, pd.DataFrame], data: AnalysisData, roles: Roles) -> dict[str, Any]:
    """Sentences (`lines`), the rows that they rest on (`evidence`, one list a sentence), and the main values, for the last
    checkpoint of the tables of a run: each section adds its sentences where it was measured."""
    # Events are of the whole run: alone, they stand at no checkpoint.
    last = max((int(table["step"].max()) for name, table in tables.items() if name != "emergence" and len(table)), default=0)
    formation = tables.get("formation", tabulate([]))
    own = formation[formation["task"] == data.own]
    several = own["step"].nunique() > 1

    def line() -> Line:
        return Line(tables, last, data.own)

    references = data.tasks[data.own].references()
    numbers = data.tasks[data.own].config.asks_numbers
    found = [
        _squared_error(line()) if numbers else _accuracy(line(), own),
        *(_heads(line(), roles, *kind) for kind in KINDS),
        _positional(line(), roles, data.control),
        *((_order(line()), _undecided(line()), _not_lasting(line())) if several else ()),
        *(_carried(line(), name, heads) for name, heads in roles.groups.items()),
        *_wire(line, roles),
        _copying(line(), roles),
        *hijack_lines(line),
        _bigram(line(), references),
    ]
    kept = [part for part in found if part.text]
    names = ("loss", "in_context_loss", "excess_loss") if numbers else ("in_context_accuracy", "bigram_loss", "in_context_score")
    values = {name: line().value("formation", name) for name in names}
    return {
        "task": data.own,
        "step": last,
        **({} if numbers else {"threshold": ACCURACY}),
        "references": references,
        **values,
        **({} if numbers else {"formed_step": _reached(own)}),
        "heads": [entry for kind in KINDS for entry in _entries(line(), roles, *kind[:3])] + _unmasked(line(), roles, data.control),
        "previous_token_head": str(roles.previous_token[0]) if roles.previous_token else None,
        "induction_heads": [str(head) for head in roles.induction],
        "lines": [part.text for part in kept],
        "evidence": [part.evidence for part in kept],
    }


def _reached(own: pd.DataFrame) -> int | None:
    rows = own[own["metric"] == "in_context_accuracy"]
    return first_reached(rows["step"].astype(int).tolist(), rows["value"].tolist(), ACCURACY)


def _place(head: Head) -> dict[str, int]:
    return {"layer": head.layer, "head": head.head}


def _entries(line: Line, roles: Roles, kind: str, metric: str, field: str) -> list[dict[str, Any]]:
    """The heads of a kind as plain values."""
    return [
        {
            "kind": kind,
            "head": str(head),
            "score": line.value("formation", metric, _place(head)),
            "selection": line.value("formation", metric, _place(head), "selection"),
            "baseline": line.value("formation", metric, _place(head), "baseline"),
        }
        for head in getattr(roles, field)
    ]


def _unmasked(line: Line, roles: Roles, control: str | None) -> list[dict[str, Any]]:
    entries = _entries(line, roles, "positional", "prefix_matching_score", "positional")
    for entry, head in zip(entries, roles.positional, strict=True):
        entry["control_score"] = line.value("formation", "prefix_matching_score", _place(head), task=control) if control else None
    return entries


def _accuracy(line: Line, own: pd.DataFrame) -> Line:
    value = line.value("formation", "in_context_accuracy")
    if value is None:
        line.text = "" if own.empty else "In-context accuracy was not measured."
        return line
    low, high, n = (line.value("formation", "in_context_accuracy", {}, column) for column in ("ci_low", "ci_high", "n"))
    within = f" (95% interval {low:.1%} to {high:.1%}, {n:.0f} sequences)" if low is not None and high is not None else ""
    now = f"{value:.1%} at step {line.step}{within}"
    formed = _reached(own)
    if own["step"].nunique() == 1:
        line.text = f"In-context accuracy is {now}."
    elif formed is None:
        line.text = f"In-context accuracy never reaches {ACCURACY:.0%}; it ends at {now}."
    else:
        line.text = f"In-context accuracy first reaches {ACCURACY:.0%} at step {formed} and ends at {now}."
    return line


def _squared_error(line: Line) -> Line:
    """Of a task that asks for numbers: the squared error, beside least squares on the same context."""
    whole, context = (line.interval("formation", name, style=".3f") for name in ("loss", "in_context_loss"))
    if whole and context:
        line.text = f"The squared error is {whole} at step {line.step}, and {context} where the context determines the answer"
        above = line.interval("formation", "excess_loss", style=".3f")
        line.text += f"; that of least squares on the context is lower by {above} in the mean." if above else "."
    return line


def _heads(line: Line, roles: Roles, kind: str, metric: str, field: str, places: str, threshold: float) -> Line:
    """Which heads are of a kind: named on one half of the sequences, with their score on the other."""
    heads = getattr(roles, field)
    if "formation" not in line.tables or line.tables["formation"]["metric"].ne(metric).all():
        return line
    if not heads:
        line.text = f"No head qualifies as {'an' if kind == 'induction' else 'a'} {kind} head (a score of at least {threshold})."
        return line
    named = []
    for head in heads:
        score = line.value("formation", metric, _place(head))
        baseline = line.value("formation", metric, _place(head), "baseline")
        if score is not None:
            named.append(f"{head} {score:.2f}" + (f" (by chance {baseline:.2f})" if baseline is not None else ""))
    line.text = f"{kind.capitalize()} head{'s' if len(heads) > 1 else ''}, with mean attention to {places}: {'; '.join(named)}."
    return line


def _positional(line: Line, roles: Roles, control: str | None) -> Line:
    named = []
    for head in roles.positional:
        score = line.value("formation", "prefix_matching_score", _place(head))
        held = line.value("formation", "prefix_matching_score", _place(head), task=control) if control else None
        if score is not None:
            named.append(f"{head} {score:.2f}" + (f", {held:.2f} on non-periodic repeats" if held is not None else ""))
    if named:
        line.text = (
            "Not induction heads, though they score high (in layer 0, on periodic repeats alone, or as high at the places "
            f"of other sequences): {'; '.join(named)}."
        )
    return line


def _events(line: Line) -> list[tuple[str, dict[str, Any]]]:
    """The events of the run with their places, each kind once, by its strongest head."""
    table = line.tables.get("emergence")
    if table is None or table.empty:
        return []
    found: dict[str, dict[str, Any]] = {}
    for row in table[table["metric"] == "reached"].itertuples():
        place = {name: int(getattr(row, name)) for name in ("layer", "head") if name in table and not pd.isna(getattr(row, name))}
        found.setdefault(str(row.part), {"part": str(row.part), **place})
    return list(found.items())


def _order(line: Line) -> Line:
    """The events in the order of their steps, and those that did not take place."""
    steps: list[tuple[float, str]] = []
    absent: list[str] = []
    for part, place in _events(line):
        head = f" {Head(place['layer'], place['head'])}" if "head" in place else ""
        step = line.value("emergence", "emergence_step", place, cite=False)
        at = line.value("emergence", "threshold_step", place)
        threshold = line.value("emergence", "reached", place, "baseline")
        if at is None:
            absent.append(f"{part}{head} (threshold {threshold:g})")
        elif step is not None:
            found = f"{part}{head} {line.interval('emergence', 'emergence_step', place, '.0f')}, {threshold:g} reached at {at:.0f}"
            fit = line.value("emergence", "emergence_fit", place, cite=False)
            if fit is not None and fit < GOOD_FIT:
                found += f" (no single rise: the fit explains {line.value('emergence', 'emergence_fit', place):.0%} of the curve)"
            steps.append((step, found))
    if steps:
        listed = "; ".join(text for _, text in sorted(steps))
        line.text = (
            f"In order, by the midpoint of each rise (step [95% interval over sequences], and when its threshold is reached): {listed}."
        )
    if absent:
        line.text = f"{line.text} Not within this run: {'; '.join(absent)}.".strip()
    return line


def _undecided(line: Line) -> Line:
    """Neighbouring events whose order the sequences do not settle."""
    table = line.tables.get("emergence")
    gaps = [] if table is None else table.loc[table["metric"] == "emergence_gap", "part"].dropna().tolist()
    open_gaps = []
    for part in gaps:
        low = line.value("emergence", "emergence_gap", {"part": part}, "ci_low", cite=False)
        if low is not None and low <= 0:
            apart = line.interval("emergence", "emergence_gap", {"part": part}, ".0f")
            open_gaps.append(f"{part.replace(', then ', ' and ')} ({apart} steps apart)")
    if open_gaps:
        line.text = f"Their order is not settled between {'; '.join(open_gaps)}."
    return line


def _not_lasting(line: Line) -> Line:
    lost = []
    for part, place in _events(line):
        value = line.value("emergence", "persistence", place, cite=False)
        high = line.value("emergence", "persistence", place, "ci_high", cite=False)
        if value is not None and (value if high is None else high) < LASTING:
            lost.append(f"{part} ({line.interval('emergence', 'persistence', place)} of its rise is left)")
    if lost:
        line.text = f"Lost again by the end of the run: {'; '.join(lost)}."
    return line


def _carried(line: Line, group: str, heads: tuple[Head, ...]) -> Line:
    """What ablating a group of heads costs, beside its heads one by one and its controls."""
    metric, mean = "ablation_accuracy_loss", {"intervention": "mean"}
    whole, controls_place = {"part": group, **mean}, {"part": f"controls of {group}", **mean}
    together = line.value("causal", metric, whole)
    if together is None:
        return line
    alone = [(head, line.value("causal", metric, {**_place(head), **mean})) for head in heads]
    said = f"{group} together" if len(heads) > 1 else group.removesuffix("s")
    line.text = f"Without the {said} (mean ablation) in-context accuracy falls by {line.interval('causal', metric, whole)}"
    if len(heads) > 1:
        line.text += "; without one alone, by " + ", ".join(f"{value:.2f} ({head})" for head, value in alone if value is not None)
    line.text += "."
    largest = max((value for _, value in alone if value is not None), default=math.nan)
    if len(heads) > 1 and largest < NECESSARY <= together:
        line.text += " No single one is necessary: the claim holds for the group alone."
    controls = line.value("causal", metric, controls_place)
    if controls is None:
        line.text += " No other head of their layers is left as a control, so heads and layer cannot be told apart."
    else:
        line.text += f" Matched control heads: {line.interval('causal', metric, controls_place)}."
        if controls >= ALIKE * together > 0:
            line.text += " The controls matter about as much: this does not single the heads out."
    return line


def _wire(line: Callable[[], Line], roles: Roles) -> list[Line]:
    """What the wire carries: the cut, the paths, and the streamed share of the induction heads' output."""
    cut, paths, share = line(), line(), line()
    metric = "cut_accuracy_share"
    by = {how: cut.interval("stream", metric, {"intervention": how}, ".0%") for how in ("mean", "resample", "permuted")}
    if by["mean"]:
        cut.text = f"Cutting the wire costs {by['mean']} of the in-context accuracy with the mean in its place"
        cut.text += f", {by['resample']} with another sequence's values" if by["resample"] else ""
        cut.text += f", {by['permuted']} with the next head's" if by["permuted"] else ""
        cut.text += "."
        inside, outside = (cut.value("stream", name, {"intervention": "mean"}) for name in ("cut_loss_increase", "cut_bigram_increase"))
        if inside is not None and outside is not None:
            cut.text += f" It adds {inside:.2f} nats where the context answers and {outside:.2f} where only learnt statistics do."
            if outside >= inside:
                cut.text += " So what it carries is not particular to the context."
    table = paths.tables.get("stream")
    sources = [] if table is None or "source_layer" not in table else sorted({int(layer) for layer in table["source_layer"].dropna()})
    for source in sources:
        parts = {}
        for part in ("wire", "residual", "both", "interaction"):
            place = {"source_layer": source, "part": part, "intervention": "resample"}
            parts[part] = paths.interval("stream", "path_accuracy_share", place, ".0%")
        if all(parts.values()):
            paths.text += (
                f"{' ' if paths.text else ''}With another sequence's projections in layer {source}, the loss is {parts['wire']} along "
                f"the wire alone, {parts['residual']} along the residual stream alone, {parts['both']} along both "
                f"(interaction {parts['interaction']})."
            )
    shares = [(head, share.value("stream", "streamed_output_share", _place(head))) for head in roles.induction]
    if known := [f"{head} {value:.0%}" for head, value in shares if value is not None]:
        share.text = f"Of what the induction heads write, the wire brought: {', '.join(known)}."
    return [cut, paths, share]


def _copying(line: Line, roles: Roles) -> Line:
    """Which circuit copies: a layer's own values, or those that came along the wire."""
    if not roles.induction:
        return line
    layer = roles.induction[0].layer
    own = line.value("probes", "copying_probe", {"layer": layer, "part": "own"})
    streamed = line.value("probes", "copying_probe", {"layer": layer, "part": "streamed"})
    if own is None:
        return line
    line.text = f"By their weights, the heads of layer {layer} together copy {own:.0%} of the vocabulary from the residual stream"
    line.text += f", and {streamed:.0%} through the wire." if streamed is not None else "."
    return line


def _bigram(line: Line, references: Mapping[str, float]) -> Line:
    value = line.value("formation", "bigram_loss")
    if value is None:
        return line
    floor = references.get("bigram_loss")
    beside = f"; the best possible is {floor:.2f}" if floor is not None else ""
    line.text = f"Where only learnt statistics help, the loss is {value:.2f} nats{beside}."
    return line
