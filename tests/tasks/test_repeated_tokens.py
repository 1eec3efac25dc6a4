"""Repeated tokens: what is called answered can be looked up, what is called fresh is uniform, and only the equal
placement lets a fixed distance pass for a lookup."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.reference_tasks import ABSURD, CHANCE, latest_before, p_value
from workbench.config import RepeatedTokensConfig
from workbench.errors import ConfigError, UsageError
from workbench.tasks.base import Batch
from workbench.tasks.repeated_tokens import RepeatedTokens

PLACEMENTS = ["equal", "jittered", "non-periodic"]
CONTROLS = PLACEMENTS[1:]


def made(**fields) -> RepeatedTokens:
    return RepeatedTokens(RepeatedTokensConfig(**{"d_vocab": 61, "seq_len": 53, **fields}))


def best_fixed_lag(batch: Batch) -> float:
    """The score of the best head that always attends over one distance: its share of hits at answered positions."""
    answered = batch.answered.numpy()
    lag = (np.arange(answered.shape[1]) - batch.annotations["source"].numpy())[answered]
    return np.bincount(lag).max() / len(lag)


def lookup(batch: Batch) -> float:
    """The accuracy at answered positions of a head that goes to the latest earlier z_t and reads what followed it."""
    hits = []
    for tokens, targets, answered in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.answered.tolist(), strict=True):
        for t in np.flatnonzero(answered):
            s = latest_before(tokens, t)
            hits.append(s >= 0 and targets[s] == targets[t])
    return float(np.mean(hits))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("distinct", [False, True])
def test_shapes_and_shifted_targets(placement, distinct):
    batch = made(placement=placement, distinct=distinct).sample(5, np.random.default_rng(0))
    for tensor in (batch.tokens, batch.targets, batch.answered, batch.unanswerable, batch.annotations["source"]):
        assert tensor.shape == (5, 53) and tensor.is_contiguous()
    assert (batch.tokens[:, 1:] == batch.targets[:, :-1]).all()


def test_equal_by_hand():
    batch = made(seq_len=11, block_len=4).sample(3, np.random.default_rng(1))
    assert (batch.tokens[:, 4:] == batch.tokens[:, :-4]).all() and (batch.targets[:, 10] == batch.tokens[:, 7]).all()
    for row in range(3):
        assert batch.annotations["source"][row].tolist() == [-1, -1, -1, -1, 1, 2, 3, 4, 5, 6, 7]
        assert batch.answered[row].tolist() == [False] * 4 + [True] * 7
        assert batch.unanswerable[row].tolist() == [True] * 3 + [False] * 8


def test_jittered_draws_every_period_for_whole_sequences():
    batch = made(placement="jittered", block_len=7, seq_len=23).sample(601, np.random.default_rng(2))
    answered, source = batch.answered.numpy(), batch.annotations["source"].numpy()
    periods = []
    for row in range(601):
        lags = set((np.arange(23) - source[row])[answered[row]])
        assert len(lags) == 1
        periods.append(lags.pop() + 1)
        assert (batch.tokens[row, periods[-1] :] == batch.tokens[row, : -periods[-1]]).all()
        assert np.flatnonzero(answered[row]).tolist() == list(range(periods[-1], 23))
    assert p_value(np.bincount(periods)[4:], np.full(4, 0.25)) > CHANCE and min(periods) == 4


def test_non_periodic_lags_vary_inside_a_sequence():
    batch = made(placement="non-periodic").sample(101, np.random.default_rng(3))
    answered, source = batch.answered.numpy(), batch.annotations["source"].numpy()
    lags = [len(set((np.arange(53) - source[row])[answered[row]])) for row in range(101)]
    assert np.mean(lags) > 3 and np.mean(np.array(lags) >= 2) > 0.95


def test_every_token_of_a_block_is_copied():
    batch = made(placement="non-periodic", block_len=7, distinct=True).sample(101, np.random.default_rng(4))
    for tokens in batch.tokens.tolist():
        # Stretches of 3 to 4 make at most three of a block of 7, with at most 6 fresh tokens before them.
        assert set(tokens[:7]) <= set(tokens[7:20]) and len(set(tokens[:7])) == 7


@pytest.mark.parametrize("placement", CONTROLS)
def test_only_equal_lets_a_fixed_distance_pass(placement):
    rng = np.random.default_rng(5)
    equal, control = made().sample(201, rng), made(placement=placement).sample(201, rng)
    assert best_fixed_lag(equal) == 1.0
    assert best_fixed_lag(control) < 0.15
    assert control.answered.double().mean() > 0.25


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_looking_up_the_token_is_right_and_exactly_so_on_distinct_blocks(placement):
    rng = np.random.default_rng(6)
    assert lookup(made(placement=placement, distinct=True).sample(31, rng)) == 1.0
    # With tokens that occur by chance it is mostly right; with a tiny vocabulary it is not.
    assert 0.6 < lookup(made(placement=placement).sample(31, rng)) < 1.0
    assert lookup(made(placement=placement, d_vocab=3).sample(31, rng)) < 0.6


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_nothing_that_can_be_looked_up_is_missed(placement):
    """On distinct blocks, a token seen before whose last follower comes again is answered, except by chance after
    the block's last token, which has no follower inside the block."""
    task = made(placement=placement, distinct=True)
    batch = task.sample(31, np.random.default_rng(7))
    missed = 0
    for tokens, targets, answered in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.answered.tolist(), strict=True):
        for t in range(53):
            s = latest_before(tokens, t)
            found = s >= 0 and targets[s] == targets[t] and tokens[t] in tokens[: task.config.period]
            missed += found and not answered[t] and (placement != "non-periodic" or tokens[t] != tokens[task.config.period - 1])
    assert missed == 0


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_fresh_tokens_are_uniform_whatever_came_before(placement):
    batch = made(placement=placement, d_vocab=7).sample(2003, np.random.default_rng(8))
    fresh = batch.unanswerable
    pairs = np.bincount((batch.tokens[fresh] * 7 + batch.targets[fresh]).numpy(), minlength=49).reshape(7, 7)
    assert p_value(pairs, np.full((7, 7), 1 / 7)) > CHANCE
    skewed = np.full(7, 1 / 7) + np.array([0.02, -0.02, 0, 0, 0, 0, 0])
    assert p_value(pairs, np.tile(skewed, (7, 1))) < ABSURD


def test_distinct_blocks_are_uniform_permutations():
    batch = made(distinct=True, d_vocab=5, seq_len=7, block_len=3).sample(6007, np.random.default_rng(9))
    first, second, third = batch.tokens[:, :3].numpy().T
    assert ((first != second) & (second != third) & (first != third)).all()
    expected = (1 - np.eye(5)) / 20
    for one, other in ((first, second), (second, third)):
        assert p_value(np.bincount(one * 5 + other, minlength=25), expected.ravel()) > CHANCE


def test_distinct_keeps_other_fresh_tokens_out_of_the_block():
    batch = made(placement="non-periodic", distinct=True, seq_len=61).sample(101, np.random.default_rng(10))
    seen = 0
    for tokens, fresh in zip(batch.tokens.tolist(), batch.unanswerable.tolist(), strict=True):
        between = [tokens[t + 1] for t in range(30, 60) if fresh[t]]
        first_block = tokens[:30]
        assert len(set(first_block)) == 30 and not set(between) & set(first_block)
        seen += len(between)
    assert seen > 100


@pytest.mark.parametrize("placement", ["equal", "jittered"])
def test_bigram_loss_on_distinct_blocks(placement):
    task = made(placement=placement, distinct=True, d_vocab=29, seq_len=41, block_len=19)
    batch = task.sample(2003, np.random.default_rng(11))
    # A predictor that is told that the next token is fresh knows it to be none of those before it.
    position = np.broadcast_to(np.arange(41), (2003, 41))[batch.unanswerable.numpy()]
    assert task.references()["bigram_loss"] == pytest.approx(np.log(29 - position - 1).mean(), abs=0.005)
    assert task.references()["bigram_loss"] < np.log(29) - 0.1


def test_bigram_loss_of_uniform_tokens():
    assert made().references() == made(placement="non-periodic").references() == {"bigram_loss": pytest.approx(np.log(61))}
    assert made(placement="non-periodic", distinct=True).references() == {}


def test_the_same_seed_gives_the_same_batch_on_any_machine():
    task = made(placement="non-periodic", distinct=True, d_vocab=11, seq_len=17)
    batch = task.sample(2, np.random.default_rng(7))
    assert batch.tokens.tolist() == GOLDEN_TOKENS
    assert batch.annotations["source"].tolist() == GOLDEN_SOURCE
    assert (batch.tokens != task.sample(2, np.random.default_rng(8)).tokens).any()


def test_words_for_people():
    assert made().to_strings([0, 60]) == ["a", "8"]
    assert made(d_vocab=97).to_strings([3]) == ["t3"]
    assert "13 to 26 long" in made(placement="jittered").describe()
    assert "stretches of 5 to 8" in made(placement="non-periodic").describe()
    assert "all differ" in made(distinct=True).describe() and "all differ" not in made().describe()


def test_refusals():
    with pytest.raises(UsageError, match="unknown split 'ood'"):
        made().sample(3, np.random.default_rng(0), "ood")
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        made().sample(0, np.random.default_rng(0))
    for placement in CONTROLS:
        with pytest.raises(ConfigError, match=f"{placement} needs a block_len of at least 6, got 5"):
            made(placement=placement, block_len=5)
    made(block_len=5)
    with pytest.raises(ConfigError, match="need d_vocab above that, got 26"):
        made(placement="non-periodic", distinct=True, d_vocab=26)


@given(
    placement=st.sampled_from(PLACEMENTS),
    d_vocab=st.integers(2, 31),
    seq_len=st.integers(4, 41),
    block_len=st.integers(2, 40),
    distinct=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, derandomize=True, max_examples=100)
def test_an_answer_is_where_source_says(placement, d_vocab, seq_len, block_len, distinct, seed):
    assume(block_len < seq_len and not (distinct and block_len >= d_vocab) and (placement == "equal" or block_len >= 6))
    task = made(placement=placement, d_vocab=d_vocab, seq_len=seq_len, block_len=block_len, distinct=distinct)
    batch = task.sample(3, np.random.default_rng(seed))
    assert batch.tokens.min() >= 0 and max(batch.tokens.max(), batch.targets.max()) < d_vocab
    assert not (batch.answered & batch.unanswerable).any()
    source = batch.annotations["source"]
    assert ((source >= 0) == batch.answered).all() and (source[~batch.answered] == -1).all()
    for row, t in batch.answered.nonzero().tolist():
        s = int(source[row, t])
        assert 1 <= s <= t
        assert batch.tokens[row, s] == batch.targets[row, t] and batch.tokens[row, s - 1] == batch.tokens[row, t]
    assert batch.unanswerable[:, : min((block_len + 1) // 2 - 1, seq_len)].all()


GOLDEN_TOKENS = [[6, 2, 4, 9, 1, 3, 8, 0, 6, 2, 4, 9, 7, 1, 3, 8, 0], [6, 7, 5, 8, 0, 2, 4, 3, 6, 7, 5, 8, 9, 0, 2, 4, 3]]
GOLDEN_SOURCE = [
    [-1, -1, -1, -1, -1, -1, -1, -1, 1, 2, 3, -1, -1, 5, 6, 7, -1],
    [-1, -1, -1, -1, -1, -1, -1, -1, 1, 2, 3, -1, -1, 5, 6, 7, -1],
]
