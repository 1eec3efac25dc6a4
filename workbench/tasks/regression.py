"""Regression in context: numbers are asked for, which a rule of each sequence's own decides. Linear functions of vectors (Garg et al.,
arXiv 2208.01066), and affine recurrences.

How numbers are asked for: `Batch.values` holds them, and the loss is the squared error of the model's single output (d_vocab = 1).
Vectors are written into the first coordinates of the residual stream, the others being zero (`d_input` = model.d_model): what the first
layer's W_Q, W_K, W_V and MLP make of these coordinates is the linear read-in of the literature, so that there is no further map, and
positions are added by the model as they are to tokens. `tokens` and `targets` are a number for each position and mean nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float

from workbench.config import AffineRecurrenceConfig, LinearRegressionConfig
from workbench.errors import UsageError, unknown_name
from workbench.tasks.base import Batch, Split

TINY = 1e-10
"""Without noise: the share of a row's squared length that must be new for it to say anything about the weights."""


def least_squares(
    features: Float[np.ndarray, "batch pos d"], answers: Float[np.ndarray, "batch pos"], noise: float = 0.0
) -> Float[np.ndarray, "batch pos"]:
    """At each row, the prediction of its answer from the rows before: the posterior mean of w . f for w ~ N(0, I) and answers w . f +
    N(0, noise^2). That is ridge regression with lambda = noise^2; without noise, its limit, the least-squares weights of smallest norm.

    The posterior is updated row by row (recursive least squares): P is its covariance, and P f / (f . P f + noise^2) the weights' step
    for an error of 1. Without noise, a row that follows from those before has f . P f = 0 and teaches nothing.

    >>> least_squares(np.array([[[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]]]), np.array([[5.0, 4.0, 0.0]])).tolist()
    [[0.0, 0.0, 17.0]]
    >>> least_squares(np.array([[[1.0], [1.0]]]), np.array([[5.0, 0.0]]), noise=0.5).tolist()
    [[0.0, 4.0]]
    """
    n, n_pos, d = features.shape
    weights, covariance = np.zeros((n, d)), np.tile(np.eye(d), (n, 1, 1))
    predicted = np.zeros((n, n_pos))
    for t in range(n_pos):
        row = features[:, t]
        predicted[:, t] = (weights * row).sum(axis=1)
        spread = np.einsum("nij,nj->ni", covariance, row)
        variance = (spread * row).sum(axis=1)
        known = (noise == 0) & (variance <= TINY * (row**2).sum(axis=1))
        step = np.where(known[:, None], 0.0, spread / np.where(known, 1.0, variance + noise**2)[:, None])
        weights += step * (answers[:, t] - predicted[:, t])[:, None]
        covariance -= step[:, :, None] * spread[:, None, :]
    return predicted


class LinearRegression:
    """Each sequence has its own w ~ N(0, I_D), and vectors x_0, y_0, x_1, y_1, ..., x_N with x_i ~ N(0, I_D) and
    y_i = w . x_i / sqrt(D) + noise * N(0, 1), so that y has variance 1 without noise.

    x stands in the first D coordinates, y in the next one (position 2 i and 2 i + 1). y_i is asked for at x_i; `values` there is y_i,
    noise included. `answered` are the x with at least D pairs before them, which without noise determine w; none is `unanswerable`.

    annotations["least_squares"] is the Bayes-optimal prediction from the pairs before. With X the rows x_i, the posterior of w given y is
    normal with mean (X'X / D + noise^2 I)^-1 X'y / sqrt(D), hence the prediction x . (X'X + D noise^2 I)^-1 X'y: ridge regression of y on
    x with lambda = D noise^2, and for noise 0 the weights of smallest norm. The zero predictor, best before any pair, has the
    expected loss 1 + noise^2.
    """

    def __init__(self, config: LinearRegressionConfig) -> None:
        self.config = config

    def sample(self, batch_size: int, rng: np.random.Generator, split: Split = "train") -> Batch:
        """Draw sequences of seq_len vectors. Raises UsageError for a split that there is not."""
        _require(batch_size, split)
        config = self.config
        n_queries = config.n_pairs + 1
        # Rounded as the model reads them.
        x = rng.standard_normal((batch_size, n_queries, config.d_x), dtype=np.float32).astype(np.float64)
        weights = rng.standard_normal((batch_size, config.d_x))
        y = np.einsum("npd,nd->np", x, weights) / config.d_x**0.5
        y += config.noise * rng.standard_normal((batch_size, n_queries))
        inputs = np.zeros((batch_size, config.seq_len, config.d_input), dtype=np.float32)
        inputs[:, ::2, : config.d_x] = x
        inputs[:, 1::2, config.d_x] = y[:, :-1]
        position = np.arange(config.seq_len)
        asked = position % 2 == 0
        # At a y, what was asked for at its x.
        values, predicted = (numbers.repeat(2, axis=1)[:, :-1] for numbers in (y, least_squares(x / config.d_x**0.5, y, config.noise)))
        return _batch(inputs, values, asked, asked & (position >= 2 * config.d_x), {"least_squares": predicted})

    def describe(self) -> str:
        """One paragraph: what the sequences are."""
        config = self.config
        noise = f" plus noise of standard deviation {config.noise:g}" if config.noise else ""
        return (
            f"Sequences of {config.n_pairs} pairs of a vector x of {config.d_x} coordinates and a number y, and one more x: y is a linear "
            f"function of x{noise}, drawn anew for each sequence. y is asked for at every x; the loss is the squared error, "
            f"{1 + config.noise**2:g} for a model that always says 0."
        )

    def to_strings(self, tokens: Iterable[int]) -> list[str]:
        """x0, y0, x1, y1, ..."""
        return [f"{'xy'[token % 2]}{token // 2}" for token in tokens]

    def fingerprint(self) -> str:
        """sha256 of the configuration, which decides everything."""
        return _fingerprint(self.config)

    def references(self) -> dict[str, float]:
        """Nothing is better than least squares. Without noise, n < D pairs leave the share 1 - n / D of w's squared length unknown, and D
        pairs nothing; with noise, its loss has no closed form."""
        config = self.config
        if config.noise:
            return {"excess_loss": 0.0}
        unknown = sum(1 - n / config.d_x for n in range(config.d_x))
        return {"loss": unknown / (config.n_pairs + 1), "in_context_loss": 0.0, "excess_loss": 0.0}


class AffineRecurrence:
    """Each sequence has its own a ~ U[-max_slope, max_slope] and b ~ N(0, offset_std^2), and is x_0 ~ N(0, 1),
    x_(t+1) = a x_t + b + noise * N(0, 1).

    x_t stands in the first coordinate, and x_(t+1) is asked for at every t. `answered` from t = 2 on, where three numbers, two
    equations, determine a and b if there is no noise; nowhere `unanswerable`.

    annotations["least_squares"] is the prediction of x_(t+1) by regression on (x_s, 1) at the s before, each coefficient with its prior
    variance (`least_squares`): exact from t = 2 on without noise, 0 at t = 0. A baseline, not the Bayes-optimal predictor, as a is
    uniform, not normal. annotations["last_value"] is x_t, the prediction that the same number comes again.
    """

    def __init__(self, config: AffineRecurrenceConfig) -> None:
        self.config = config

    def sample(self, batch_size: int, rng: np.random.Generator, split: Split = "train") -> Batch:
        """Draw sequences of seq_len vectors. Raises UsageError for a split that there is not."""
        _require(batch_size, split)
        config = self.config
        slope = rng.uniform(-config.max_slope, config.max_slope, size=batch_size)
        offset = config.offset_std * rng.standard_normal(batch_size)
        numbers = np.empty((batch_size, config.seq_len + 1))
        numbers[:, 0] = rng.standard_normal(batch_size)
        noise = config.noise * rng.standard_normal((batch_size, config.seq_len))
        for t in range(config.seq_len):
            numbers[:, t + 1] = slope * numbers[:, t] + offset + noise[:, t]
        shown, values = numbers[:, :-1], numbers[:, 1:]
        inputs = np.zeros((batch_size, config.seq_len, config.d_input), dtype=np.float32)
        inputs[:, :, 0] = shown
        # Scaled so that the coefficients have variance 1: a / (its standard deviation), b / offset_std.
        features = np.stack([config.max_slope / 3**0.5 * shown, np.full_like(shown, config.offset_std)], axis=2)
        predicted = least_squares(features, values, config.noise)
        position = np.arange(config.seq_len)
        return _batch(inputs, values, position >= 0, position >= 2, {"least_squares": predicted, "last_value": shown})

    def describe(self) -> str:
        """One paragraph: what the sequences are."""
        config = self.config
        noise = f" plus noise of standard deviation {config.noise:g}" if config.noise else ""
        return (
            f"Sequences of {config.seq_len} numbers, each of which is a times the one before plus b{noise}. a (uniform, at most "
            f"{config.max_slope:g} in size) and b (normal, standard deviation {config.offset_std:g}) are drawn anew for each sequence. "
            "The next number is asked for at every position; three numbers tell it. The loss is the squared error."
        )

    def to_strings(self, tokens: Iterable[int]) -> list[str]:
        """x0, x1, x2, ..."""
        return [f"x{token}" for token in tokens]

    def fingerprint(self) -> str:
        """sha256 of the configuration, which decides everything."""
        return _fingerprint(self.config)

    def references(self) -> dict[str, float]:
        """Without noise, nothing is unknown from the third number on. With noise there is no closed form."""
        return {} if self.config.noise else {"in_context_loss": 0.0}


def _require(batch_size: int, split: str) -> None:
    if split != "train":
        raise unknown_name("split", str(split), ["train"])
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")


def _fingerprint(config: LinearRegressionConfig | AffineRecurrenceConfig) -> str:
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()


def _batch(
    inputs: Float[np.ndarray, "batch pos d_model"],
    values: Float[np.ndarray, "batch pos"],
    asked: Bool[np.ndarray, " pos"],
    answered: Bool[np.ndarray, " pos"],
    baselines: Mapping[str, Float[np.ndarray, "batch pos"]],
) -> Batch:
    """Positions are named by their number: no two are alike, so that no score takes one vector for another."""
    n, n_pos, _ = inputs.shape
    tokens = torch.arange(n_pos).repeat(n, 1)
    mask = torch.from_numpy(asked).repeat(n, 1)
    return Batch(
        tokens=tokens,
        targets=tokens,
        answered=torch.from_numpy(answered).repeat(n, 1),
        unanswerable=torch.zeros_like(mask),
        annotations={name: torch.from_numpy(numbers.astype(np.float32)) for name, numbers in baselines.items()},
        inputs=torch.from_numpy(inputs),
        asked=mask,
        values=torch.from_numpy(values.astype(np.float32)),
    )
