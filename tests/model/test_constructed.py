"""The associative-memory transformer computes what the theory says, exactly where its vectors are orthonormal."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference_hijack
from workbench.analysis.hijack import closed_form_logits
from workbench.errors import UsageError
from workbench.model.constructed import RAREST, Strengths, associative_memory, near_orthonormal, orthonormal

V, T = 7, 11
BIGRAM = np.random.default_rng(0).dirichlet(np.ones(V), size=V)
LOG = torch.from_numpy(np.log(BIGRAM))
STRENGTHS = [
    Strengths(),
    Strengths(t2=5.0, t3=0.5),
    Strengths(t1=1.5, t2=3.0),
    Strengths(2.0, 1.5, 3.0, 0.7),
    Strengths(0.0, 0.0, 1.0, -1.0),
]
KINDS = list(itertools.product(["standard", "relative"], [False, True]))
MODELS = {
    (strengths, positions, stream, dtype): associative_memory(BIGRAM, T, strengths, [1, 3, 4], positions=positions, stream=stream).to(dtype)
    for strengths, (positions, stream), dtype in itertools.product(STRENGTHS, KINDS, [torch.float64, torch.float32])
}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, V - 1), min_size=1, max_size=T), st.sampled_from(list(MODELS)))
def test_logits_are_the_closed_form(tokens, kind):
    """Among the prompts: the trigger at position 0, no earlier trigger, and a token that is no trigger."""
    strengths, _, _, dtype = kind
    with torch.no_grad():
        found = MODELS[kind](torch.tensor([tokens]))[0]
    rows = [reference_hijack.logits(tokens, t, LOG.tolist(), **vars(strengths), triggers=[1, 3, 4]) for t in range(len(tokens))]
    expected = torch.tensor(rows, dtype=torch.float64)
    near = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found.double(), expected, **near)
    closed = closed_form_logits(torch.tensor([tokens]), LOG, strengths, [1, 3, 4])[0]
    torch.testing.assert_close(closed, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("positions", "stream"), KINDS)
def test_the_circuit_is_what_it_is_called(positions, stream):
    model = associative_memory(BIGRAM, T, positions=positions, stream=stream)
    tokens = torch.tensor([[6, 2, 5, 3, 2, 5]])
    _, cache = model.run_with_cache(tokens)
    previous = cache["pattern", 0][0, 0]
    assert torch.equal(previous[1:].argmax(-1), torch.arange(5)) and previous[1:].amax(-1).eq(1).all()
    assert cache["pattern", 1][0, 0, 4, 2] == 1 and cache["pattern", 1][0, 0, 5, 3] == 1
    assert ("blocks.1.attn.hook_v_stream" in cache) == stream
    assert stream == (model.blocks[1].attn.W_V.abs().max() == 0).item()
    assert model.config.positional_embedding_type == positions


def test_exact_vectors_are_one_basis():
    vectors = orthonormal(V, T)
    everything = torch.cat([vectors.tokens, vectors.noted, vectors.positions, vectors.outputs])
    assert torch.equal(everything @ everything.T, torch.eye(3 * V + T, dtype=torch.float64))


def test_random_vectors_disturb_less_in_more_dimensions():
    """Products of random vectors are about 1/sqrt(d), and so is what the associations add to each other."""
    strengths = Strengths(t1=20.0, b0=20.0, t2=3.0)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, V, (20, T)))
    exact = closed_form_logits(tokens, LOG, strengths)
    errors = []
    for d_model in (256, 1024):
        model = associative_memory(BIGRAM, T, strengths, d_model=d_model)
        with torch.no_grad():
            errors.append((model(tokens) - exact).square().mean().sqrt().item())
        vectors = near_orthonormal(V, T, d_model)
        products = (vectors.tokens @ vectors.outputs.T).square().mean().sqrt().item()
        assert products == pytest.approx(1 / d_model**0.5, rel=0.25)
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.35)
    assert torch.equal(near_orthonormal(V, T, 64, seed=3).noted, near_orthonormal(V, T, 64, seed=3).noted)


def test_a_bigram_that_never_occurs_has_the_smallest_probability():
    bigram = np.array([[0.0, 1.0], [0.5, 0.5]])
    with torch.no_grad():
        logits = associative_memory(bigram, 3, Strengths(t2=0.0))(torch.tensor([[0]]))[0, 0]
    assert logits.tolist() == pytest.approx([math.log(RAREST), 0.0])


def test_wrong_calls():
    for call, message in (
        (lambda: associative_memory(BIGRAM, T, positions="rotary"), "positions must be standard or relative, got 'rotary'"),
        (lambda: associative_memory(BIGRAM, T, triggers=[1, 7]), "different tokens of 0 to 6"),
        (lambda: associative_memory(BIGRAM, T, triggers=[1, 1]), "different tokens"),
        (lambda: Strengths(t2=math.inf), "t2 must be a finite number, got inf"),
        (lambda: Strengths(b0=math.nan), "b0 must be a finite number or inf, got nan"),
        (lambda: Strengths(b0=2.0), "t1=inf needs b0=inf, got b0=2.0"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
