"""Draws from many discrete distributions at once: Walker's alias method in integers.

A row of V probabilities is cut into V bins of equal weight, each shared by at most two tokens. A draw is then one
bin, one coin and one comparison, whatever V is.

Every step from probability to draw is exact: probabilities are multiples of 2**-32 (`quantised`), bins hold 2**32
units, coins are 32-bit integers. The machine's mathematical library is never asked, so the same generator state
gives the same draws everywhere, and the sampled distribution *is* the table, not an approximation of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt

UNITS = 2**32
"""probabilities are counted in units of 1 / UNITS"""


def quantised(weights: Float[np.ndarray, "*rows d_vocab"]) -> Float[np.ndarray, "*rows d_vocab"]:
    """Each row scaled to sum to one and rounded to multiples of 2**-32; the rounding's remainder goes to the
    largest entry, so that a row sums to one exactly. Weights are not negative, and no row is all zero.

    Two libraries whose logarithms or matrix products differ in the last bit agree after this rounding (unless
    a value lies within about 1e-18 of a boundary, which for 65 tokens happens in about one language of 10,000). An entry below
    2**-33 becomes zero. Applied twice it changes nothing.
    """
    units = np.rint(weights / weights.sum(-1, keepdims=True) * UNITS)
    largest = units.argmax(-1)[..., None]
    remainder = UNITS - units.sum(-1, keepdims=True)
    np.put_along_axis(units, largest, np.take_along_axis(units, largest, -1) + remainder, -1)
    return units / UNITS


@dataclass(frozen=True, eq=False)
class AliasTable:
    """Alias tables of some distributions over `d_vocab` tokens, one row each, flattened. Made by `of`."""

    d_vocab: int
    threshold: UInt[np.ndarray, " entries"]
    """the bin's own token is drawn where the coin is below this number of units"""
    alias: Int[np.ndarray, " entries"]
    """the token drawn otherwise (the bin's own, where it fills its bin)"""

    @classmethod
    def of(cls, probabilities: Float[np.ndarray, "rows d_vocab"]) -> AliasTable:
        """The tables of quantised probabilities (rows that `quantised` leaves unchanged)."""
        rows, d_vocab = probabilities.shape
        threshold = np.empty((rows, d_vocab), dtype=np.uint32)
        alias = np.empty((rows, d_vocab), dtype=np.int64)
        for row, units in enumerate((probabilities * UNITS).astype(np.int64)):
            threshold[row], alias[row] = _fill_bins(units.tolist())
        return cls(d_vocab, threshold.ravel(), alias.ravel())

    def chances(self, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Int[np.ndarray, "*shape"], UInt[np.ndarray, "*shape"]]:
        """The random part of `shape` draws, in bulk: bins in [0, d_vocab), coins in [0, 2**32)."""
        return rng.integers(0, self.d_vocab, shape), rng.integers(0, UNITS, shape, dtype=np.uint32)

    def pick(
        self, rows: Int[np.ndarray, "*shape"], bins: Int[np.ndarray, "*shape"], coins: UInt[np.ndarray, "*shape"]
    ) -> Int[np.ndarray, "*shape"]:
        """The token that each pair of chances gives in the distribution of `rows`."""
        index = rows * self.d_vocab + bins
        return np.where(coins < self.threshold.take(index), bins, self.alias.take(index))

    def draw(self, rows: Int[np.ndarray, "*shape"], rng: np.random.Generator) -> Int[np.ndarray, "*shape"]:
        """One token from the distribution of each of `rows`."""
        return self.pick(rows, *self.chances(rng, rows.shape))


def _fill_bins(units: list[int]) -> tuple[list[int], list[int]]:
    """Vose's algorithm on one row: a bin holds UNITS, and a token of weight w has w * d_vocab units to place."""
    rest = [unit * len(units) for unit in units]
    threshold, alias = [0] * len(units), list(range(len(units)))
    short = [token for token, unit in enumerate(rest) if unit < UNITS]
    long = [token for token, unit in enumerate(rest) if unit >= UNITS]
    while short:
        token, donor = short.pop(), long[-1]
        threshold[token], alias[token] = rest[token], donor
        rest[donor] -= UNITS - rest[token]
        if rest[donor] < UNITS:
            short.append(long.pop())
    return threshold, alias
