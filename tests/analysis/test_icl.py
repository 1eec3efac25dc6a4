"""Accuracies and losses: a naive loop, predictors whose values are known, and a floor that the data set."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.reference_analysis import model_score
from workbench import RepeatedTokensConfig, TriggerBigramConfig
from workbench.analysis import icl
from workbench.evaluation import Evaluation
from workbench.tasks.base import Batch
from workbench.tasks.draw import generator
from workbench.tasks.repeated_tokens import RepeatedTokens
from workbench.tasks.trigger_bigram import TriggerBigram

NAMES = ["loss", "in_context_accuracy", "in_context_loss", "bigram_loss", "in_context_score"]


def repeated(**fields) -> Batch:
    config = RepeatedTokensConfig(**{"d_vocab": 31, "seq_len": 23, "distinct": True, **fields})
    return RepeatedTokens(config).sample(53, generator(0, "analyze"))


def values(logits: Tensor, batch: Batch) -> dict[str, float]:
    evaluation = Evaluation.of_logits(logits, batch.targets)
    return {name: getattr(icl, name)(evaluation, batch).estimate().value.item() for name in NAMES}


@pytest.mark.parametrize("n_pos", [7, 19, 23, 31])
@pytest.mark.parametrize("name", NAMES)
def test_against_a_loop(name, n_pos):
    rng = np.random.default_rng(n_pos)
    tokens = torch.from_numpy(rng.integers(0, 5, (11, n_pos)))
    answered, unanswerable = (torch.from_numpy(rng.random((11, n_pos)) < share) for share in (0.4, 0.3))
    batch = Batch(tokens, torch.from_numpy(rng.integers(0, 5, (11, n_pos))), answered, unanswerable)
    evaluation = Evaluation.of_logits(torch.from_numpy(rng.normal(size=(11, n_pos, 5))).float(), batch.targets)
    score = getattr(icl, name)(evaluation, batch)
    assert score.sums.shape == score.counts.shape == (11,)
    for b in range(11):
        parts = (evaluation.losses[b], evaluation.correct[b], answered[b], unanswerable[b])
        total, count = model_score(name, *(part.tolist() for part in parts))
        assert score.counts[b] == count and score.sums[b].item() == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("placement", ["equal", "jittered", "non-periodic"])
def test_an_oracle_that_copies_is_always_right_in_context(placement):
    batch = repeated(placement=placement, d_vocab=211)
    logits = torch.zeros(53, 23, 211)
    for b, tokens in enumerate(batch.tokens.tolist()):
        for t in range(23):
            earlier = [s for s in range(t) if tokens[s] == tokens[t]]
            if earlier:
                logits[b, t, tokens[earlier[-1] + 1]] = 50.0
    found = values(logits, batch)
    assert found["in_context_accuracy"] == 1.0
    assert found["in_context_loss"] == pytest.approx(0, abs=1e-6)


def test_a_uniform_predictor():
    batch = repeated()
    found = values(torch.zeros(53, 23, 31), batch)
    for name in ("loss", "in_context_loss", "bigram_loss"):
        assert found[name] == pytest.approx(math.log(31))
    assert found["in_context_score"] == pytest.approx(0, abs=1e-6)
    # Its first choice is always token 0.
    assert found["in_context_accuracy"] == pytest.approx((batch.targets[batch.answered] == 0).float().mean().item())


def test_a_unigram_predictor():
    task = TriggerBigram(TriggerBigramConfig(d_vocab=31, seq_len=23))
    batch = task.sample(53, generator(0, "analyze"))
    unigram = torch.tensor(task.language.unigram).float()
    found = values(unigram.log().expand(53, 23, 31), batch)
    surprise = -unigram.log()[batch.targets]
    assert found["loss"] == pytest.approx(surprise.mean().item(), rel=1e-5)
    assert found["in_context_loss"] == pytest.approx(surprise[batch.answered].mean().item(), rel=1e-5)
    assert found["bigram_loss"] == pytest.approx(surprise[batch.unanswerable].mean().item(), rel=1e-5)
    # One token in ten: 2 of 23 positions.
    assert found["in_context_score"] == pytest.approx((surprise[:, 21:].mean() - surprise[:, 2:4].mean()).item(), abs=1e-5)
    right = (batch.targets == unigram.argmax())[batch.answered].float().mean().item()
    assert found["in_context_accuracy"] == pytest.approx(right)


def test_the_true_bigrams_reach_the_floor_and_learn_nothing_in_context():
    task = TriggerBigram(TriggerBigramConfig(d_vocab=31, seq_len=47))
    batch = task.sample(509, generator(0, "analyze"))
    bigram = torch.tensor(task.language.bigram).float().clamp(min=1e-12).log()
    evaluation = Evaluation.of_logits(bigram[batch.tokens], batch.targets)
    floor = icl.bigram_loss(evaluation, batch).estimate()
    assert floor.ci_low <= task.references()["bigram_loss"] <= floor.ci_high
    assert icl.in_context_accuracy(evaluation, batch).estimate().value < 0.2


def test_nan_where_nothing_is_asked():
    nowhere = torch.zeros(5, 7, dtype=torch.bool)
    batch = Batch(torch.zeros(5, 7, dtype=torch.int64), torch.zeros(5, 7, dtype=torch.int64), nowhere, nowhere)
    found = values(torch.zeros(5, 7, 3), batch)
    assert [name for name in NAMES if math.isnan(found[name])] == ["in_context_accuracy", "in_context_loss", "bigram_loss"]
