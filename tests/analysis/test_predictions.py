"""The table of predictions against a loop over positions and a model whose predictions are known."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch

from workbench.analysis import predictions
from workbench.analysis.data import AnalysisData
from workbench.analysis.predictions import COLUMNS, predictions_table, ranked_log_probs
from workbench.config import ClassificationConfig, LinearRegressionConfig, ModelConfig, TriggerBigramConfig
from workbench.model import HookedTransformer
from workbench.tasks import make_task

T, V, TOP = 11, 17, 3


def model_and_data() -> tuple[HookedTransformer, AnalysisData]:
    config = ModelConfig(stream="value", n_layers=2, n_heads=3, d_head=4, d_model=8, d_vocab=V, n_ctx=T)
    model = HookedTransformer(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
    return model.eval(), AnalysisData.draw(config, make_task(TriggerBigramConfig(d_vocab=V, seq_len=T, n_triggers=2)), sequences=5)


def test_the_table_against_a_loop() -> None:
    model, data = model_and_data()
    batch = data.batches[data.own]
    expected = []
    for sequence in range(2):
        with torch.no_grad():
            logits = model(batch.tokens[sequence : sequence + 1])[0].tolist()
        for position in range(T):
            total = math.log(sum(math.exp(logit) for logit in logits[position]))
            order = sorted(range(V), key=lambda token: -logits[position][token])
            target = int(batch.targets[sequence, position])
            for rank, token in enumerate(order):
                if rank < TOP or token == target:
                    text = data.tasks[data.own].to_strings([token])[0]
                    expected.append((sequence, position, rank, token, text, logits[position][token] - total, token == target))
    table = predictions_table(model, data, 2, top=TOP)
    assert tuple(table.columns) == COLUMNS
    found = list(table.itertuples(index=False, name=None))
    assert [row[:5] + row[6:] for row in found] == [row[:5] + row[6:] for row in expected]
    np.testing.assert_allclose([row[5] for row in found], [row[5] for row in expected], atol=1e-5)
    # Some targets rank inside the top, some below it.
    ranks = table.loc[table["target"], "rank"]
    assert len(ranks) == 2 * T and 0 < (ranks < TOP).sum() < 2 * T


def test_a_top_as_large_as_the_vocabulary_is_the_whole_distribution() -> None:
    model, data = model_and_data()
    table = predictions_table(model, data, 1, top=V + 5)
    np.testing.assert_allclose(table["log_prob"].apply(math.exp).groupby(table["position"]).sum(), 1, atol=1e-5)
    assert len(table) == T * V


def test_a_model_that_knows_nothing_ranks_by_number() -> None:
    tokens, log_probs = ranked_log_probs(torch.zeros(2, 3, 5))
    assert (tokens == torch.arange(5)).all()
    torch.testing.assert_close(log_probs, torch.full((2, 3, 5), -math.log(5)))


@pytest.mark.parametrize("task", [ClassificationConfig(), LinearRegressionConfig()], ids=lambda task: task.name)
def test_a_task_of_vectors_has_no_predictions_of_tokens(task: ClassificationConfig | LinearRegressionConfig) -> None:
    model, data = model_and_data()
    own = AnalysisData({task.name: make_task(task)}, {task.name: make_task(task).sample(2, np.random.default_rng(0))})
    table = predictions_table(model, own, 2)
    assert tuple(table.columns) == COLUMNS and table.empty
    assert not predictions_table(model, data, 2).empty


def test_the_examples_of_the_docstrings() -> None:
    assert doctest.testmod(predictions) == (0, 3)
