"""How well the closed form (hijack.py) says who wins: its strengths are fitted on one half of the prompts and judged on the
other. So is a line in the attention gap that the model's own induction heads show, which needs no theory of where they attend.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from workbench.analysis.estimates import PerSequence
from workbench.analysis.hijack_answers import Answers
from workbench.analysis.hijack_fit import Counts, Fit, bootstrap_weights, fit_strengths, r_squared, resampled_strengths
from workbench.analysis.metrics import metric
from workbench.analysis.rows import Row, numbers
from workbench.tasks.hijack import Prompts

WANG_SATO = "Wang & Sato 2024 (2412.11459)"
CLOSED_FORM, ATTENDED = "closed form", "attention of the induction heads"
STRENGTHS = ("t1", "t2", "t3")
FEWEST_PROMPTS = 16
"""below, nothing is fitted"""

Numbers = Float[np.ndarray, " prompt"]


@metric(
    "hijack",
    "model",
    formula="t1, t2, t3 of least squares of margin = t2 (A(c) - A(g)) - t3 log(pi_b(g | q) / pi_b(c | q)), A in closed form with t1",
    range="t1 0 to 8 (from 4 on a lower bound: attention is saturated); t2, t3 any",
    source=WANG_SATO,
)
def hijack_strength(counts: Counts, log_odds: Numbers, margins: Numbers) -> dict[str, float]:
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
    formula="t3 / t2: the margin is zero where A(c) - A(g) = (t3 / t2) log(pi_b(g | q) / pi_b(c | q))",
    range="any, attention for each nat of log-odds; no row where t2 is not positive",
    source=WANG_SATO,
)
def hijack_boundary(t2: Float[np.ndarray, " replicates"], t3: Float[np.ndarray, " replicates"]) -> Float[np.ndarray, " replicates"]:
    """How much more attention the context's token needs for each nat by which the bigrams prefer theirs, or it is hijacked: by the
    strengths of the closed form, or by the line fitted to the attention of the induction heads (`part`).

    >>> hijack_boundary(np.array([8.0]), np.array([2.0]))
    array([0.25])
    """
    return t3 / t2


@metric(
    "hijack",
    "model",
    formula="1 - residual sum of squares / total sum of squares, on the prompts that were not fitted",
    range="1 or less; below 0 where the mean margin does better",
    source=WANG_SATO,
)
def hijack_r2(predicted: Numbers, margins: Numbers) -> float:
    """How well margins are predicted: by the closed form with the fitted strengths, or by the attention gap that the model's own
    induction heads show and the log-odds (`part`).

    >>> hijack_r2(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    1.0
    """
    return r_squared(predicted, margins)


@metric("hijack", "model", formula="share of prompts with the sign of the prediction, not fitted", range="0 to 1", source=WANG_SATO)
def hijack_sign_agreement(predicted: Numbers, margins: Numbers) -> PerSequence:
    """On how many prompts the prediction (`part`, as in hijack_r2) says rightly who wins; for the closed form also by `condition`, as
    in hijack_margin: where it is low, the prompts break the theory.

    >>> hijack_sign_agreement(np.array([1.0, -2.0]), np.array([0.5, 3.0])).estimate().value
    tensor(0.5000)
    """
    return _over_prompts(np.sign(predicted) == np.sign(margins))


@metric(
    "hijack", "model", formula="mean of margin - closed form, on the prompts that were not fitted", range="any, logits", source=WANG_SATO
)
def hijack_residual(predicted: Numbers, margins: Numbers) -> PerSequence:
    """Where the closed form errs, and which way: above 0 the context is stronger than it says. By `condition`, as in hijack_margin, prompts
    without a context pair among them.

    >>> hijack_residual(np.array([1.0, -2.0]), np.array([0.5, 3.0])).estimate().value
    tensor(2.2500)
    """
    return _over_prompts(margins - predicted)


@metric(
    "hijack",
    "model",
    formula="the quantile of the closed form's margins at the model's rate of margins below 0, on the prompts that were not fitted",
    range="any, logits; 0 for a boundary in the right place",
    source=f"{WANG_SATO}: calibration of the boundary margin = 0",
)
def hijack_boundary_shift(
    predicted: Float[np.ndarray, "*replicates prompt"], margins: Float[np.ndarray, "*replicates prompt"]
) -> np.ndarray:
    """How far theory's boundary stands from where the model switches: the predicted margin below which there are as many prompts as
    the model hijacks. Above 0, more is hijacked than the theory says. nan where the model hijacks none, or all.

    >>> hijack_boundary_shift(np.array([-1.0, 0.5, 1.0, 3.0]), np.array([-1.0, -0.5, 2.0, 2.0])).item()
    0.75
    """
    ordered, n = np.sort(predicted, axis=-1), predicted.shape[-1]
    hijacked = (margins < 0).sum(axis=-1, keepdims=True)
    below, above = (np.take_along_axis(ordered, np.clip(hijacked + shift, 0, n - 1), axis=-1) for shift in (-1, 0))
    return np.where((hijacked > 0) & (hijacked < n), (below + above) / 2, np.nan)[..., 0]


@dataclass(frozen=True)
class Judgement:
    """What two predictions say of each prompt, by the name of the prediction, and what they were fitted on."""

    fitted: Bool[np.ndarray, " prompt"]
    """the half that strengths were fitted on"""
    margins: Numbers
    strengths: dict[str, float]
    replicates: dict[str, Float[np.ndarray, "replicate 3"]]
    """t1, t2, t3 fitted to the prompts themselves (first row) and to bootstrap replicates; t1 is nan for the line in the attention gap"""
    predicted: dict[str, Numbers]
    theory_gap: Numbers
    """the closed form's attention gap"""


def judge(prompts: Prompts, found: Answers) -> Judgement | None:
    """Fit both predictions on a random half of the prompts. None for too few prompts, or for prompts of one prior only."""
    counts, odds, margins = Counts.of(prompts), prompts.log_odds.double().numpy(), found.margins.double().numpy()
    # By lot: the order of a grid is its design.
    fitted = np.random.default_rng(0).permutation(len(prompts)) % 2 == 0
    if fitted.sum() < FEWEST_PROMPTS or np.ptp(odds[fitted]) == 0:
        return None
    strengths = hijack_strength(counts[fitted], odds[fitted], margins[fitted])
    fit = Fit(**strengths)
    predicted = {CLOSED_FORM: fit.margins(counts, odds)}
    drawn = resampled_strengths(counts[fitted], odds[fitted], margins[fitted])
    replicates = {CLOSED_FORM: np.concatenate([np.array([[fit.t1, fit.t2, fit.t3]]), drawn])}
    if found.gaps is not None:
        columns = np.stack([found.gaps.double().numpy(), -odds], axis=1)
        solved, *_ = np.linalg.lstsq(columns[fitted], margins[fitted], rcond=None)
        predicted[ATTENDED] = columns @ solved
        replicates[ATTENDED] = _resampled_line(columns[fitted], margins[fitted])
    return Judgement(fitted, margins, strengths, replicates, predicted, counts.gap(fit.t1))


def judgement_rows(judged: Judgement, conditions: list[tuple[str, Bool[np.ndarray, " prompt"]]]) -> Iterator[Row]:
    """Rows of every metric of this file; `conditions` are the prompts of each value of each factor."""
    fitted, held_out, n = judged.fitted, ~judged.fitted, int(judged.fitted.sum())
    for number, name in enumerate(STRENGTHS):
        interval = _percentiles(judged.strengths[name], judged.replicates[CLOSED_FORM][1:, number])
        yield {"metric": hijack_strength.__name__, "part": name, **interval, "n": n}
    for part, predicted in judged.predicted.items():
        where = {"part": part}
        edges = judged.replicates[part]
        if (edges[:, 1] > 0).all():
            slopes = hijack_boundary(edges[:, 1], edges[:, 2])
            yield {"metric": hijack_boundary.__name__, **where, **_percentiles(float(slopes[0]), slopes[1:]), "n": n}
        value = hijack_r2(predicted[held_out], judged.margins[held_out])
        yield {"metric": hijack_r2.__name__, **where, "value": value, "n": int(held_out.sum())}
        sample = hijack_sign_agreement(predicted[held_out], judged.margins[held_out])
        yield {"metric": hijack_sign_agreement.__name__, **where, **numbers(sample.estimate())}
    predicted = judged.predicted[CLOSED_FORM]
    yield from _shift(predicted[held_out], judged.margins[held_out])
    for condition, rows in (("", np.ones_like(fitted)), *conditions):
        rows = rows & held_out
        if not rows.any():
            continue
        where = {"condition": condition} if condition else {}
        sample = hijack_residual(predicted[rows], judged.margins[rows])
        yield {"metric": hijack_residual.__name__, **where, **numbers(sample.estimate())}
        if condition:
            sample = hijack_sign_agreement(predicted[rows], judged.margins[rows])
            yield {"metric": hijack_sign_agreement.__name__, "part": CLOSED_FORM, **where, **numbers(sample.estimate())}


def _shift(predicted: Numbers, margins: Numbers) -> Iterator[Row]:
    value = hijack_boundary_shift(predicted, margins).item()
    if np.isnan(value):
        return
    drawn = np.random.default_rng(1).integers(0, len(margins), (200, len(margins)))
    yield {
        "metric": hijack_boundary_shift.__name__,
        **_percentiles(value, hijack_boundary_shift(predicted[drawn], margins[drawn])),
        "n": len(margins),
    }


def _resampled_line(columns: Float[np.ndarray, "prompt 2"], margins: Numbers) -> Float[np.ndarray, "replicate 3"]:
    """t1 (nan), t2 and t3 of margin = t2 gap - t3 log-odds on the prompts themselves and on bootstrap replicates of them."""
    weights = np.concatenate([np.ones((1, len(margins))), bootstrap_weights(len(margins))])
    products = np.einsum("rp,pi,pj->rij", weights, columns, columns)
    targets = np.einsum("rp,pi,p->ri", weights, columns, margins)
    solved = np.einsum("rij,rj->ri", np.linalg.pinv(products), targets)
    return np.concatenate([np.full((len(solved), 1), np.nan), solved], axis=1)


def _percentiles(value: float, replicates: Float[np.ndarray, " replicates"]) -> Row:
    """A value and the 95 % percentile interval of its replicates; none where a replicate has no value."""
    if not np.isfinite(replicates).all():
        return {"value": value}
    low, high = np.percentile(replicates, [2.5, 97.5])
    return {"value": value, "ci_low": float(low), "ci_high": float(high)}


def _over_prompts(values: np.ndarray) -> PerSequence:
    sums = torch.from_numpy(np.asarray(values, dtype=np.float64))
    return PerSequence(sums, torch.ones_like(sums))
