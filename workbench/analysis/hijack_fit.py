"""How well the theory of knowledge hijack describes a model: its strengths t1, t2, t3, fitted to the margins of some prompts and
judged on others (Wang & Sato 2024, 2412.11459).

With b0 infinite, a prompt enters by five counts only: its length, how often the trigger occurred before (k), how often c and g
followed it, and how often they stand anywhere. For a given t1 the margin is linear in t2 and t3, so one number is searched for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.tasks.hijack import Prompts

LARGEST_T1 = 8.0
"""beyond, attention is saturated (e^8 is 3000): the data tell a lower bound of t1 and no more"""
SATURATED = 4.0
"""fitted t1 from which it is said to be a lower bound"""
GRID = 65
REFINEMENTS = 4
REPLICATES = 200


@dataclass(frozen=True)
class Counts:
    """What of each prompt decides its margin, [prompt]."""

    length: Float[np.ndarray, " prompt"]
    occurred: Float[np.ndarray, " prompt"]
    """how often the trigger occurred before; a trigger at position 0 counts twice there, as it notes itself"""
    context_followed: Float[np.ndarray, " prompt"]
    prior_followed: Float[np.ndarray, " prompt"]
    context_stands: Float[np.ndarray, " prompt"]
    prior_stands: Float[np.ndarray, " prompt"]

    @classmethod
    def of(cls, prompts: Prompts) -> Counts:
        """The counts of prompts that end with their trigger."""
        tokens, design = prompts.tokens, prompts.design
        noted = torch.cat([tokens[:, :1], tokens[:, :-1]], dim=1) == design["trigger"][:, None]

        def count(what: Tensor) -> np.ndarray:
            return what.sum(dim=1).double().numpy()

        context, prior = (tokens == design[name][:, None] for name in ("context", "prior"))
        length = np.full(len(tokens), float(tokens.shape[1]))
        return cls(length, count(noted), count(noted & context), count(noted & prior), count(context), count(prior))

    def gap(self, t1: float) -> Float[np.ndarray, " prompt"]:
        """A(c) - A(g) at the last position, for a strength t1 of layer 1 (b0 infinite)."""
        high = np.exp(min(t1, 700.0))
        total = self.occurred * high + (self.length - self.occurred)
        followed = self.context_followed - self.prior_followed
        elsewhere = (self.context_stands - self.context_followed) - (self.prior_stands - self.prior_followed)
        return (followed * high + elsewhere) / total

    def __getitem__(self, rows: np.ndarray) -> Counts:
        """Some of the prompts."""
        return Counts(*(values[rows] for values in vars(self).values()))


@dataclass(frozen=True)
class Fit:
    """Strengths fitted to margins."""

    t1: float
    t2: float
    t3: float

    @property
    def saturated(self) -> bool:
        """Whether t1 is only a lower bound."""
        return self.t1 >= SATURATED

    def margins(self, counts: Counts, log_odds: Float[np.ndarray, " prompt"]) -> Float[np.ndarray, " prompt"]:
        """What the closed form predicts."""
        return self.t2 * counts.gap(self.t1) - self.t3 * log_odds


def fit_strengths(counts: Counts, log_odds: Float[np.ndarray, " prompt"], margins: Float[np.ndarray, " prompt"]) -> Fit:
    """The strengths of least squares, t1 between 0 and `LARGEST_T1`.

    Raises ValueError for fewer than four prompts, or where all of them have the same log-odds: t2 and t3 cannot then be told apart.

    >>> one = np.ones(5)
    >>> counts = Counts(16 * one, np.array([0.0, 1, 1, 2, 2]), np.array([0.0, 1, 0, 2, 1]), np.array([0.0, 0, 1, 0, 1]), one, one)
    >>> odds = np.array([0.0, 1, -1, 2, 3])
    >>> fit = fit_strengths(counts, odds, 3 * counts.gap(1.5) - 0.5 * odds)
    >>> round(fit.t1, 2), round(fit.t2, 2), round(fit.t3, 2)
    (1.5, 3.0, 0.5)
    """
    if len(margins) < 4 or np.ptp(log_odds) == 0:
        raise ValueError(f"fitting needs at least four prompts of different log-odds, got {len(margins)}")

    def solved(t1: float) -> tuple[float, np.ndarray]:
        columns = np.stack([counts.gap(t1), -log_odds], axis=1)
        strengths, *_ = np.linalg.lstsq(columns, margins, rcond=None)
        return float(((columns @ strengths - margins) ** 2).sum()), strengths

    candidates = np.linspace(0.0, LARGEST_T1, GRID)
    best, step = min(candidates, key=lambda t1: solved(t1)[0]), candidates[1]
    for _ in range(REFINEMENTS):
        candidates, step = np.clip(np.linspace(best - step, best + step, 17), 0.0, LARGEST_T1), step / 8
        best = min(candidates, key=lambda t1: solved(t1)[0])
    t2, t3 = solved(best)[1]
    return Fit(float(best), float(t2), float(t3))


def bootstrap_weights(n: int, replicates: int = REPLICATES) -> Float[np.ndarray, "replicate n"]:
    """How often each of n prompts is drawn in each bootstrap replicate; the same draws at every call."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=replicates).astype(float)


def resampled_strengths(
    counts: Counts, log_odds: Float[np.ndarray, " prompt"], margins: Float[np.ndarray, " prompt"], replicates: int = REPLICATES
) -> Float[np.ndarray, "replicate 3"]:
    """t1, t2, t3 fitted to bootstrap replicates of the prompts (drawn anew, with a fixed seed), for intervals. t1 is found on a grid
    and by the parabola through its best point and the two beside it; all replicates at once, by their weighted sums."""
    weights = bootstrap_weights(len(margins), replicates)
    strengths = np.linspace(0.0, LARGEST_T1, 2 * GRID - 1)
    gaps = np.stack([counts.gap(t1) for t1 in strengths])
    gg, go, gm = (weights @ (gaps * other).T for other in (gaps, log_odds, margins))
    oo, om, mm = ((weights @ product)[:, None] for product in (log_odds**2, log_odds * margins, margins**2))
    determinant = np.maximum(gg * oo - go**2, 1e-300)
    t2, t3 = (gm * oo - go * om) / determinant, (go * gm - gg * om) / determinant
    error = mm - t2 * gm + t3 * om
    best = error.argmin(axis=1)
    row = np.arange(replicates)
    inner = np.clip(best, 1, len(strengths) - 2)
    left, middle, right = (error[row, inner + shift] for shift in (-1, 0, 1))
    bend = np.where(left - 2 * middle + right > 0, left - 2 * middle + right, np.inf)
    shift = np.where(inner == best, np.clip((left - right) / (2 * bend), -0.5, 0.5), 0.0)
    beside = best + np.sign(shift).astype(int)
    between = [values[row, best] + np.abs(shift) * (values[row, beside] - values[row, best]) for values in (t2, t3)]
    return np.stack([strengths[best] + shift * strengths[1], *between], axis=1)


def r_squared(predicted: Float[np.ndarray, " prompt"], margins: Float[np.ndarray, " prompt"]) -> float:
    """Share of the margins' variance that a prediction explains; below 0 where their mean does better.

    >>> r_squared(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    1.0
    """
    return float(1 - ((predicted - margins) ** 2).sum() / ((margins - margins.mean()) ** 2).sum())


def sign_agreement(predicted: Float[np.ndarray, " prompt"], margins: Float[np.ndarray, " prompt"]) -> float:
    """Share of the prompts on which prediction and model agree who wins.

    >>> sign_agreement(np.array([1.0, -2.0]), np.array([0.5, 3.0]))
    0.5
    """
    return float((np.sign(predicted) == np.sign(margins)).mean())
