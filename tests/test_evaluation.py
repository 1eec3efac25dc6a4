"""Evaluation against a naive loop over positions."""

import math

import pytest
import torch

from tests.small_runs import small_config
from workbench.evaluation import evaluate, masked_mean, summary_values
from workbench.model import HookedTransformer
from workbench.tasks import make_task
from workbench.tasks.draw import generator


@pytest.fixture
def model() -> HookedTransformer:
    return HookedTransformer(small_config(model={"initializer_range": 1.0, "dropout": 0.5}).model)


@pytest.fixture
def batch():
    return make_task(small_config().task).sample(19, generator(0, "evaluate"))


@pytest.mark.parametrize("chunk", [1, 7, 19, 64])
def test_equals_a_naive_loop(model, batch, chunk):
    evaluation = evaluate(model, batch, chunk=chunk)
    assert evaluation.losses.shape == evaluation.correct.shape == batch.tokens.shape
    model.eval()
    sums: dict[str, list[float]] = {"loss": [], "in_context_accuracy": [], "in_context_loss": [], "bigram_loss": []}
    for b in range(19):
        logits = model(batch.tokens[b : b + 1])[0].tolist()
        for t, target in enumerate(batch.targets[b].tolist()):
            loss = math.log(math.fsum(math.exp(logit) for logit in logits[t])) - logits[t][target]
            right = max(range(len(logits[t])), key=logits[t].__getitem__) == target
            assert evaluation.losses[b, t].item() == pytest.approx(loss, abs=1e-4) and evaluation.correct[b, t] == right
            sums["loss"].append(loss)
            if batch.answered[b, t]:
                sums["in_context_accuracy"].append(float(right))
                sums["in_context_loss"].append(loss)
            if batch.unanswerable[b, t]:
                sums["bigram_loss"].append(loss)
    expected = {name: sum(values) / len(values) for name, values in sums.items()}
    assert len(set(expected.values())) == 4
    assert summary_values(evaluation, batch) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(model, batch, training):
    model.train(training)
    evaluate(model, batch)
    assert model.training is training and all(module.training is training for module in model.modules())

    def fail(value, hook):
        raise KeyError

    with pytest.raises(KeyError), model.hooks([("blocks.1.attn.hook_pattern", fail)]):
        evaluate(model, batch)
    assert model.training is training and not evaluate(model, batch).losses.requires_grad


def test_a_mask_that_chooses_nothing():
    assert math.isnan(masked_mean(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)))
    assert masked_mean(torch.tensor([[True, False, True]]), torch.tensor([[True, True, False]])) == 0.5
