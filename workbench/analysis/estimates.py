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

    def __getitem__(self, rows: slice) -> PerSequence:
        """Some of the sequences."""
        return PerSequence(self.sums[rows], self.counts[rows])

    def part(self, *index: int) -> PerSequence:
        """One of the things that are averaged, such as one head of several."""
        return PerSequence(self.sums[(slice(None), *index)], self.counts)

    def estimate(self) -> Estimate:
        """The ratio of the totals, with the linearised interval of a ratio estimator (Cochran 1977, section 2.11).

        Positions of one sequence depend on each other, so the sequence is the unit. nan where no position counts, and
        an interval of nan with fewer than two sequences that have any.

        >>> PerSequence(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0])).estimate().value
        tensor(1.)
        """
        has = self.counts > 0
        return ratio(self.sums[has], self.counts[has])


@dataclass(frozen=True)
class Ratio:
    """What each sequence adds to a ratio of two sums, both of which may differ for each of the `...` axes."""

    numerators: Float[Tensor, "batch *what"]
    denominators: Float[Tensor, "batch *what"]

    @classmethod
    def cat(cls, parts: list[Ratio]) -> Ratio:
        """The sequences of several batches together."""
        return cls(torch.cat([part.numerators for part in parts]), torch.cat([part.denominators for part in parts]))

    def estimate(self) -> Estimate:
        """The ratio of the totals, with the linearised 95 % interval."""
        return ratio(self.numerators, self.denominators)


def ratio(numerators: Float[Tensor, "batch *what"], denominators: Float[Tensor, " batch"] | Float[Tensor, "batch *what"]) -> Estimate:
    """Sum of the numerators over sum of the denominators, which may have any sign, with the linearised 95 % interval
    over sequences. nan where the denominators sum to zero.

    >>> ratio(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 5.0])).value
    tensor(1.)
    """
    n = len(denominators)
    top = numerators.double()
    bottom = denominators.double()
    bottom = bottom.view(*bottom.shape, *[1] * (top.ndim - bottom.ndim))
    total = bottom.sum(dim=0)
    value = top.sum(dim=0) / total
    residual = top - value * bottom
    variance = residual.pow(2).sum(dim=0) * (n / (n - 1) if n > 1 else float("nan")) / total.pow(2)
    half = Z95 * variance.sqrt()
    return Estimate(value.float(), (value - half).float(), (value + half).float(), n)
