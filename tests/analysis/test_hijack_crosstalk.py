"""What random, nearly orthonormal vectors are expected to add to the theory is what they add."""

import math

import numpy as np
import pytest
import torch

from workbench.analysis.hijack import closed_form_logits
from workbench.analysis.hijack_crosstalk import expected_deviation
from workbench.errors import UsageError
from workbench.model.constructed import Strengths, associative_memory

V, T = 5, 7
BIGRAM = np.random.default_rng(4).dirichlet(np.ones(V), size=V)
LOG = torch.from_numpy(np.log(BIGRAM))
TOKENS = torch.tensor([3, 1, 0, 3, 2, 4, 3])


def deviations(strengths, d_model, seeds, **options):
    """[seed, d_vocab]: the logits at the end less the closed form."""
    exact = closed_form_logits(TOKENS[None], LOG, strengths, [0, 3])[0, -1]
    with torch.no_grad():
        found = [
            associative_memory(BIGRAM, T, strengths, [0, 3], d_model=d_model, seed=seed, **options)(TOKENS[None])[0, -1]
            for seed in range(seeds)
        ]
    return torch.stack(found) - exact


@pytest.mark.parametrize(
    ("strengths", "options"),
    [
        (Strengths(t1=1.5, t2=3.0), {}),
        (Strengths(t1=3.0, t2=5.0, t3=0.5), {"positions": "relative", "stream": True}),
        (Strengths(4.0, 2.0, 3.0, 0.2), {"stream": True}),
    ],
)
def test_the_expected_deviation_is_the_measured_one(strengths, options):
    d_model, seeds = 307, 250
    expected = expected_deviation(TOKENS, BIGRAM, strengths, d_model, [0, 3], **options)
    measured = deviations(strengths, d_model, seeds, **options).square().mean(dim=0).sqrt()
    # A standard deviation over 250 draws is known to 4.5 %; crosstalk of crosstalk adds a little.
    assert (measured / expected).tolist() == pytest.approx([1.0] * V, abs=0.17)
    assert measured.norm().item() == pytest.approx(expected.norm().item(), rel=0.1)


def test_it_shrinks_as_one_over_the_root_of_the_dimension():
    strengths = Strengths(t1=1.5, t2=3.0)
    small, large = (expected_deviation(TOKENS, BIGRAM, strengths, d_model, [0, 3], positions="relative") for d_model in (197, 394))
    torch.testing.assert_close(small, 2**0.5 * large)
    for d_model, expected in ((197, small), (394, large)):
        measured = deviations(strengths, d_model, 120, positions="relative").square().mean().sqrt()
        # Crosstalk of crosstalk adds more in the smaller dimension.
        assert measured.item() == pytest.approx(expected.square().mean().sqrt().item(), rel=0.15), d_model


def test_nothing_is_expected_of_memories_that_are_not_there():
    """Without attention to triggers, copying and bigrams, what is left are the products of unembeddings with what layer 0 wrote."""
    strengths = Strengths(t1=0.0, t2=0.0, t3=0.0)
    found = expected_deviation(TOKENS, BIGRAM, strengths, 100, positions="relative")
    assert found.tolist() == pytest.approx([math.sqrt(2 / 100)] * V)
    with_positions = expected_deviation(TOKENS, BIGRAM, strengths, 100)
    assert with_positions.tolist() == pytest.approx([math.sqrt(3 / 100)] * V)


def test_an_infinite_strength_is_refused():
    with pytest.raises(UsageError, match="t1=inf any crosstalk"):
        expected_deviation(TOKENS, BIGRAM, Strengths(), 100)
