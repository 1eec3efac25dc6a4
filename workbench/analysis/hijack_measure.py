"""The section `hijack`: on prompts whose context disagrees with the bigrams of training, who wins, and how well the theory says so
(hijack.py, hijack_fit.py; Wang & Sato, arXiv 2412.11459; papers.md section 5).

A model's margin is logit(c) - logit(g) at the end of a prompt, c from the context and g from the bigrams. The strengths of the
closed form are fitted on one half of the prompts and judged on the other; so is a line in the attention gap that the model's own
induction heads show, which needs no theory of where they attend.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import PerSequence
from workbench.analysis.hijack_fit import Counts, fit_strengths, r_squared, resampled_strengths
from workbench.analysis.hijack_fit import sign_agreement as agreement
from workbench.analysis.interventions import chunks
from workbench.analysis.metrics import metric
from workbench.analysis.roles import Head, Roles
from workbench.analysis.rows import SAMPLE, Row, numbers
from workbench.model import HookedTransformer
from workbench.tasks.hijack import Prompts

WANG_SATO = "Wang & Sato 2024 (2412.11459)"
CLOSED_FORM, ATTENDED = "closed form", "attention of the induction heads"
STRENGTHS = ("t1", "t2", "t3")
FEWEST_PROMPTS = 16
"""below, nothing is fitted"""


@metric("hijack", "model", formula="mean over prompts of logit(c) - logit(g)", range="any, logits", source=WANG_SATO)
def hijack_margin(margins: Float[Tensor, " prompt"]) -> PerSequence:
    """How clearly the context's token c beats the bigrams' token g at the end of a prompt, over prompts whose context shows c: all of
    them, or those of one number of context pairs, competing pairs, distance, or log-odds of g against c (`condition`).

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
    "model",
    formula="t1, t2, t3 of least squares of margin = t2 (A(c) - A(g)) - t3 log(pi_b(g | q) / pi_b(c | q)), A in closed form with t1",
    range="t1 0 to 8 (from 4 on a lower bound: attention is saturated); t2, t3 any",
    source=WANG_SATO,
)
def hijack_strength(counts: Counts, log_odds: Float[np.ndarray, " prompt"], margins: Float[np.ndarray, " prompt"]) -> dict[str, float]:
    """How strongly a model holds the three memories, as its margins tell: attention to what followed the trigger (`part` t1), the
    logit of what is attended to (t2), the bigrams (t3). Fitted on half of the prompts, with a bootstrap interval over them.

    >>> one = np.ones(5)
    >>> counts = Counts(16 * one, np.array([0.0, 1, 1, 2, 2]), np.array([0.0, 1, 0, 2, 1]), np.array([0.0, 0, 1, 0, 1]), one, one)
    >>> odds = np.array([0.0, 1, -1, 2, 3])
    >>> {name: round(value, 2) for name, value in hijack_strength(counts, odds, 3 * counts.gap(1.5) - 0.5 * odds).items()}
    {'t1': 1.5, 't2': 3.0, 't3': 0.5}
    """
    fit = fit_strengths(counts, log_odds, margins)
    return {"t1": fit.t1, "t2": fit.t2, "t3": fit.t3}


@metric(
    "hijack",
    "model",
    formula="1 - residual sum of squares / total sum of squares, on the prompts that were not fitted",
    range="1 or less; below 0 where the mean margin does better",
    source=WANG_SATO,
)
def hijack_r2(predicted: Float[np.ndarray, " prompt"], margins: Float[np.ndarray, " prompt"]) -> float:
    """How well margins are predicted: by the closed form with the fitted strengths, or by the attention gap that the model's own
    induction heads show and the log-odds (`part`).

    >>> hijack_r2(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    1.0
    """
    return r_squared(predicted, margins)


@metric("hijack", "model", formula="share of prompts with the sign of the prediction, not fitted", range="0 to 1", source=WANG_SATO)
def hijack_sign_agreement(predicted: Float[np.ndarray, " prompt"], margins: Float[np.ndarray, " prompt"]) -> float:
    """On how many prompts the prediction (`part`, as in hijack_r2) says rightly who wins.

    >>> hijack_sign_agreement(np.array([1.0, -2.0]), np.array([0.5, 3.0]))
    0.5
    """
    return agreement(predicted, margins)


@dataclass(frozen=True)
class Answers:
    """What a model does at the end of each prompt."""

    margins: Float[Tensor, " prompt"]
    gaps: Float[Tensor, " prompt"] | None
    """A(c) - A(g), the mean over the induction heads; None without any"""


@torch.inference_mode()
def answers(model: HookedTransformer, prompts: Prompts, heads: tuple[Head, ...] = ()) -> Answers:
    """Margins of the prompts, and the attention gap of some heads at their ends."""
    names = sorted({f"blocks.{head.layer}.attn.hook_pattern" for head in heads})
    margins, gaps = [], []
    for rows in chunks(len(prompts), prompts.tokens.shape[1]):
        part = prompts[rows]
        tokens = part.tokens.to(model.W_E.device)
        context, prior = (part.design[name].to(tokens.device)[:, None] for name in ("context", "prior"))
        last: dict[str, Tensor] = {}

        def keep(pattern: Tensor, hook, last: dict[str, Tensor] = last) -> None:
            last[hook.name] = pattern[:, :, -1]

        logits = model.run_with_hooks(tokens, fwd_hooks=[(name, keep) for name in names])[:, -1]
        margins.append((logits.gather(1, context) - logits.gather(1, prior))[:, 0].cpu())
        if heads:
            attended = torch.stack([last[f"blocks.{head.layer}.attn.hook_pattern"][:, head.head] for head in heads]).mean(dim=0)
            sign = (tokens == context).to(attended.dtype) - (tokens == prior).to(attended.dtype)
            gaps.append((attended * sign).sum(dim=1).cpu())
    return Answers(torch.cat(margins), torch.cat(gaps) if heads else None)


def measure(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> Iterator[Row]:
    """Rows of the section, on the prompts of `data`; none for a task without bigrams."""
    prompts = data.hijack_prompts
    if prompts is None:
        return
    found = answers(model, prompts, () if roles is None else roles.induction)
    for row in (*_rates(prompts, found.margins), *_theory(prompts, found)):
        yield {"task": data.own, **row}


def _rates(prompts: Prompts, margins: Tensor) -> Iterator[Row]:
    shown = prompts.design["n_context"] > 0
    for condition, rows in (("", shown), *((condition, shown & rows) for condition, rows in conditions(prompts))):
        if rows.any():
            for function in (hijack_margin, hijack_rate):
                sample = function(margins[rows])
                row: Row = {"metric": function.__name__, **numbers(sample.estimate()), SAMPLE: sample}
                yield row | ({"condition": condition} if condition else {})


def conditions(prompts: Prompts) -> Iterator[tuple[str, Bool[Tensor, " prompt"]]]:
    """The prompts of each value of each factor; log-odds are rounded to whole numbers."""
    factors = {name: prompts.design[name] for name in ("n_context", "n_prior", "distance")}
    for name, values in (*factors.items(), ("log_odds", prompts.log_odds.round().long())):
        for value in values.unique().tolist():
            yield f"{name} {value}", values == value


def _theory(prompts: Prompts, found: Answers) -> Iterator[Row]:
    counts, odds, margins = Counts.of(prompts), prompts.log_odds.double().numpy(), found.margins.double().numpy()
    fitted = np.arange(len(prompts)) % 2 == 0
    if fitted.sum() < FEWEST_PROMPTS or np.ptp(odds[fitted]) == 0:
        return
    strengths = hijack_strength(counts[fitted], odds[fitted], margins[fitted])
    replicates = resampled_strengths(counts[fitted], odds[fitted], margins[fitted])
    for number, name in enumerate(STRENGTHS):
        low, high = np.percentile(replicates[:, number], [2.5, 97.5])
        interval = {"value": strengths[name], "ci_low": float(low), "ci_high": float(high), "n": int(fitted.sum())}
        yield {"metric": "hijack_strength", "part": name, **interval}
    predictions = {CLOSED_FORM: strengths["t2"] * counts.gap(strengths["t1"]) - strengths["t3"] * odds}
    if found.gaps is not None:
        columns = np.stack([found.gaps.double().numpy(), -odds], axis=1)
        solved, *_ = np.linalg.lstsq(columns[fitted], margins[fitted], rcond=None)
        predictions[ATTENDED] = columns @ solved
    for part, predicted in predictions.items():
        for function in (hijack_r2, hijack_sign_agreement):
            value = function(predicted[~fitted], margins[~fitted])
            yield {"metric": function.__name__, "part": part, "value": value, "n": int((~fitted).sum())}
