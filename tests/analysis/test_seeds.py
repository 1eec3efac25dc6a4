"""Means over seeds, against scipy, and events that did not take place."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from workbench.analysis.seeds import over_seeds, paired_difference, t_interval


def test_intervals_are_scipys():
    values = [3.0, 5.5, 4.25, 9.0, 1.0]
    found = t_interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.ci_low, found.ci_high, found.n) == pytest.approx((np.mean(values), low, high, 5))
    other = [2.0, 5.0, 5.0, 6.0, 2.0]
    gap = paired_difference(dict(enumerate(values)), dict(enumerate(other)))
    low, high = stats.ttest_rel(values, other).confidence_interval(0.95)
    assert (gap.mean, gap.ci_low, gap.ci_high) == pytest.approx((np.mean(values) - np.mean(other), low, high))


def test_the_interval_covers_as_it_says():
    rng = np.random.default_rng(0)
    covered = sum(low.ci_low <= 2 <= low.ci_high for low in (t_interval(rng.normal(2, 3, 5)) for _ in range(1000)))
    assert 930 <= covered <= 970


def test_one_seed_has_no_interval_and_a_censored_one_no_mean():
    alone = t_interval([4.0])
    assert alone.mean == 4 and math.isnan(alone.ci_low) and alone.n == 1
    censored = t_interval([4.0, math.nan, 5.0])
    assert math.isnan(censored.mean) and (censored.n, censored.censored) == (3, 1)
    assert math.isnan(t_interval([]).mean)


def test_pairs_are_the_seeds_that_both_have():
    gap = paired_difference({0: 1.0, 1: 2.0, 5: 9.0}, {1: 1.0, 0: 1.0, 7: 100.0})
    assert (gap.mean, gap.n) == (0.5, 2)


def test_a_table_of_variants():
    quantities = [("a", "none", (10, 12)), ("a", "value", (7, 10)), ("b", "none", (1, math.nan)), ("c", "value", (4, 5))]
    rows = [
        {"metric": "emergence_step", "part": part, "intervention": None, "variant": variant, "seed": seed, "value": value, "ci_low": 0.0}
        for part, variant, values in quantities
        for seed, value in enumerate(values)
    ]
    table = over_seeds(pd.DataFrame(rows), reference="none").set_index(["part", "variant"])
    assert list(table.index) == [("a", "none"), ("a", "value"), ("b", "none"), ("c", "value")]
    assert table.loc[("a", "value"), "mean"] == 8.5 and table.loc[("a", "value"), "difference"] == -2.5
    assert table.loc[("a", "none"), "difference"] == 0 and table.loc[("a", "value"), "pairs"] == 2
    assert table.loc[("b", "none"), "censored"] == 1 and math.isnan(table.loc[("b", "none"), "mean"])
    assert table.loc[("c", "value"), "pairs"] == 0 and math.isnan(table.loc[("c", "value"), "difference"])
    assert "difference" not in over_seeds(pd.DataFrame(rows))
    with pytest.raises(ValueError, match="for one seed of none"):
        over_seeds(pd.DataFrame([*rows, rows[0]]))
