"""The rise of a curve over training as a logistic: when, how fast, from where to where.

y(x) = low + (high - low) / (1 + exp(-(x - midpoint) / scale)). For a given midpoint and scale the best low and high are
a linear regression, so only two numbers are searched for, on a grid that is refined around its best point: no start
values, no local minima, and many curves (bootstrap replicates) at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

TENTH_TO_NINE_TENTHS = 2 * math.log(9)
"""A logistic goes from 10 % to 90 % of its rise in this many scales."""
REFINEMENTS = 4


@dataclass(frozen=True)
class Logistic:
    """Fitted logistics, one for each curve. nan where a curve does not rise at all."""

    midpoint: Float[np.ndarray, " curves"]
    """the step at which half of the rise is there"""
    width: Float[np.ndarray, " curves"]
    """steps from 10 % to 90 % of the rise"""
    low: Float[np.ndarray, " curves"]
    high: Float[np.ndarray, " curves"]
    r2: Float[np.ndarray, " curves"]
    """share of the curve's variance that the logistic explains"""


def fit_logistic(
    steps: Sequence[int] | Sequence[float] | Float[np.ndarray, " steps"], curves: Float[np.ndarray, "curves steps"]
) -> Logistic:
    """The logistic of least squares for each curve, rising, with its midpoint inside the observed steps and a width
    between a tenth of the smallest distance of two steps and the whole range.

    Raises ValueError for fewer than four steps: four numbers are fitted.

    >>> fit = fit_logistic([0, 10, 20, 30, 40], np.array([[0.0, 0.0, 0.5, 1.0, 1.0]]))
    >>> round(float(fit.midpoint[0]), 1)
    20.0
    """
    x = np.asarray(steps, dtype=np.float64)
    if len(x) < 4:
        raise ValueError(f"a logistic needs at least four steps, got {len(x)}")
    y = np.asarray(curves, dtype=np.float64)
    span = x[-1] - x[0]
    shortest = np.diff(x).min() / 10 / TENTH_TO_NINE_TENTHS
    midpoints = np.linspace(x[0], x[-1], 4 * len(x))
    log_scales = np.linspace(math.log(shortest), math.log(span / TENTH_TO_NINE_TENTHS), 16)
    m, s = np.meshgrid(midpoints, log_scales, indexing="ij")
    m, s = _best(x, y, np.broadcast_to(m.ravel(), (len(y), m.size)), np.broadcast_to(s.ravel(), (len(y), s.size)))
    step_m, step_s = midpoints[1] - midpoints[0], log_scales[1] - log_scales[0]
    offsets = np.linspace(-1, 1, 9)
    for _ in range(REFINEMENTS):
        grid_m, grid_s = (part.ravel() for part in np.meshgrid(offsets * step_m, offsets * step_s, indexing="ij"))
        near_m = np.clip(m[:, None] + grid_m, x[0], x[-1])
        near_s = np.clip(s[:, None] + grid_s, log_scales[0], log_scales[-1])
        m, s = _best(x, y, near_m, near_s)
        step_m, step_s = step_m / 4, step_s / 4
    slope, intercept, r2 = _regression(_shape(x, m[:, None], s[:, None]), y)
    rises = slope[:, 0] > 0
    found = (m, np.exp(s) * TENTH_TO_NINE_TENTHS, intercept[:, 0], intercept[:, 0] + slope[:, 0], r2[:, 0])
    return Logistic(*(np.where(rises, part, np.nan) for part in found))


def _shape(x: np.ndarray, m: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The logistic from 0 to 1, [curves, candidates, steps]."""
    return 0.5 * (1 + np.tanh((x - m[..., None]) / np.exp(s)[..., None] / 2))


def _regression(shape: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slope, intercept and explained share of the variance of each curve on each candidate shape, [curves, candidates]."""
    centred, target = shape - shape.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    power = np.maximum((centred**2).sum(axis=-1), 1e-300)
    cross = (centred @ target[..., None])[..., 0]
    slope = cross / power
    total = (target**2).sum(axis=-1)[:, None]
    r2 = np.divide(np.maximum(cross, 0) ** 2 / power, total, out=np.zeros_like(cross), where=total > 0)
    return slope, y.mean(axis=-1)[:, None] - slope * shape.mean(axis=-1), r2


def _best(x: np.ndarray, y: np.ndarray, m: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The candidate midpoint and log scale of each curve that explain it best, among those that rise."""
    if (m[0] == m[-1]).all() and (s[0] == s[-1]).all():
        shape = _shape(x, m[:1], s[:1])[0]
        centred, target = shape - shape.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
        cross = target @ centred.T
        score = np.maximum(cross, 0) ** 2 / np.maximum((centred**2).sum(axis=-1), 1e-300)
    else:
        score = _regression(_shape(x, m, s), y)[2]
    chosen = score.argmax(axis=1)[:, None]
    return np.take_along_axis(m, chosen, 1)[:, 0], np.take_along_axis(s, chosen, 1)[:, 0]
