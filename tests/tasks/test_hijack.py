"""Every prompt is its design: how often the trigger was followed by what, how far back, and nothing of the trigger elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import UsageError
from workbench.tasks.hijack import Design, grid, hijack_prompts

V = 11
BIGRAM = np.random.default_rng(0).dirichlet(np.ones(V), size=V)
BIGRAM[:, 7] = 0.0
BIGRAM /= BIGRAM.sum(1, keepdims=True)


def said(tokens: list[int], trigger: int) -> list[tuple[int, int]]:
    """(position of the trigger, what followed it), but for the last token."""
    return [(t, tokens[t + 1]) for t in range(len(tokens) - 1) if tokens[t] == trigger]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_prompt_is_its_design(data):
    trigger, context, prior = data.draw(st.permutations([token for token in range(V) if token != 7]).map(lambda order: order[:3]))
    design = Design(trigger, context, prior, *(data.draw(st.integers(0, most)) for most in (4, 3, 9)))
    least = 2 * (design.n_context + design.n_prior) + design.distance + 1
    length = data.draw(st.integers(least, least + 20))
    prompts = hijack_prompts([design] * 3, BIGRAM, length, np.random.default_rng(data.draw(st.integers(0, 99))))
    assert prompts.tokens.shape == (3, length) and len(prompts) == 3
    for row in prompts.tokens.tolist():
        found = said(row, trigger)
        assert row[-1] == trigger and len(found) == design.n_context + design.n_prior
        assert [token for _, token in found].count(context) == design.n_context
        assert [token for _, token in found].count(prior) == design.n_prior
        if found:
            assert length - 1 - (found[-1][0] + 2) == design.distance
        # Whatever the design does not fix is a step of the language.
        fixed = {t for place, _ in found for t in (place, place + 1)} | {length - 1}
        assert all(BIGRAM[row[t - 1], row[t]] > 0 for t in range(1, length) if t not in fixed)
    assert prompts.log_odds.tolist() == pytest.approx([math.log(BIGRAM[trigger, prior] / BIGRAM[trigger, context])] * 3)
    assert {name: set(values.tolist()) for name, values in prompts.design.items()} == {
        name: {value} for name, value in vars(design).items()
    }


def test_fillers_are_bigram_draws_without_the_trigger():
    prompts = hijack_prompts([Design(0, 1, 2, 0, 0, 0)] * 4000, BIGRAM, 12, np.random.default_rng(1))
    tokens = prompts.tokens[:, :-1].numpy()
    assert not (tokens == 0).any()
    for current in (1, 5):
        following = tokens[:, 1:][tokens[:, :-1] == current]
        expected = np.where(np.arange(V) == 0, 0, BIGRAM[current])
        expected = expected / expected.sum()
        found = np.bincount(following, minlength=V) / len(following)
        assert np.abs(found - expected).max() < 4 * math.sqrt(0.25 / len(following))


def test_pairs_stand_everywhere_they_can():
    """All places before the last pair are used, and either kind may be the last."""
    prompts = hijack_prompts([Design(0, 1, 2, 1, 1, 3)] * 400, BIGRAM, 14, np.random.default_rng(2))
    places = {tuple(place for place, _ in said(row, 0)) for row in prompts.tokens.tolist()}
    assert places == {(first, 8) for first in range(7)}
    assert {said(row, 0)[-1][1] for row in prompts.tokens.tolist()} == {1, 2}


def test_the_same_state_gives_the_same_prompts():
    designs = grid(BIGRAM, [0, 3])
    one, two = (hijack_prompts(designs, BIGRAM, 41, np.random.default_rng(5)) for _ in range(2))
    assert (one.tokens == two.tokens).all() and len(one[3:7]) == 4 and one[3:7].design["trigger"].tolist() == [0] * 4


def test_the_grid_crosses_everything_and_comes_near_the_wanted_odds():
    designs = grid(BIGRAM, [0, 3], log_odds=(-1.0, 0.5), n_context=(0, 2), n_prior=(1,), distance=(2, 5, 7))
    assert len(designs) == len(set(designs)) == 2 * 2 * 2 * 1 * 3
    for trigger in (0, 3):
        pairs = {(design.context, design.prior) for design in designs if design.trigger == trigger}
        row = BIGRAM[trigger]
        followers = sorted(set(range(V)) - {0, 3, 7}, key=lambda token: -row[token])
        against = min(followers[1:], key=lambda c: abs(math.log(row[followers[0]] / row[c]) - 0.5))
        for_it = min(followers[1:], key=lambda g: abs(math.log(row[g] / row[followers[0]]) + 1.0))
        assert pairs == {(against, followers[0]), (followers[0], for_it)}
    assert {design.n_context for design in designs} == {0, 2} and {design.distance for design in designs} == {2, 5, 7}


@pytest.mark.parametrize(
    ("design", "message"),
    [
        (Design(0, 0, 2), "the context token must differ from the trigger, got 0"),
        (Design(0, 1, 0), "the prior token must differ from the trigger"),
        (Design(0, 1, 1), "context and prior must be two tokens, got 1"),
        (Design(0, 7, 1), "token 7 never follows the trigger 0 in the language: its log-odds are infinite"),
        (Design(0, 1, 11), "prior must be a token of 0 to 10, got 11"),
        (Design(0, 1, 2, -1), "n_context must be at least 0, got -1"),
        (Design(0, 1, 2, 3, 2, 6), "5 pairs, a distance of 6 and the trigger need 17 tokens, but the prompt has 16"),
    ],
)
def test_impossible_prompts_are_refused_with_the_reason(design, message):
    with pytest.raises(UsageError, match=message):
        hijack_prompts([Design(0, 1, 2), design], BIGRAM, 16, np.random.default_rng(0))


def test_other_wrong_calls():
    with pytest.raises(UsageError, match="a prompt of 16 tokens is longer than the model's n_ctx=13"):
        hijack_prompts([Design(0, 1, 2)], BIGRAM, 16, np.random.default_rng(0), n_ctx=13)
    with pytest.raises(UsageError, match="there is no design"):
        hijack_prompts([], BIGRAM, 16, np.random.default_rng(0))
    only_one = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    with pytest.raises(UsageError, match="the trigger 0 has 1 followers that are no triggers; two are needed"):
        grid(only_one, [0])
