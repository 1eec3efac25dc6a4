"""Comparisons over seeds: against scipy and a naive count, by simulation, and what censoring may and may not change."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from workbench.analysis.compare import against, best_rates, compared, curve_means, final_values, median_interval, paired, steps_to
from workbench.analysis.compare_words import difference_cell, own_cell, rows_of, sentence
from workbench.analysis.emergence import first_reached


def values(**variants: list[float]) -> pd.DataFrame:
    """One value for each seed of each variant; nan is censored at step 600."""
    rows = [(name, 0.003, seed, value, 600.0) for name, own in variants.items() for seed, value in enumerate(own)]
    return pd.DataFrame(rows, columns=["variant", "lr", "seed", "value", "at_least"])


def row(table: pd.DataFrame, variant: str = "value") -> dict[str, float]:
    return next(found for found in rows_of(table) if found["variant"] == variant)


def test_the_paired_interval_is_scipys():
    none, value = [430.0, 395.0, 510.0, 388.0, 460.0], [310.0, 402.0, 365.0, 300.0, 322.0]
    found = row(compared(values(none=none, value=value), "none"))
    low, high = stats.ttest_rel(value, none).confidence_interval(0.95)
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((low, high))
    difference = np.subtract(value, none)
    assert found["difference"] == pytest.approx(difference.mean())
    assert found["d_z"] == pytest.approx(stats.ttest_rel(value, none).statistic / math.sqrt(5))
    assert found["percent"] == pytest.approx(100 * (np.mean(value) / np.mean(none) - 1))
    assert (found["pairs"], found["n"], found["censored"]) == (5, 5, 0)


def test_percent_is_of_the_seeds_that_are_paired():
    table = pd.concat([values(none=[100.0, 200.0, 900.0]), values(value=[50.0, 100.0])])
    assert row(compared(table, "none"))["percent"] == pytest.approx(-50)


@pytest.mark.parametrize("n", [1, 5, 6, 7, 11, 17, 23])
def test_the_median_interval_is_the_widest_needed_and_no_wider(n):
    """Every rank tried by counting: the innermost pair of order statistics that covers 95 %."""
    sample = np.random.default_rng(n).permutation(np.arange(n, dtype=float))
    found = median_interval(sample, sample)
    assert found.value == np.median(sample)
    covers = {rank: sum(math.comb(n, k) for k in range(rank, n - rank + 1)) / 2**n for rank in range(1, n // 2 + 1)}
    enough = [rank for rank, share in covers.items() if share >= 0.95]
    if not enough:
        assert math.isnan(found.ci_low) and math.isnan(found.coverage) and n < 6
    else:
        rank = max(enough)
        assert (found.ci_low, found.ci_high) == (rank - 1, n - rank) and found.coverage == pytest.approx(covers[rank])


def test_an_interval_covers_what_it_says():
    rng = np.random.default_rng(0)
    truth, covered, medians, count = -40.0, 0, 0, 2000
    for _ in range(count):
        none = rng.normal(400, 60, 7)
        value = none + rng.normal(truth, 50, 7)
        found = against(value - none, value - none, value - none, none.mean())
        covered += found["difference_low"] <= truth <= found["difference_high"]
        medians += found["median_difference_low"] <= truth <= found["median_difference_high"]
    assert 0.93 * count <= covered <= 0.97 * count
    assert 0.975 * count <= medians  # 98.4 % by the binomial: ranks are whole


@pytest.mark.parametrize("grid", [1e-6, 25.0])
@pytest.mark.parametrize("pairs", [3, 8])
def test_equal_distributions_are_told_apart_no_more_often_than_the_level(pairs, grid):
    """Also where steps are rounded to evaluations, and differences repeat."""
    rng = np.random.default_rng(1)
    claims, count = 0, 1500
    for _ in range(count):
        none, value = np.ceil(rng.normal(400, 40, (2, pairs)) / grid) * grid
        found = against(value - none, value - none, value - none, none.mean())
        text = sentence({"variant": "value", **found}, "none", "steps", event="gets there", unit="steps")
        claims += "earlier" in text or "later" in text
    assert claims <= 0.05 * count + 2.6 * math.sqrt(0.05 * 0.95 * count)


steps = st.integers(1, 23).map(lambda place: 25.0 * place)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(steps, steps), min_size=1, max_size=11), st.data())
def test_censoring_only_widens_what_is_known(pairs, data):
    """Whatever is cut off, each bound moves outwards or stays: nothing is ever claimed that the whole runs would not bear out."""
    whole = values(none=[none for none, _ in pairs], value=[value for _, value in pairs])
    ends = pd.Series(data.draw(st.lists(st.integers(0, 24).map(lambda place: 25.0 * place), min_size=len(whole), max_size=len(whole))))
    cut = whole.assign(at_least=ends, value=whole["value"].where(whole["value"] <= ends))
    before, after = compared(whole, "none"), compared(cut, "none")
    assert after["n"].tolist() == before["n"].tolist() and after["censored"].sum() == cut["value"].isna().sum()
    for old, new in zip(rows_of(before), rows_of(after), strict=True):
        if math.isnan(old["median_low"]):
            assert math.isnan(new["median_low"])
        else:
            assert new["median_low"] <= old["median_low"] and old["median_high"] <= new["median_high"]
        assert math.isnan(new["mean"]) if new["censored"] else new["mean"] == old["mean"]
    old, new = row(before), row(after)
    if not math.isnan(old["median_difference_low"]):
        assert new["median_difference_low"] <= old["median_difference_low"]
        assert new["median_difference_high"] >= old["median_difference_high"]
    assert math.isnan(new["difference"]) == bool(new["censored_pairs"])


def test_bounds_of_a_pair_hold_whatever_the_censored_steps_are():
    table = values(none=[300.0, math.nan, 500.0, math.nan], value=[math.nan, 200.0, 450.0, math.nan])
    bounds = paired(table, "none").set_index("seed")[["difference", "low", "high"]]
    assert bounds.loc[0].tolist()[1:] == [300, math.inf] and bounds.loc[1].tolist()[1:] == [-math.inf, -400]
    assert bounds.loc[2].tolist() == [-50, -50, -50] and bounds.loc[3].tolist()[1:] == [-math.inf, math.inf]
    assert bounds["difference"].isna().tolist() == [True, True, False, True]


def test_steps_are_those_of_the_first_evaluation_there():
    rng = np.random.default_rng(2)
    rows = [
        {"variant": name, "lr": 0.1, "seed": seed, "step": 7 * place, "value": value}
        for name, seed in itertools.product(("none", "value"), (0, 1, 2))
        for place, value in enumerate(rng.uniform(0, 1, 11))
    ]
    curves = pd.DataFrame(rows).sample(frac=1, random_state=0)
    for threshold in (0.5, 0.9, 1.1):
        for found in steps_to(curves, threshold).itertuples():
            own = curves[(curves["variant"] == found.variant) & (curves["seed"] == found.seed)]
            expected = first_reached(own["step"].tolist(), own["value"].tolist(), threshold)
            assert found.at_least == 70 and (math.isnan(found.value) if expected is None else found.value == expected)
    fallen = steps_to(curves.assign(value=-curves["value"]), -0.5, falling=True)
    assert fallen["value"].tolist() == steps_to(curves, 0.5)["value"].tolist()
    last = curves[curves["step"] == 70].set_index(["variant", "seed"])["value"]
    for found in final_values(curves).itertuples():
        assert found.value == last[found.variant, found.seed]


def test_bands_are_t_intervals_where_all_seeds_are():
    rng = np.random.default_rng(3)
    rows = [{"variant": "none", "seed": seed, "step": step, "value": rng.normal()} for seed in range(5) for step in (0, 7, 14)]
    means = curve_means(pd.DataFrame(rows[:-1]))
    assert means["step"].tolist() == [0, 7]
    for found in means.itertuples():
        own = [entry["value"] for entry in rows if entry["step"] == found.step]
        low, high = stats.ttest_1samp(own, 0).confidence_interval(0.95)
        assert (found.mean, found.ci_low, found.ci_high, found.n) == pytest.approx((np.mean(own), low, high, 5))
    assert curve_means(pd.DataFrame(rows[:3]))["ci_low"].isna().all()


def test_the_best_learning_rate():
    def rate(lr: float, *own: float) -> pd.DataFrame:
        return values(value=list(own)).assign(lr=lr)

    table = best_rates(
        pd.concat([rate(0.001, 500.0, 520.0), rate(0.003, 100.0, math.nan), rate(0.01, 400.0, 420.0), rate(0.03, 410.0, 410.0)])
    )
    chosen = table.set_index("lr")
    # A rate at which a seed is censored loses to any at which none is; of two equal means the smaller rate is taken.
    assert chosen["best"].tolist() == [False, False, True, False] and chosen.loc[0.003, "mean"] == 350
    none_reached = best_rates(pd.concat([rate(0.001, math.nan, math.nan), rate(0.003, 300.0, math.nan)]))
    assert none_reached["best"].tolist() == [False, True]


def test_words_claim_no_more_than_the_interval():
    none = [430.0, 395.0, 510.0, 388.0, 460.0, 441.0]

    def said(value: list[float], reference: list[float] = none) -> str:
        return sentence(
            row(compared(values(none=reference, value=value), "none")), "none", "steps to 0.95", event="reaches 0.95", unit="steps"
        )

    earlier = said([value - gap for value, gap in zip(none, (100, 110, 120, 130, 140, 150), strict=True)])
    assert earlier == "value reaches 0.95 125 [105, 145] steps (29 %) earlier than none (6 pairs)."
    assert "105, 145] steps (29 %) later" in said([value + gap for value, gap in zip(none, (100, 110, 120, 130, 140, 150), strict=True)])
    assert said([none[1], none[0], *none[2:]]).startswith("value, steps to 0.95: no difference that 6 pairs can tell from none: +0 [")
    assert said(none) == "value, steps to 0.95: no difference from none in any of 6 pairs."
    assert said([value - 25 for value in none]).endswith("-25 steps from none in each of 6 pairs; without spread there is no interval.")
    assert said([400.0], [430.0]).endswith("one pair, -30 steps from none; one pair has no interval.")
    # Only the reference is late: the median pair is as early as its order statistics allow, no more.
    assert said([300.0] * 6, [math.nan] * 6).endswith("the median pair is at least 300 steps earlier.")
    assert said([math.nan] * 6).endswith("the median pair is at least 90 steps later.")
    assert said([300.0, 310.0, 320.0, 330.0, 340.0, math.nan]).endswith("and no side that can be told.")
    higher = sentence(row(compared(values(none=[0.5, 0.6, 0.7], value=[0.8, 0.91, 1.0]), "none")), "none", "final accuracy")
    assert higher == "value: final accuracy is 0.303 [0.289, 0.318] (51 %) higher than that of none (3 pairs)."


def test_cells():
    table = compared(values(none=[430.0, 395.0, math.nan], value=[math.nan, math.nan, math.nan]), "none")
    assert own_cell(row(table, "none"), "steps", "not reached by") == "not reached by 1 of 3; median 430"
    assert own_cell(row(table), "steps", "not reached by") == "not reached by 3 of 3"
    assert difference_cell(row(table, "none"), "steps") == "–" and difference_cell(row(table), "steps") == "not known"
    whole = compared(values(none=[430.0, 395.0], value=[400.0, 375.0]), "none")
    assert own_cell(row(whole), "steps") == "388 [229, 546]" and difference_cell(row(whole), "steps") == "-25 [-89, +39]"
    with pytest.raises(ValueError, match="two values"):
        compared(pd.concat([values(none=[1.0]), values(none=[2.0])]), "none")
