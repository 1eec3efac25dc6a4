"""Strengths are recovered from the margins of a constructed model, and from the closed form that they belong to."""

import numpy as np
import pytest
import torch

from workbench.analysis import hijack
from workbench.analysis.hijack_fit import Counts, Fit, fit_strengths, r_squared, resampled_strengths, sign_agreement
from workbench.model.constructed import Strengths, associative_memory
from workbench.tasks.hijack import grid, hijack_prompts

V, T = 11, 41
BIGRAM = np.random.default_rng(0).dirichlet(np.full(V, 0.8), size=V)
LOG = torch.from_numpy(np.log(BIGRAM))
DESIGNS = grid(BIGRAM, [0, 3], log_odds=(-2.0, 0.0, 1.0, 3.0), n_context=(0, 1, 3), n_prior=(0, 1), distance=(1, 6))
PROMPTS = hijack_prompts(DESIGNS, BIGRAM, T, np.random.default_rng(1))
COUNTS, ODDS = Counts.of(PROMPTS), PROMPTS.log_odds.numpy()


@pytest.mark.parametrize("t1", [0.0, 0.7, 2.0, 6.0])
def test_the_gap_is_that_of_the_closed_form(t1):
    mass = hijack.attention_mass(hijack.attention(PROMPTS.tokens, Strengths(t1=t1)), PROMPTS.tokens, V)
    expected = hijack.attention_gap(mass, PROMPTS.design["context"], PROMPTS.design["prior"])
    np.testing.assert_allclose(COUNTS.gap(t1), expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("t1", [0.5, 1.0, 2.5, 4.0])
@pytest.mark.parametrize(("positions", "stream"), [("standard", False), ("relative", True)])
def test_the_strengths_of_a_constructed_model_are_recovered(t1, positions, stream):
    strengths = Strengths(t1=t1, t2=6.0, t3=0.8)
    model = associative_memory(BIGRAM, T, strengths, positions=positions, stream=stream)
    with torch.no_grad():
        logits = model(PROMPTS.tokens)[:, -1]
    margins = (logits.gather(1, PROMPTS.design["context"][:, None]) - logits.gather(1, PROMPTS.design["prior"][:, None]))[:, 0].numpy()
    half = np.arange(len(margins)) % 2 == 0
    fit = fit_strengths(COUNTS[half], ODDS[half], margins[half])
    assert (fit.t1, fit.t2, fit.t3) == pytest.approx((t1, 6.0, 0.8), rel=0.02)
    predicted = fit.margins(COUNTS[~half], ODDS[~half])
    assert r_squared(predicted, margins[~half]) > 0.9999 and sign_agreement(predicted, margins[~half]) == 1
    assert fit.saturated == (t1 >= 4)


def test_noise_is_not_explained():
    rng = np.random.default_rng(4)
    margins = rng.normal(size=len(ODDS))
    half = np.arange(len(margins)) % 2 == 0
    fit = fit_strengths(COUNTS[half], ODDS[half], margins[half])
    assert r_squared(fit.margins(COUNTS[~half], ODDS[~half]), margins[~half]) < 0.1


def test_a_model_that_only_knows_bigrams_has_no_t2():
    fit = fit_strengths(COUNTS, ODDS, -1.5 * ODDS)
    assert fit.t2 == pytest.approx(0, abs=1e-6) and fit.t3 == pytest.approx(1.5)


def test_wrong_calls_and_measures():
    with pytest.raises(ValueError, match="at least four prompts"):
        fit_strengths(COUNTS[np.arange(3)], ODDS[:3], ODDS[:3])
    with pytest.raises(ValueError, match="different log-odds"):
        fit_strengths(COUNTS, 0 * ODDS, ODDS)
    assert r_squared(np.array([2.0, 2.0]), np.array([1.0, 3.0])) == 0
    assert Fit(9.0, 1.0, 1.0).saturated and not Fit(3.9, 1.0, 1.0).saturated


def test_replicates_are_fits_of_resampled_prompts():
    rng = np.random.default_rng(5)
    margins = 6 * COUNTS.gap(1.7) - 0.8 * ODDS + rng.normal(0, 0.3, len(ODDS))
    found = resampled_strengths(COUNTS, ODDS, margins, replicates=7)
    drawn = np.random.default_rng(0).multinomial(len(ODDS), np.full(len(ODDS), 1 / len(ODDS)), size=7)
    for replicate, times in enumerate(drawn):
        rows = np.repeat(np.arange(len(ODDS)), times)
        fit = fit_strengths(COUNTS[rows], ODDS[rows], margins[rows])
        assert found[replicate] == pytest.approx([fit.t1, fit.t2, fit.t3], abs=0.03)


def test_their_interval_covers_the_truth():
    covered = 0
    for seed in range(30):
        noise = np.random.default_rng(seed).normal(0, 0.5, len(ODDS))
        found = resampled_strengths(COUNTS, ODDS, 6 * COUNTS.gap(1.7) - 0.8 * ODDS + noise)
        low, high = np.percentile(found, [2.5, 97.5], axis=0)
        covered += ((low <= [1.7, 6.0, 0.8]) & (high >= [1.7, 6.0, 0.8])).sum()
    assert 76 <= covered <= 90
