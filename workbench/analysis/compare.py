"""Variants beside a reference, paired by seed: steps to a threshold or final values, and what censored seeds leave unknown.

A seed whose curve never reached the threshold has no step, only a lower bound: the last step at which it was looked at. It is
never dropped. Where one is censored there is no mean, and medians are bounded by order statistics, which such bounds can only widen.

Everything here takes and gives tidy tables. Columns: variant, lr (NaN where there is none), seed, step, value, at_least (the lower
bound of a value that is NaN; -inf where nothing is known of it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float

from workbench.analysis.seeds import t_interval

CONFIDENCE = 0.95
ENOUGH_RATES = 5
"""learning rates from which a grid counts as one in which a variant could find its best"""


@dataclass(frozen=True)
class Median:
    """A median and its interval, each a pair of bounds; the two bounds of the median differ where a censored value decides it.
    `coverage` is what the interval covers at least; nan where there are too few values for 95 %."""

    low: float
    high: float
    ci_low: float
    ci_high: float
    coverage: float

    @property
    def value(self) -> float:
        """The median where it is known, else nan."""
        return self.low if self.low == self.high else math.nan


def median_interval(low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"]) -> Median:
    """The median of values known to lie between `low` and `high` (equal where a value is known), with the interval between two
    order statistics that covers at least 95 % by the binomial distribution. Fewer than 6 values have no such interval.

    >>> steps = np.array([310.0, 250.0, 280.0, 260.0, 300.0, 600.0])
    >>> found = median_interval(steps, np.where(steps == 600, np.inf, steps))
    >>> found.value, found.ci_low, found.ci_high, found.coverage
    (290.0, 250.0, inf, 0.96875)
    """
    from scipy import stats

    n = len(low)
    if not n:
        return Median(math.nan, math.nan, math.nan, math.nan, math.nan)
    low, high = np.sort(low), np.sort(high)
    middle_low, middle_high = float(np.median(low)), float(np.median(high))
    rank = int(stats.binom.ppf((1 - CONFIDENCE) / 2, n, 0.5))
    if rank == 0:
        return Median(middle_low, middle_high, math.nan, math.nan, math.nan)
    coverage = float(1 - 2 * stats.binom.cdf(rank - 1, n, 0.5))
    return Median(middle_low, middle_high, float(low[rank - 1]), float(high[n - rank]), coverage)


def effect_size(differences: Float[np.ndarray, " n"]) -> float:
    """Paired Cohen's d_z: the mean of the differences over their standard deviation (n - 1). nan where they do not differ from
    each other, or there are fewer than two. Lakens 2013 (Frontiers in Psychology 4:863).

    >>> effect_size(np.array([-1.0, -2.0, -3.0]))
    -2.0
    """
    spread = differences.std(ddof=1) if len(differences) > 1 else 0.0
    return float(differences.mean() / spread) if spread > 0 else math.nan


def steps_to(curves: pd.DataFrame, threshold: float, *, falling: bool = False) -> pd.DataFrame:
    """One row for each variant, lr and seed: `value`, the first step at which its curve is at `threshold` or beyond (above it, or
    below where `falling`), NaN where it never is, and `at_least`, the last step of the curve.

    >>> curve = pd.DataFrame({"variant": "none", "lr": 0.003, "seed": 0, "step": [0, 25, 50], "value": [0.1, 0.96, 0.94]})
    >>> steps_to(curve, 0.95)[["value", "at_least"]].to_numpy().tolist()
    [[25.0, 50.0]]
    """
    rows = []
    for (variant, lr, seed), own in curves.groupby(["variant", "lr", "seed"], dropna=False, sort=False):
        there = own["value"] <= threshold if falling else own["value"] >= threshold
        first = float(own.loc[there, "step"].min())
        rows.append({"variant": variant, "lr": lr, "seed": seed, "value": first, "at_least": float(own["step"].max())})
    return pd.DataFrame(rows, columns=["variant", "lr", "seed", "value", "at_least"])


def final_values(curves: pd.DataFrame) -> pd.DataFrame:
    """One row for each variant, lr and seed: `value` at the last step of its curve.

    >>> curve = pd.DataFrame({"variant": "none", "lr": 0.003, "seed": 0, "step": [50, 25], "value": [0.75, 0.5]})
    >>> final_values(curve)["value"].tolist()
    [0.75]
    """
    last = curves.sort_values("step", kind="stable").groupby(["variant", "lr", "seed"], dropna=False, sort=False).tail(1)
    return last[["variant", "lr", "seed", "value"]].assign(at_least=-math.inf).reset_index(drop=True)


def curve_means(curves: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds and its 95 % t interval for each variant and step, at the steps that all seeds of a variant have.

    >>> curve = pd.DataFrame({"variant": "none", "seed": [0, 1], "step": 25, "value": [0.25, 0.75]})
    >>> curve_means(curve)[["mean", "n"]].to_numpy().tolist()
    [[0.5, 2.0]]
    """
    from scipy import stats

    known = curves.dropna(subset="value")
    table = known.groupby(["variant", "step"], sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    seeds = known.groupby("variant")["seed"].nunique()
    table = table[table["count"] == table["variant"].map(seeds)].rename(columns={"count": "n"})
    freedom = table["n"].to_numpy(dtype=float) - 1
    half = stats.t.ppf((1 + CONFIDENCE) / 2, np.where(freedom > 0, freedom, math.nan)) * table["std"] / np.sqrt(table["n"])
    return table.drop(columns="std").assign(ci_low=table["mean"] - half, ci_high=table["mean"] + half).reset_index(drop=True)


def best_rates(steps: pd.DataFrame) -> pd.DataFrame:
    """One row for each variant and learning rate: n seeds, how many are `censored`, `mean` (steps, a censored seed counted as its
    lower bound), and `best`. The best rate of a variant is the one at which the smallest share of seeds is censored; of
    several, the one with the lowest mean; of equal ones, the smallest.

    >>> steps = pd.DataFrame({"variant": "none", "lr": [0.001, 0.003], "seed": 0, "value": [300.0, 250.0], "at_least": 600.0})
    >>> best_rates(steps)["best"].tolist()
    [False, True]
    """
    rows = []
    for (variant, lr), own in steps.groupby(["variant", "lr"], dropna=False, sort=False):
        mean = float(own["value"].fillna(own["at_least"]).mean())
        rows.append({"variant": variant, "lr": lr, "n": len(own), "censored": int(own["value"].isna().sum()), "mean": mean})
    table = pd.DataFrame(rows, columns=["variant", "lr", "n", "censored", "mean"])
    order = table.assign(share=table["censored"] / table["n"]).sort_values(["share", "mean", "lr"], kind="stable")
    best = set(order.drop_duplicates("variant").index)
    return table.assign(best=[row in best for row in table.index])


def paired(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """One row for each variant other than the reference and each seed that both have: `difference`, value minus the
    reference's, NaN where one of them is censored, and the bounds `low` and `high` between which it lies.

    >>> values = pd.DataFrame({"variant": ["none", "value"], "seed": 0, "value": [300.0, math.nan], "at_least": 600.0})
    >>> paired(values, "none")[["difference", "low", "high"]].to_numpy().tolist()
    [[nan, 300.0, inf]]
    """
    held = values[["variant", "seed", "value", "at_least"]].astype({"value": "float64", "at_least": "float64"})
    both = held[held["variant"] != reference].merge(
        held[held["variant"] == reference].drop(columns="variant"), on="seed", suffixes=("", "_r")
    )
    low = both["value"].fillna(both["at_least"]) - both["value_r"].fillna(math.inf)
    high = both["value"].fillna(math.inf) - both["value_r"].fillna(both["at_least_r"])
    return both[["variant", "seed"]].assign(difference=both["value"] - both["value_r"], low=low, high=high)


def compared(values: pd.DataFrame, reference: str | None) -> pd.DataFrame:
    """One row for each variant, from one value for each variant and seed.

    Columns: variant, lr, n, censored, mean, ci_low, ci_high, median, median_low, median_high; and against the reference pairs,
    censored_pairs, difference, difference_low, difference_high, percent (of the reference's mean over the same seeds), d_z, and
    median_difference, median_difference_low, median_difference_high. Means have t intervals; they are NaN where a seed is
    censored. A t interval needs differences that are not all equal: no spread is seen in them.

    Raises ValueError where a seed of a variant has two values.

    >>> table = pd.DataFrame({"variant": ["none", "none", "value", "value"], "seed": [0, 1, 0, 1], "value": [4.0, 6.0, 3.0, 4.0]})
    >>> compared(table.assign(at_least=9.0), "none")["percent"].tolist()
    [nan, -30.0]
    """
    if values.duplicated(["variant", "seed"]).any():
        raise ValueError("a seed of a variant has two values")
    differences = None if reference is None else paired(values, reference)
    rows = []
    for variant, own in values.groupby("variant", sort=False):
        numbers = own["value"].to_numpy(dtype=float)
        mean = t_interval(numbers)
        median = median_interval(
            own["value"].fillna(own["at_least"]).to_numpy(dtype=float), own["value"].fillna(math.inf).to_numpy(dtype=float)
        )
        row: dict[str, Any] = {"variant": variant, "lr": own["lr"].iloc[0] if "lr" in own else math.nan, **vars(mean)}
        row |= {"median": median.value, "median_low": median.ci_low, "median_high": median.ci_high}
        row |= {"pairs": 0, "censored_pairs": 0}
        if differences is not None and variant != reference:
            pairs = cast(pd.DataFrame, differences[differences["variant"] == variant])
            beside = values[(values["variant"] == reference) & values["seed"].isin(pairs["seed"])]
            bounds = (pairs[name].to_numpy(dtype=float) for name in ("difference", "low", "high"))
            row |= against(*bounds, reference_mean=float(beside["value"].mean()))
        rows.append(row)
    return pd.DataFrame(rows, columns=[*_OWN, *_AGAINST])


_OWN = ("variant", "lr", "n", "censored", "mean", "ci_low", "ci_high", "median", "median_low", "median_high")
_AGAINST = ("pairs", "censored_pairs", "difference", "difference_low", "difference_high", "percent", "d_z")
_AGAINST += ("median_difference", "median_difference_low", "median_difference_high")


def against(
    difference: Float[np.ndarray, " n"], low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"], reference_mean: float
) -> dict[str, Any]:
    """The columns against the reference, from paired differences (NaN where a seed is censored) and their bounds.

    >>> gaps = np.array([-30.0, -20.0, -40.0])
    >>> found = against(gaps, gaps, gaps, 300.0)
    >>> found["pairs"], found["difference"], found["percent"], found["d_z"]
    (3, -30.0, -10.0, -3.0)
    """
    found = t_interval(difference)
    spread = found.ci_low < found.ci_high
    median = median_interval(low, high)
    return {
        "pairs": found.n,
        "censored_pairs": found.censored,
        "difference": found.mean,
        "difference_low": found.ci_low if spread else math.nan,
        "difference_high": found.ci_high if spread else math.nan,
        "percent": 100 * found.mean / reference_mean if reference_mean else math.nan,
        "d_z": math.nan if found.censored else effect_size(difference),
        "median_difference": median.value,
        "median_difference_low": median.ci_low,
        "median_difference_high": median.ci_high,
    }
