"""A mean over sequences, and how well these sequences determine it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Z95 = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Estimate:
    """A value for each of the `...` axes, with its 95 % interval over `n` sequences."""

    value: Float[Tensor, "*what"]
    ci_low: Float[Tensor, "*what"]
    ci_high: Float[Tensor, "*what"]
    n: int


@dataclass(frozen=True)
class PerSequence:
    """What each sequence adds to a mean: the sum over its positions that count, and how many those are."""

    sums: Float[Tensor, "batch *what"]
    counts: Float[Tensor, " batch"]

    @classmethod
    def cat(cls, parts: list[PerSequence]) -> PerSequence:
        """The sequences of several batches together."""
        return cls(torch.cat([part.sums for part in parts]), torch.cat([part.counts for part in parts]))

    def estimate(self) -> Estimate:
        """The ratio of the totals, with the linearised interval of a ratio estimator (Cochran 1977, section 2.11).

        Positions of one sequence depend on each other, so the sequence is the unit. nan where no position counts, and
        an interval of nan with fewer than two sequences that have any.

        >>> PerSequence(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0])).estimate().value
        tensor(1.)
        """
        has = self.counts > 0
        sums, counts = self.sums[has].double(), self.counts[has].double()
        n = len(counts)
        total = counts.sum()
        value = sums.sum(dim=0) / total
        weights = counts.view(-1, *[1] * (sums.ndim - 1))
        residual = sums - value * weights
        variance = residual.pow(2).sum(dim=0) * (n / (n - 1) if n > 1 else float("nan")) / total.pow(2)
        half = Z95 * variance.sqrt()
        return Estimate(value.float(), (value - half).float(), (value + half).float(), n)
