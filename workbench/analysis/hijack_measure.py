"""The section `hijack`: on prompts whose context disagrees with the bigrams of training, who wins, who says so, and how well the
theory knows it (Wang & Sato, arXiv 2412.11459).

A model's margin is logit(c) - logit(g) at the end of a prompt, c from the context and g from the bigrams. hijack_answers.py runs the
prompts and splits the margins, hijack_theory.py fits and judges the closed form of hijack.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import PerSequence
from workbench.analysis.hijack_answers import Answers, answers
from workbench.analysis.hijack_theory import CLOSED_FORM, WANG_SATO, Judgement, judge, judgement_rows
from workbench.analysis.metrics import metric
from workbench.analysis.roles import Roles
from workbench.analysis.rows import CASES, SAMPLE, Row, numbers
from workbench.model import HookedTransformer
from workbench.tasks.hijack import Prompts

AGAINST = "log_odds above 0"
"""the condition of the prompts whose bigrams prefer another answer than their context"""
Condition = tuple[str, Bool[Tensor, " prompt"]]


@metric("hijack", "model", formula="mean over prompts of logit(c) - logit(g)", range="any, logits", source=WANG_SATO)
def hijack_margin(margins: Float[Tensor, " prompt"]) -> PerSequence:
    """How clearly the context's token c beats the bigrams' token g at the end of a prompt, over prompts whose context shows c: all of
    them, or those of one number of context pairs, competing pairs, distance, trigger (a token), or log-odds of g against c
    (`condition`).

    >>> hijack_margin(torch.tensor([1.0, -2.0])).estimate().value
    tensor(-0.5000)
    """
    return PerSequence(margins, torch.ones_like(margins))


@metric("hijack", "model", formula="share of prompts with logit(g) > logit(c)", range="0 to 1", source=WANG_SATO)
def hijack_rate(margins: Float[Tensor, " prompt"]) -> PerSequence:
    """How often the bigrams overrule the context, over prompts whose context shows c; `condition` as in hijack_margin.

    >>> hijack_rate(torch.tensor([1.0, -2.0])).estimate().value
    tensor(0.5000)
    """
    return PerSequence((margins < 0).to(margins.dtype), torch.ones_like(margins))


@metric(
    "hijack",
    "head",
    formula="mean over prompts of (what the component writes at the end) . d, d the direction of logit(c) - logit(g)",
    range="any, logits",
    source="direct logit attribution, Elhage et al. 2021, on the prompts of Wang & Sato 2024",
)
def hijack_contribution(contribution: Float[Tensor, " prompt"]) -> PerSequence:
    """What a component adds directly to the margin: heads (with parts own and streamed where a value stream arrives) and, without a
    head, parts embed, pos_embed, mlp of each layer, bias. Over components it sums to hijack_margin, of equal `condition`.

    >>> hijack_contribution(torch.tensor([1.0, -2.0])).estimate().value
    tensor(-0.5000)
    """
    return PerSequence(contribution, torch.ones_like(contribution))


@metric(
    "hijack",
    "model",
    formula="global: mean margin with every head's z replaced by its mean over the own task at that position; in context: the rest",
    range="any, logits",
    source=f"{WANG_SATO}, as an intervention",
)
def hijack_causal_part(margins: Float[Tensor, " prompt"], global_margins: Float[Tensor, " prompt"]) -> dict[str, PerSequence]:
    """What the margin owes to this context (`part` in context) and what is there without it (global). They sum to hijack_margin. Unlike
    direct contributions they follow what an MLP makes of attention.

    >>> parts = hijack_causal_part(torch.tensor([1.0, -2.0]), torch.tensor([-3.0, -4.0]))
    >>> [parts[part].estimate().value.item() for part in ("global", "in context")]
    [-3.5, 3.0]
    """
    count = torch.ones_like(margins)
    return {"global": PerSequence(global_margins, count), "in context": PerSequence(margins - global_margins, count)}


def measure(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> Iterator[Row]:
    """Rows of the section, on the prompts of `data`; none for a task without bigrams. The first row carries the table of single
    prompts (`prompts_table`)."""
    prompts = data.hijack_prompts
    if prompts is None:
        return
    found = answers(model, prompts, () if roles is None else roles.induction, data.scoring)
    judged = judge(prompts, found)
    cases: Row = {CASES: ("hijack_prompts", prompts_table(prompts, found, judged))}
    for row in _rows(prompts, found):
        yield {"task": data.own, **row, **cases}
        cases = {}
    if judged is not None:
        conditions = [(name, rows.numpy()) for name, rows in _by_factor(prompts)]
        for row in judgement_rows(judged, conditions):
            yield {"task": data.own, **row}


def prompts_table(prompts: Prompts, found: Answers, judged: Judgement | None) -> pd.DataFrame:
    """A row for each prompt, in an order that is random but always the same, so that the first rows are a fair sample: its design,
    log_odds, margin, gap (attention gap of the induction heads; nan without any), theory_gap and predicted (the closed form's
    attention gap and margin), fitted (whether its strengths were fitted on this prompt)."""
    n = len(prompts)
    absent = np.full(n, np.nan)
    table = pd.DataFrame(
        {
            "prompt": np.arange(n),
            **{name: values.numpy() for name, values in prompts.design.items()},
            "log_odds": prompts.log_odds.numpy(),
            "margin": found.margins.numpy(),
            "gap": absent if found.gaps is None else found.gaps.numpy(),
            "theory_gap": absent if judged is None else judged.theory_gap,
            "predicted": absent if judged is None else judged.predicted[CLOSED_FORM],
            "fitted": np.zeros(n, dtype=bool) if judged is None else judged.fitted,
        }
    )
    return table.iloc[np.random.default_rng(0).permutation(n)].reset_index(drop=True)


def _rows(prompts: Prompts, found: Answers) -> Iterator[Row]:
    shown = prompts.design["n_context"] > 0
    everywhere: list[Condition] = [("", shown), (AGAINST, shown & (prompts.log_odds > 0))]
    for condition, rows in [*everywhere, *((name, shown & rows) for name, rows in _by_factor(prompts))]:
        for function in (hijack_margin, hijack_rate):
            yield from _row(function.__name__, function(found.margins[rows]), condition)
    for condition, rows in [*everywhere, *_by_factor(prompts, "n_context")]:
        for (layer, head, part), values in found.contributions.items():
            yield from _row(hijack_contribution.__name__, hijack_contribution(values[rows]), condition, layer=layer, head=head, part=part)
        if found.global_margins is not None:
            for part, sample in hijack_causal_part(found.margins[rows], found.global_margins[rows]).items():
                yield from _row(hijack_causal_part.__name__, sample, condition, part=part)


def _row(name: str, sample: PerSequence, condition: str, **place: int | str | None) -> Iterator[Row]:
    """The row of a mean over prompts; none where there is no prompt."""
    if len(sample.counts):
        where = {column: value for column, value in (*place.items(), ("condition", condition or None)) if value is not None}
        yield {"metric": name, **where, **numbers(sample.estimate()), SAMPLE: sample}


def _by_factor(prompts: Prompts, *only: str) -> Iterator[Condition]:
    """The prompts of each value of each factor (or of those named); log-odds are rounded to whole numbers."""
    factors = {name: prompts.design[name] for name in ("n_context", "n_prior", "distance", "trigger")}
    factors["log_odds"] = prompts.log_odds.round().long()
    for name, values in factors.items():
        if not only or name in only:
            for value in values.unique().tolist():
                yield f"{name} {value}", values == value
