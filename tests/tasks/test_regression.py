"""Regression in context against numpy's least squares, closed forms, simulated posteriors and naive generators."""

import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

from tests.reference_tasks import ABSURD, CHANCE
from workbench.config import AffineRecurrenceConfig, LinearRegressionConfig
from workbench.errors import ConfigError, UsageError
from workbench.tasks import make_task
from workbench.tasks.regression import least_squares

LINEAR = {"d_x": 3, "n_pairs": 7, "d_input": 11}
AFFINE = {"seq_len": 13, "d_input": 5}


def linear(**fields):
    return make_task(LinearRegressionConfig(**{**LINEAR, **fields}))


def affine(**fields):
    return make_task(AffineRecurrenceConfig(**{**AFFINE, **fields}))


def draw(task, n=4001, seed=0):
    return task.sample(n, np.random.default_rng(seed))


def pairs(batch, d):
    """x [batch, N + 1, D] and y [batch, N + 1] as the model reads them; the last y is that asked for."""
    inputs, values = batch.inputs.double().numpy(), batch.values.double().numpy()
    return inputs[:, ::2, :d], np.concatenate([inputs[:, 1::2, d], values[:, -1:]], axis=1)


def test_one_sequence_of_linear_regression():
    batch = draw(linear(), 31)
    x, y = pairs(batch, 3)
    assert batch.inputs.dtype == batch.values.dtype == torch.float32 and batch.inputs.shape == (31, 15, 11)
    for row in range(31):
        # Three pairs tell w, and every y follows from it.
        weights = np.linalg.solve(x[row, :3], y[row, :3])
        np.testing.assert_allclose(x[row] @ weights, y[row], atol=1e-3)
        for position in range(15):
            vector = batch.inputs[row, position].numpy()
            assert not vector[4:].any() and (not vector[3] if position % 2 == 0 else not vector[:3].any())
            assert batch.values[row, position] == np.float32(y[row, position // 2])
            assert bool(batch.asked[row, position]) == (position % 2 == 0)
            assert bool(batch.answered[row, position]) == (position in (6, 8, 10, 12, 14))
    assert not batch.unanswerable.any() and torch.equal(batch.tokens, torch.arange(15).repeat(31, 1))
    assert len({tuple(row) for row in x[:, 0].tolist()}) == 31


def test_one_sequence_of_a_recurrence():
    batch = draw(affine(), 31)
    shown, asked = batch.inputs[:, :, 0].double().numpy(), batch.values.double().numpy()
    assert not batch.inputs[:, :, 1:].any() and np.array_equal(shown[:, 1:], asked[:, :-1])
    for row in range(31):
        slope = (asked[row, 1] - asked[row, 0]) / (shown[row, 1] - shown[row, 0])
        offset = asked[row, 0] - slope * shown[row, 0]
        assert abs(slope) <= 0.9
        number = shown[row, 0]
        for t in range(13):
            number = slope * number + offset
            assert number == pytest.approx(asked[row, t], abs=2e-3)
    assert batch.asked.all() and torch.equal(batch.answered, batch.tokens >= 2) and not batch.unanswerable.any()
    assert torch.equal(batch.annotations["last_value"], batch.inputs[:, :, 0])


def naive_linear(d, n_pairs, noise, rng):
    weights = [rng.gauss(0, 1) for _ in range(d)]
    values = []
    for _ in range(n_pairs + 1):
        x = [rng.gauss(0, 1) for _ in range(d)]
        values.append(sum(w * v for w, v in zip(weights, x, strict=True)) / math.sqrt(d) + rng.gauss(0, noise))
    return values


def naive_affine(length, slope, offset, noise, rng):
    a, b, values = rng.uniform(-slope, slope), rng.gauss(0, offset), [rng.gauss(0, 1)]
    for _ in range(length):
        values.append(a * values[-1] + b + rng.gauss(0, noise))
    return values[1:]


def test_distributions_are_those_of_a_naive_generator():
    rng, n = random.Random(5), 4001
    cases = [
        (linear(noise=0.5), np.array([naive_linear(3, 7, 0.5, rng) for _ in range(n)]), slice(None, None, 2)),
        (affine(noise=0.3), np.array([naive_affine(13, 0.9, 1.0, 0.3, rng) for _ in range(n)]), slice(None)),
    ]
    for task, naive, every in cases:
        values = draw(task, n, seed=1).values.double().numpy()[:, every]
        for ours, theirs in (
            (values[:, 0], naive[:, 0]),
            (values[:, -1], naive[:, -1]),
            (np.abs(values).max(axis=1), np.abs(naive).max(axis=1)),
            (values[:, 0] * values[:, 1], naive[:, 0] * naive[:, 1]),
        ):
            assert stats.ks_2samp(ours, theirs).pvalue > CHANCE
            assert stats.ks_2samp(ours, 2 * theirs).pvalue < ABSURD  # the test could tell
    values = draw(linear(noise=0.5)).values.double()
    assert values[:, 0].var().item() == pytest.approx(1.25, rel=0.1)


def test_least_squares_is_numpys():
    """Minimum norm below D rows, the solution above, and rows that repeat."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((17, 11, 5))
    features[:5, 2] = features[:5, 1]
    features[5:7, 3] = 2 * features[5:7, 0] - features[5:7, 1]
    answers = np.einsum("npd,nd->np", features, rng.standard_normal((17, 5)))
    found = least_squares(features, answers)
    assert not found[:, 0].any()
    for row in range(17):
        for t in range(1, 11):
            weights = np.linalg.lstsq(features[row, :t], answers[row, :t], rcond=1e-10)[0]
            assert found[row, t] == pytest.approx(features[row, t] @ weights, abs=1e-6)
    assert np.abs(found[7:, 5:] - answers[7:, 5:]).max() < 1e-6 and np.abs(found[:, 1] - answers[:, 1]).min() > 1e-3


def test_with_noise_it_is_ridge_and_the_posterior_mean():
    rng = np.random.default_rng(4)
    features, answers = rng.standard_normal((13, 7, 3)), rng.standard_normal((13, 7))
    found = least_squares(features, answers, noise=0.6)
    for row in range(13):
        for t in range(7):
            x, y = features[row, :t], answers[row, :t]
            weights = np.linalg.solve(x.T @ x + 0.36 * np.eye(3), x.T @ y)
            assert found[row, t] == pytest.approx(features[row, t] @ weights, abs=1e-9)
    # Simulated: draws of w from the prior, weighted by how likely they make the answers seen.
    w = rng.standard_normal((400_003, 3))
    likelihood = np.exp(-((answers[0, :4] - w @ features[0, :4].T) ** 2).sum(axis=1) / (2 * 0.36))
    posterior = (likelihood[:, None] * w).sum(axis=0) / likelihood.sum()
    assert found[0, 4] == pytest.approx(features[0, 4] @ posterior, abs=0.02)
    assert abs(found[0, 4] - least_squares(features, answers)[0, 4]) > 0.05


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_baseline_of_linear_regression_in_units_of_x(noise):
    """Ridge with lambda = D noise^2 on what the model reads."""
    batch = draw(linear(noise=noise), 23)
    x, y = pairs(batch, 3)
    baseline = batch.annotations["least_squares"].numpy()
    for row in range(23):
        for t in range(8):
            if noise:
                weights = np.linalg.solve(x[row, :t].T @ x[row, :t] + 3 * noise**2 * np.eye(3), x[row, :t].T @ y[row, :t])
            else:
                weights = np.linalg.lstsq(x[row, :t], y[row, :t], rcond=None)[0] if t else np.zeros(3)
            assert baseline[row, 2 * t] == pytest.approx(x[row, t] @ weights, abs=2e-3)


def test_nothing_beats_the_ridge_of_the_true_noise():
    batch = draw(linear(noise=0.5))
    x, y = pairs(batch, 3)

    def loss(noise):
        return ((least_squares(x / math.sqrt(3), y, noise) - y) ** 2).mean()

    own = ((batch.annotations["least_squares"] - batch.values)[:, ::2] ** 2).mean().item()
    assert own == pytest.approx(loss(0.5), abs=1e-4)
    assert own < min(loss(0.3), loss(0.8)) - 1e-3 and own > 0.25


def test_floors():
    """The expected loss of least squares in closed form, at every number of pairs."""
    task = linear()
    batch = draw(task, 20011)
    errors = (batch.annotations["least_squares"] - batch.values).double()[:, ::2] ** 2
    np.testing.assert_allclose(errors.mean(dim=0), [1, 2 / 3, 1 / 3, 0, 0, 0, 0, 0], atol=0.04)
    assert task.references() == {"loss": pytest.approx(2 / 8), "in_context_loss": 0.0, "excess_loss": 0.0}
    assert errors[:, 3:].max() < 1e-6
    assert linear(noise=0.1).references() == {"excess_loss": 0.0}
    assert affine().references() == {"in_context_loss": 0.0} and affine(noise=0.1).references() == {}


def test_the_baseline_of_a_recurrence():
    batch = draw(affine(noise=0.3), 17)
    shown, values, baseline = batch.inputs[:, :, 0].double().numpy(), batch.values.double().numpy(), batch.annotations["least_squares"]
    for row in range(17):
        for t in range(13):
            # Prior variances: 0.9^2 / 3 of a, 1 of b.
            x = np.stack([shown[row, :t], np.ones(t)], axis=1)
            a, b = np.linalg.solve(x.T @ x + 0.09 * np.diag([3 / 0.81, 1.0]), x.T @ values[row, :t])
            assert baseline[row, t].item() == pytest.approx(a * shown[row, t] + b, abs=1e-4)
    exact = draw(affine(), 997)
    error = (exact.annotations["least_squares"] - exact.values).abs()
    assert error[:, 2:].max() < 1e-4 and error[:, 0].mean() > 0.5 and error[:, 1].mean() > 0.1
    assert torch.equal(exact.annotations["least_squares"][:, 0], torch.zeros(997))
    # Without an offset, the first step tells everything.
    error = (draw(affine(offset_std=0.0), 97).annotations["least_squares"] - draw(affine(offset_std=0.0), 97).values).abs()
    assert error[:, 1:].max() < 1e-4


def test_a_batch_is_decided_by_the_generator_and_the_configuration():
    for make in (linear, affine):
        one, again, other = (draw(make(), 11, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(one.inputs, again.inputs) and torch.equal(one.values, again.values) and not torch.equal(one.inputs, other.inputs)
        part = one[3:5].to("cpu")
        assert torch.equal(part.values, one.values[3:5]) and torch.equal(
            part.annotations["least_squares"], one.annotations["least_squares"][3:5]
        )
        assert set(one.model_inputs) == {"inputs_embeds"}
        assert make().fingerprint() == make().fingerprint() != make(noise=0.2).fingerprint()


def test_words():
    assert linear().to_strings([0, 1, 2, 14]) == ["x0", "y0", "x1", "x7"] and affine().to_strings([0, 12]) == ["x0", "x12"]
    assert "7 pairs of a vector x of 3 coordinates" in linear().describe() and "1.25 for a model" in linear(noise=0.5).describe()
    assert "13 numbers" in affine().describe() and "noise of standard deviation 0.2" in affine(noise=0.2).describe()
    assert (linear().config.d_vocab, linear().config.seq_len, linear().config.d_input) == (1, 15, 11)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (LinearRegressionConfig, {"d_x": 0}, "d_x must be at least 1, got 0"),
        (LinearRegressionConfig, {"n_pairs": 2}, "n_pairs must be at least d_x=3, which determine w, got 2"),
        (LinearRegressionConfig, {"noise": -0.1}, "noise must be at least 0, got -0.1"),
        (LinearRegressionConfig, {"d_input": 3}, r"d_input must be at least d_x \+ 1 = 4 \(x and y\), got 3"),
        (LinearRegressionConfig, {"seq_len": 9}, "unknown field 'seq_len'"),
        (AffineRecurrenceConfig, {"seq_len": 2}, "seq_len must be at least 3"),
        (AffineRecurrenceConfig, {"max_slope": 1.1}, "max_slope must be above 0 and at most 1, got 1.1"),
        (AffineRecurrenceConfig, {"offset_std": -1.0}, "offset_std must be at least 0, got -1.0"),
        (AffineRecurrenceConfig, {"noise": -1.0}, "noise must be at least 0, got -1.0"),
        (AffineRecurrenceConfig, {"d_input": 0}, "d_input must be at least 1, got 0"),
    ],
)
def test_configurations_that_cannot_be(kind, fields, words):
    with pytest.raises(ConfigError, match=f"task: .*{words}"):
        kind.from_dict({**(LINEAR if kind is LinearRegressionConfig else AFFINE), **fields})


def test_calls_that_cannot_be():
    for task in (linear(), affine()):
        with pytest.raises(UsageError, match="unknown split 'flipped'; there are: train"):
            task.sample(3, np.random.default_rng(0), "flipped")
        with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
            draw(task, 0)
