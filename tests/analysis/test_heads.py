"""Head scores: known answers, a naive loop, TransformerLens's detect_head, and patterns for which they must stay low."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from transformer_lens.head_detector import detect_head

from tests.reference_analysis import head_score
from workbench import HookedTransformer, ModelConfig, RepeatedTokensConfig
from workbench.analysis import heads
from workbench.analysis.estimates import PerSequence
from workbench.tasks.draw import generator
from workbench.tasks.repeated_tokens import RepeatedTokens

SCORES = ["previous_token_score", "previous_token_at_answers", "prefix_matching_score", "duplicate_token_score"]
BATCH, N_HEADS, N_POS = 5, 3, 7


def random_pattern(*shape: int, seed: int = 0) -> Tensor:
    """Causal attention [*shape, dst, src] with rows that sum to one."""
    scores = torch.randn(shape + shape[-1:], generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(shape[-1], shape[-1]).triu(1).bool(), -math.inf).softmax(-1)


def looking_at(goals: Tensor) -> Tensor:
    """A pattern [batch, 1, dst, src] that attends wholly to `goals` [batch, dst] (below zero: to the position itself)."""
    own = torch.arange(goals.shape[1])
    return torch.eye(goals.shape[1])[torch.where(goals < 0, own, goals)][:, None]


def repeats(placement: str, period: int = 11, seq_len: int = 47):
    task = RepeatedTokens(RepeatedTokensConfig(d_vocab=101, seq_len=seq_len, placement=placement, block_len=period, distinct=True))
    return task.sample(61, generator(0, "analyze"))


def value(score: PerSequence) -> float:
    return score.estimate().value.item()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Rows 1 to 4 look back by 0.1, 0.2, 0.3, 0.4.
        ("previous_token_score", (0.1 + 0.2 + 0.3 + 0.4) / 4),
        # Answers are asked at 3 (token 5, before at 0) and at 4 (token 7, before at 1): read by rows 1 and 2.
        ("previous_token_at_answers", (0.1 + 0.2) / 2),
        # Row 3 to 1, row 4 to 2.
        ("prefix_matching_score", (0.5 + 0.25) / 2),
        # Row 3 to 0, row 4 to 1.
        ("duplicate_token_score", (0.2 + 0.05) / 2),
    ],
)
def test_by_hand(name, expected):
    tokens = torch.tensor([[5, 7, 9, 5, 7]])
    pattern = torch.tensor(
        [
            [1.0, 0.0, 0.0, 0.0, 0.0],
            [0.1, 0.9, 0.0, 0.0, 0.0],
            [0.5, 0.2, 0.3, 0.0, 0.0],
            [0.2, 0.5, 0.3, 0.0, 0.0],
            [0.1, 0.05, 0.25, 0.4, 0.2],
        ]
    )[None, None]
    rows = torch.tensor([[False, False, False, True, True]])
    asked = () if name == "previous_token_score" else (rows,)
    assert value(getattr(heads, name)(pattern, tokens, *asked)) == pytest.approx(expected)


def test_only_the_rows_asked_for_count():
    tokens, pattern = torch.tensor([[5, 5, 5]]), random_pattern(1, 1, 3)
    last = torch.tensor([[False, False, True]])
    assert value(heads.previous_token_score(pattern, tokens, last)) == pytest.approx(pattern[0, 0, 2, 1].item())
    assert value(heads.duplicate_token_score(pattern, tokens, last)) == pytest.approx(pattern[0, 0, 2, :2].sum().item())
    assert value(heads.prefix_matching_score(pattern, tokens, last)) == pytest.approx(pattern[0, 0, 2, 1:].sum().item())


@pytest.mark.parametrize("name", SCORES)
@settings(deadline=None, max_examples=50)
@given(
    tokens=arrays(np.int64, (BATCH, N_POS), elements=st.integers(0, 3)),
    asked=arrays(np.bool_, (BATCH, N_POS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_against_a_loop(name, tokens, asked, seed):
    pattern = random_pattern(BATCH, N_HEADS, N_POS, seed=seed)
    score = getattr(heads, name)(pattern, torch.from_numpy(tokens), torch.from_numpy(asked))
    assert score.sums.shape == (BATCH, N_HEADS) and score.counts.shape == (BATCH,)
    for b in range(BATCH):
        for h in range(N_HEADS):
            total, count = head_score(name, pattern[b, h].tolist(), tokens[b].tolist(), asked[b].tolist())
            assert score.counts[b] == count
            assert score.sums[b, h].item() == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("previous_token_score", "previous_token_head"),
        ("prefix_matching_score", "induction_head"),
        ("duplicate_token_score", "duplicate_token_head"),
    ],
)
def test_detect_head_is_our_score_times_the_share_of_rows_that_count(name, theirs):
    model = HookedTransformer(ModelConfig(n_heads=N_HEADS, d_model=21, d_vocab=13, n_ctx=17, initializer_range=0.7))
    for seed in range(3):
        half = np.random.default_rng(seed).permutation(13)[:7].tolist()
        tokens = torch.tensor([half + half])
        expected = detect_head(model, " ".join(map(str, half + half)), theirs)
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
        n_rows = 13 if name == "previous_token_score" else 7
        for layer in range(2):
            score = getattr(heads, name)(cache["pattern", layer], tokens)
            assert score.counts.tolist() == [n_rows]
            torch.testing.assert_close(score.estimate().value * n_rows / 14, expected[layer])
        assert expected.std() > 0.01


def test_perfect_heads_are_told_apart():
    batch = repeats("equal")
    own = torch.arange(47).expand(61, -1)
    source = batch.annotations["source"]
    patterns = {
        "previous_token_score": looking_at(own - 1),
        "prefix_matching_score": looking_at(source),
        "duplicate_token_score": looking_at(source - 1),
    }
    for kind, pattern in patterns.items():
        for name in patterns:
            rows = None if name == "previous_token_score" else batch.answered
            assert value(getattr(heads, name)(pattern, batch.tokens, rows)) == (1.0 if name == kind else 0.0), (kind, name)


def test_uniform_attention_gives_the_computable_baseline():
    """Row t gives 1 / (t + 1) to each place: one place for each time the block has been there before."""
    batch = repeats("equal", period=11, seq_len=22)
    uniform = torch.ones(22, 22).tril() / torch.arange(1, 23)[:, None]
    pattern = uniform.expand(61, 1, 22, 22)
    baseline = np.mean([1 / (t + 1) for t in range(11, 22)])
    assert value(heads.prefix_matching_score(pattern, batch.tokens)) == pytest.approx(baseline)
    assert value(heads.duplicate_token_score(pattern, batch.tokens)) == pytest.approx(baseline)
    assert value(heads.previous_token_score(pattern, batch.tokens)) == pytest.approx(np.mean([1 / (t + 1) for t in range(1, 22)]))


@pytest.mark.parametrize("placement", ["equal", "jittered", "non-periodic"])
def test_a_fixed_distance_passes_for_induction_on_equal_repeats_only(placement):
    batch = repeats(placement)
    positional = looking_at(torch.arange(47).expand(61, -1) - 10)
    induction = looking_at(batch.annotations["source"])
    assert value(heads.prefix_matching_score(induction, batch.tokens, batch.answered)) == 1.0
    fooled = value(heads.prefix_matching_score(positional, batch.tokens, batch.answered))
    assert fooled == 1.0 if placement == "equal" else fooled < 0.4


@pytest.mark.parametrize("placement", ["equal", "jittered", "non-periodic"])
def test_a_bag_of_tokens_stays_below_an_induction_head(placement):
    """A head that attends to every earlier token alike, wherever it stands, has no more than chance."""
    batch = repeats(placement)
    uniform = (torch.ones(47, 47).tril() / torch.arange(1, 48)[:, None]).expand(61, 1, 47, 47)
    assert value(heads.prefix_matching_score(uniform, batch.tokens, batch.answered)) < 0.11


@pytest.mark.parametrize("name", SCORES[1:])
def test_nan_where_no_row_counts(name):
    tokens = torch.arange(BATCH * N_POS).view(BATCH, N_POS)
    estimate = getattr(heads, name)(random_pattern(BATCH, N_HEADS, N_POS), tokens, torch.ones(BATCH, N_POS, dtype=torch.bool)).estimate()
    assert estimate.n == 0 and estimate.value.shape == (N_HEADS,)
    for part in (estimate.value, estimate.ci_low, estimate.ci_high):
        assert part.isnan().all()
