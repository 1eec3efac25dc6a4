"""When something appears on a curve over training."""

from __future__ import annotations

from collections.abc import Sequence


def first_reached(steps: Sequence[int], values: Sequence[float], threshold: float) -> int | None:
    """The first step at which the value is at least `threshold`; None where the curve never gets there (censored).

    >>> first_reached([0, 10, 20], [0.1, 0.96, 0.99], 0.95)
    10
    >>> first_reached([0, 10, 20], [0.1, 0.2, 0.3], 0.95) is None
    True
    """
    return next((step for step, value in sorted(zip(steps, values, strict=True)) if value >= threshold), None)
