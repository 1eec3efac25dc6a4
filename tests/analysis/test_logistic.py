"""The logistic fit, against scipy's and where the answer is known."""

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit

from workbench.analysis.logistic import TENTH_TO_NINE_TENTHS, fit_logistic

STEPS = np.array([0.0, 7, 14, 28, 35, 42, 49, 63, 70, 91, 105, 119])


def logistic(x, midpoint, width, low, high):
    return low + (high - low) / (1 + np.exp(-(x - midpoint) / width * TENTH_TO_NINE_TENTHS))


@pytest.mark.parametrize("truth", [(40.0, 30.0, 0.1, 0.9), (91.0, 15.0, -2.0, 5.0), (20.0, 50.0, 0.0, 0.01)])
def test_an_exact_logistic_is_found(truth):
    fit = fit_logistic(STEPS, logistic(STEPS, *truth)[None])
    found = (fit.midpoint[0], fit.width[0], fit.low[0], fit.high[0])
    assert found == pytest.approx(truth, rel=0.02, abs=0.01 * (truth[3] - truth[2]))
    assert fit.r2[0] == pytest.approx(1, abs=1e-4)


def test_it_is_as_good_as_scipys_from_the_true_start():
    rng = np.random.default_rng(3)
    truths = [(rng.uniform(20, 100), rng.uniform(10, 60), rng.uniform(0, 0.3), rng.uniform(0.6, 1)) for _ in range(31)]
    curves = np.array([logistic(STEPS, *truth) + rng.normal(0, 0.03, len(STEPS)) for truth in truths])
    fit = fit_logistic(STEPS, curves)
    compared = 0
    for i, truth in enumerate(truths):
        best, _ = curve_fit(logistic, STEPS, curves[i], p0=truth, maxfev=10000)
        ours = (fit.midpoint[i], fit.width[i], fit.low[i], fit.high[i])
        errors = [((logistic(STEPS, *numbers) - curves[i]) ** 2).sum() for numbers in (ours, best)]
        assert fit.r2[i] == pytest.approx(1 - errors[0] / ((curves[i] - curves[i].mean()) ** 2).sum(), abs=1e-9)
        if STEPS[0] <= best[0] <= STEPS[-1] and 1 < best[1] < STEPS[-1]:  # scipy may leave the range that we search
            compared += 1
            # Between sparse steps many midpoints fit as well: the error is what has to agree.
            assert errors[0] <= errors[1] * 1.001
    assert compared > 20


def test_several_curves_are_fitted_each_by_itself():
    curves = np.array([logistic(STEPS, 30, 20, 0, 1), logistic(STEPS, 80, 10, 3, 4), -logistic(STEPS, 50, 10, 0, 1)])
    together, alone = fit_logistic(STEPS, curves), fit_logistic(STEPS, curves[1:2])
    assert together.midpoint[1] == alone.midpoint[0] and together.width[1] == alone.width[0]
    assert together.midpoint[0] == pytest.approx(30, abs=0.5)
    # A curve that falls has no rise to fit.
    assert math.isnan(together.midpoint[2]) and math.isnan(together.high[2])


def test_a_step_between_two_checkpoints_is_narrow_and_a_flat_curve_rises_nowhere():
    step = fit_logistic(STEPS, (STEPS >= 49).astype(float)[None])
    assert 42 <= step.midpoint[0] <= 49 and step.width[0] < 7 and step.high[0] - step.low[0] == pytest.approx(1, abs=1e-3)
    flat = fit_logistic(STEPS, np.full((1, len(STEPS)), 0.25))
    assert math.isnan(flat.midpoint[0]) or flat.high[0] - flat.low[0] < 1e-9
    noise = fit_logistic(STEPS, np.random.default_rng(0).normal(0, 0.01, (50, len(STEPS))))
    assert np.nanmax(np.abs(noise.high - noise.low)) < 0.1


def test_too_few_steps():
    with pytest.raises(ValueError, match="at least four steps, got 3"):
        fit_logistic([0, 1, 2], np.zeros((1, 3)))
