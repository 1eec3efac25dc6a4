"""Means over sequences: the interval against simulation, the bootstrap and the textbook."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from tests.reference_analysis import mean_and_error
from workbench.analysis.estimates import Z95, PerSequence


def of(sums, counts) -> PerSequence:
    return PerSequence(torch.as_tensor(np.asarray(sums)).float(), torch.as_tensor(np.asarray(counts)).float())


def dependent(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Right answers and questions of n sequences: each has its own chance, lower where more is asked."""
    counts = rng.integers(0, 11, n)
    chance = rng.beta(7, 3, n) * (1 - counts / 23)
    return rng.binomial(counts, chance).astype(float), counts


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    counts = np.arange(11)
    truth = (0.7 * (1 - counts / 23) * counts).sum() / counts.sum()
    estimates = [of(*dependent(rng, 256)).estimate() for _ in range(2000)]
    covered = np.mean([estimate.ci_low <= truth <= estimate.ci_high for estimate in estimates])
    assert 0.93 <= covered <= 0.97
    # A mean of the sequences' own means would be another number, and far outside.
    assert np.mean([estimate.value for estimate in estimates]) == pytest.approx(truth, abs=0.002)


def test_against_the_bootstrap():
    sums, counts = dependent(np.random.default_rng(1), 256)
    estimate = of(sums, counts).estimate()

    def ratio(total, count, axis):
        return total.sum(axis=axis) / count.sum(axis=axis)

    resampled = scipy.stats.bootstrap(
        (sums, counts), ratio, paired=True, vectorized=True, n_resamples=5000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = (estimate.ci_high - estimate.ci_low).item()
    assert estimate.ci_low.item() == pytest.approx(resampled.low, abs=0.1 * width)
    assert estimate.ci_high.item() == pytest.approx(resampled.high, abs=0.1 * width)


def test_equal_counts_reduce_to_mean_and_standard_error():
    values = np.random.default_rng(3).normal(3, 2, 31)
    estimate = of(7 * values, np.full(31, 7)).estimate()
    error = values.std(ddof=1) / np.sqrt(31)
    assert estimate.n == 31
    assert estimate.value.item() == pytest.approx(values.mean(), rel=1e-5)
    assert estimate.ci_low.item() == pytest.approx(values.mean() - 1.959964 * error, rel=1e-5)
    assert estimate.ci_high.item() == pytest.approx(values.mean() + 1.959964 * error, rel=1e-5)
    assert pytest.approx(scipy.stats.norm.ppf(0.975)) == Z95


def test_against_a_loop_for_every_head():
    rng = np.random.default_rng(4)
    sums, counts = rng.normal(size=(13, 3)), rng.integers(0, 5, 13)
    sums[counts == 0] = 0
    estimate = of(sums, counts).estimate()
    assert estimate.value.shape == (3,) and estimate.n == (counts > 0).sum() < 13
    for head in range(3):
        value, error = mean_and_error(sums[:, head].tolist(), counts.tolist())
        assert estimate.value[head].item() == pytest.approx(value, rel=1e-4)
        assert (estimate.ci_high - estimate.ci_low)[head].item() == pytest.approx(2 * Z95 * error, rel=1e-4)


def test_sequences_without_any_position_change_nothing():
    some = of([1.0, 3.0, 2.0], [2, 4, 2]).estimate()
    more = of([1.0, 0.0, 3.0, 0.0, 2.0], [2, 0, 4, 0, 2]).estimate()
    assert some == more and some.n == 3


@pytest.mark.parametrize(("sums", "counts", "value", "n"), [([], [], np.nan, 0), ([0.0], [0], np.nan, 0), ([3.0, 0.0], [4, 0], 0.75, 1)])
def test_too_few_sequences_have_no_interval(sums, counts, value, n):
    estimate = of(sums, counts).estimate()
    assert estimate.n == n and estimate.value.item() == pytest.approx(value, nan_ok=True)
    assert estimate.ci_low.isnan() and estimate.ci_high.isnan()


def test_parts_join_to_the_whole():
    sums, counts = np.random.default_rng(5).normal(size=(11, 2)), np.arange(11)
    whole = of(sums, counts)
    joined = PerSequence.cat([of(sums[:7], counts[:7]), of(sums[7:], counts[7:])])
    assert torch.equal(joined.sums, whole.sums) and torch.equal(joined.counts, whole.counts)
