"""The theory of knowledge hijack: its parts against loops, and its margin against the model that it describes."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests import reference_hijack
from workbench.analysis import hijack
from workbench.model.constructed import Strengths, associative_memory

V, T = 7, 13
BIGRAM = np.random.default_rng(2).dirichlet(np.ones(V), size=V)
LOG = torch.from_numpy(np.log(BIGRAM))
TOKENS = torch.from_numpy(np.random.default_rng(3).integers(0, V, (31, T)))
STRENGTHS = [Strengths(t2=4.0), Strengths(t1=1.5, t2=3.0), Strengths(3.0, 2.0, 6.0, 0.5)]


@pytest.mark.parametrize("strengths", STRENGTHS)
@pytest.mark.parametrize("triggers", [None, [0, 3]])
def test_attention_and_its_mass_against_loops(strengths, triggers):
    attended = hijack.attention(TOKENS, strengths, triggers)
    mass = hijack.attention_mass(attended, TOKENS, V)
    for b, t in itertools.product(range(0, 31, 5), range(T)):
        expected = reference_hijack.attended(TOKENS[b].tolist(), t, strengths.b0, strengths.t1, triggers)
        assert attended[b, t].tolist() == pytest.approx(expected + [0.0] * (T - 1 - t), abs=1e-12)
        for v in range(V):
            assert mass[b, t, v].item() == pytest.approx(
                sum(a for a, token in zip(expected, TOKENS[b].tolist(), strict=False) if token == v)
            )


def test_infinite_strengths_share_the_attention_among_what_followed_the_trigger():
    """f_q(v) / n_q: how often v followed q, over how often q occurred before; evenly where it never did."""
    tokens = torch.tensor([[6, 2, 5, 2, 3, 2, 5, 2]])
    mass = hijack.attention_mass(hijack.attention(tokens, Strengths()), tokens, V)[0, 7]
    assert mass.tolist() == pytest.approx([0, 0, 0, 1 / 3, 0, 2 / 3, 0])
    assert hijack.attention(torch.tensor([[6, 2, 5]]), Strengths())[0, 2].tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("strengths", STRENGTHS)
def test_the_margin_has_the_sign_of_the_models_logit_difference(strengths):
    model = associative_memory(BIGRAM, T, strengths)
    with torch.no_grad():
        logits = model(TOKENS)[:, -1]
    mass = hijack.attention_mass(hijack.attention(TOKENS, strengths), TOKENS, V)
    decided, signs = 0, set()
    for shift in range(1, V):
        context = (TOKENS[:, 4] + shift) % V
        prior = TOKENS[:, 4]
        gap = hijack.attention_gap(mass, context, prior)
        odds = hijack.prior_log_odds(LOG, TOKENS[:, -1], context, prior)
        margin = hijack.margin(gap, odds, strengths)
        difference = logits.gather(1, context[:, None])[:, 0] - logits.gather(1, prior[:, None])[:, 0]
        torch.testing.assert_close(margin, difference, rtol=1e-9, atol=1e-9)
        clear = margin.abs() > 1e-4
        assert torch.equal(margin[clear].sign(), difference[clear].sign())
        # On the boundary the margin is zero, above it the context wins.
        edge = hijack.boundary(odds, strengths)
        assert torch.equal((gap > edge)[clear], (margin > 0)[clear])
        assert hijack.margin(edge, odds, strengths).abs().max() < 1e-9
        decided, signs = decided + int(clear.sum()), signs | set(margin[clear].sign().tolist())
    assert decided > 100 and signs == {-1.0, 1.0}


def test_odds_are_of_the_prior_against_the_context():
    odds = hijack.prior_log_odds(LOG, torch.tensor([2]), torch.tensor([5]), torch.tensor([1]))
    assert odds.item() == pytest.approx(math.log(BIGRAM[2, 1] / BIGRAM[2, 5]))
    assert hijack.boundary(torch.tensor([1.0]), Strengths(t2=0.0)).item() == math.inf


def test_a_finite_b0_notes_a_little_of_everything():
    noted = hijack.noted_tokens(5, 2.0)
    for s in range(5):
        weights = [math.exp(2.0) if r == s - 1 else 1.0 for r in range(s + 1)]
        assert noted[s].tolist() == pytest.approx([weight / sum(weights) for weight in weights] + [0.0] * (4 - s), abs=1e-15)
