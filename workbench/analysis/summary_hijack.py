"""The account of the section `hijack` in sentences: who wins, who says so, and how well the theory knows it."""

from __future__ import annotations

from collections.abc import Callable

from workbench.analysis.evidence import Line
from workbench.analysis.hijack_fit import SATURATED
from workbench.analysis.hijack_measure import AGAINST
from workbench.analysis.hijack_theory import ATTENDED, CLOSED_FORM, STRENGTHS

SMALL = 0.1
"""nats by which the closed form may be wrong on some prompts without a word"""


def hijack_lines(line: Callable[[], Line]) -> list[Line]:
    """The sentences, empty where their rows were not measured."""
    return [_who_wins(line()), _who_says_so(line()), _theory(line()), _where_it_errs(line())]


def _who_wins(line: Line) -> Line:
    rate = line.interval("hijack", "hijack_rate", {}, ".0%")
    if not rate:
        return line
    line.text = f"On prompts whose context shows one answer and whose bigrams know another, the bigrams win in {rate} of the cases"
    once, often = (line.interval("hijack", "hijack_rate", {"condition": f"n_context {n}"}, ".0%") for n in (1, 4))
    line.text += f": {once} where the context shows its answer once, {often} where it does so four times." if once and often else "."
    step = line.value("emergence", "overtaking_step", {"part": "context over bigrams"})
    if step is not None:
        at = line.interval("emergence", "overtaking_step", {"part": "context over bigrams"}, ".0f")
        line.text += f" Where the bigrams prefer another answer, the context overtakes them for good at step {at}."
    return line


def _who_says_so(line: Line) -> Line:
    parts = [
        line.interval("hijack", "hijack_causal_part", {"part": part, "condition": AGAINST}, "+.1f") for part in ("global", "in context")
    ]
    margin = line.interval("hijack", "hijack_margin", {"condition": AGAINST}, "+.1f")
    if margin and all(parts):
        line.text = (
            f"Where the bigrams prefer another answer, the margin of the context's is {margin} nats on average: "
            f"{parts[0]} without anything of this context, {parts[1]} from it."
        )
    return line


def _theory(line: Line) -> Line:
    strengths = [line.interval("hijack", "hijack_strength", {"part": name}, ".1f") for name in STRENGTHS]
    explained = line.value("hijack", "hijack_r2", {"part": CLOSED_FORM})
    if not all(strengths) or explained is None:
        return line
    t1 = line.value("hijack", "hijack_strength", {"part": "t1"}, cite=False)
    least = " (or more: attention is saturated)" if t1 is not None and t1 >= SATURATED else ""
    line.text = (
        f"The closed form, fitted with t1 {strengths[0]}{least}, t2 {strengths[1]}, t3 {strengths[2]}, "
        f"explains {explained:.0%} of the margins' variance on prompts that were not fitted"
    )
    agreed = line.value("hijack", "hijack_sign_agreement", {"part": CLOSED_FORM})
    line.text += f" and names the winner of {agreed:.0%}" if agreed is not None else ""
    attended = line.value("hijack", "hijack_r2", {"part": ATTENDED})
    line.text += f"; the attention of the model's own induction heads explains {attended:.0%}." if attended is not None else "."
    return line


def _where_it_errs(line: Line) -> Line:
    """The prompts on which the closed form is furthest from the model, and which way."""
    table = line.tables.get("hijack")
    if table is None or "condition" not in table:
        return line
    conditions = table.loc[table["metric"] == "hijack_residual", "condition"].dropna().unique()
    furthest, size = None, SMALL
    for condition in conditions:
        place = {"condition": condition}
        low, high = (line.value("hijack", "hijack_residual", place, column, cite=False) for column in ("ci_low", "ci_high"))
        nearest = 0.0 if low is None or high is None else max(low, -high)  # the end of the interval that is nearer to zero
        if nearest > size:
            furthest, size = place, nearest
    if furthest is None:
        return line
    sign = line.value("hijack", "hijack_residual", furthest, cite=False)
    way = "more" if sign is not None and sign > 0 else "less"
    off = line.interval("hijack", "hijack_residual", furthest, "+.1f")
    name, _, value = furthest["condition"].rpartition(" ")
    line.text = f"It errs most on prompts with {name} {value}: the context gets {way} than it says, by {off} nats."
    return line
