"""What several seeds of several variants say together: means with t intervals, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

PLACE = ("task", "metric", "part", "condition", "intervention", "layer", "source_layer")
"""columns that say which quantity a row is, besides the variant and the seed"""


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds with its 95 % t interval; `censored` seeds had no value (an event that did not take place), and
    then there is no mean: leaving them out would make a late variant look early."""

    mean: float
    ci_low: float
    ci_high: float
    n: int
    censored: int


def t_interval(values: Iterable[float]) -> SeedMean:
    """The mean of one value for each seed, and its 95 % interval by Student's t with n - 1 degrees of freedom (a percentile
    bootstrap covers far less than it says with so few). nan for the interval of fewer than two seeds.

    >>> t_interval([1.0, 2.0, 3.0]).mean
    2.0
    >>> round(t_interval([1.0, 2.0, 3.0]).ci_high, 3)
    4.484
    """
    from scipy import stats

    numbers = np.asarray(list(values), dtype=np.float64)
    censored = int(np.isnan(numbers).sum())
    if censored or not len(numbers):
        return SeedMean(math.nan, math.nan, math.nan, len(numbers), censored)
    mean, n = float(numbers.mean()), len(numbers)
    half = float(stats.t.ppf(0.975, n - 1) * numbers.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return SeedMean(mean, mean - half, mean + half, n, 0)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> SeedMean:
    """The mean over the seeds that both have of value minus reference, with the t interval of these differences.

    >>> paired_difference({0: 5.0, 1: 7.0}, {0: 4.0, 1: 6.0}).mean
    1.0
    """
    return t_interval([values[seed] - reference[seed] for seed in sorted(values) if seed in reference])


def over_seeds(tables: pd.DataFrame, reference: str | None = None) -> pd.DataFrame:
    """Means over seeds of every quantity in the tidy tables of several runs (one row for each variant, seed and quantity).

    Columns: those of `PLACE` that occur, variant, mean, ci_low, ci_high, n (seeds), censored; with a `reference` variant
    also difference, difference_low, difference_high, pairs (value minus the reference's, paired by seed).

    Raises ValueError where a seed has two rows of one quantity: then they are not one value for each seed.
    """
    place = [name for name in PLACE if name in tables]
    rows = []
    for where, group in tables.groupby(place, dropna=False, sort=False):
        by_variant: dict[str, dict[int, float]] = {}
        for variant, of_variant in group.groupby("variant", sort=False):
            if of_variant["seed"].duplicated().any():
                raise ValueError(f"several rows of {dict(zip(place, where, strict=True))} for one seed of {variant}")
            by_variant[str(variant)] = dict(zip(of_variant["seed"].astype(int), of_variant["value"].astype(float), strict=True))
        for variant, values in by_variant.items():
            found = t_interval(values.values())
            row = dict(zip(place, where, strict=True)) | {"variant": variant} | vars(found)
            if reference is not None:
                gap = paired_difference(values, by_variant.get(reference, {}))
                names = ("difference", "difference_low", "difference_high", "pairs")
                row |= dict(zip(names, (gap.mean, gap.ci_low, gap.ci_high, gap.n), strict=True))
            rows.append(row)
    return pd.DataFrame(rows)
