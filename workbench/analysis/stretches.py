"""Positions in bins and stretches: inside the training length, and beyond it."""

from __future__ import annotations

BINS = 8
"""Bins of a stretch, at most."""
STRETCHES = {"inside": (0, 1), "1x to 2x": (1, 2), "2x to 4x": (2, 4)}
"""where each stretch starts and ends, in training lengths"""


def bin_width(n_pos: int) -> int:
    """The width of the bins of `n_pos` positions: the least of which `BINS` are enough."""
    return -(-n_pos // BINS)


def bins(n_pos: int) -> list[slice]:
    """The positions 0 .. n_pos - 1 in at most `BINS` bins of equal width (the last may be shorter).

    >>> bins(5)
    [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    >>> bins(64)[1], bins(13)[-1]
    (slice(8, 16, None), slice(12, 13, None))
    """
    return _cut(0, n_pos, bin_width(n_pos))


def bins_beyond(n_pos: int, n_longer: int) -> list[slice]:
    """The positions n_pos .. n_longer - 1: up to 2 n_pos in bins as wide as those of the first `n_pos`, then in bins twice as wide.

    >>> bins_beyond(16, 19)
    [slice(16, 18, None), slice(18, 19, None)]
    >>> bins_beyond(3, 9)
    [slice(3, 4, None), slice(4, 5, None), slice(5, 6, None), slice(6, 8, None), slice(8, 9, None)]
    """
    width, twice = bin_width(n_pos), 2 * n_pos
    return _cut(n_pos, min(n_longer, twice), width) + _cut(twice, n_longer, 2 * width)


def stretch_of(position: int, n_pos: int) -> str:
    """The name of the stretch that a position lies in, for a training length of `n_pos`.

    >>> [stretch_of(position, 64) for position in (0, 63, 64, 128, 255)]
    ['inside', 'inside', '1x to 2x', '2x to 4x', '2x to 4x']
    """
    return next(name for name, (_, last) in STRETCHES.items() if position < last * n_pos)


def _cut(start: int, stop: int, width: int) -> list[slice]:
    return [slice(first, min(first + width, stop)) for first in range(start, stop, width)]
