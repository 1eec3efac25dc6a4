"""Training on continuous inputs: the loss counts where a prediction is asked for, four accuracies are logged, and a run goes on
where it stopped."""

import dataclasses

import pytest
import torch

from workbench.config import ClassificationConfig, ModelConfig, RunConfig, TrainConfig
from workbench.errors import ConfigError
from workbench.model import HookedTransformer
from workbench.preset import presets
from workbench.runs import Run
from workbench.tasks import make_task
from workbench.tasks.draw import TrainingBatches, generator
from workbench.training.loop import Trainer, train

TASK = {"n_classes": 35, "n_labels": 7, "n_pairs": 6, "max_pairs": 7, "d_content": 13, "n_novel": 21, "novel_every": 5}
MODEL = {
    "n_heads": 1, "d_model": 28, "d_vocab": 7, "n_ctx": 13, "normalization_type": None, "positional_embedding_type": "none",
    "attn_scale": 1.0, "attn_bias": False, "unembed_bias": False, "readout": "classifier", "identity": ("blocks.*.attn.W_O",),
    "frozen": ("embed.W_E",), "stream": "value", "initializer_range": 13**-0.5, "embed_std": 28**-0.5,
}  # fmt: skip
TRAIN = {"steps": 4, "batch_size": 5, "eval_every": 2, "eval_size": 31, "checkpoint_every": 1}
SGD = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.01}


def config_of(model={}, task={}, **fields) -> RunConfig:
    return RunConfig(
        model=ModelConfig(**{**MODEL, **model}), task=ClassificationConfig(**{**TASK, **task}), train=TrainConfig(**{**TRAIN, **fields})
    )


def weights(run, step=None):
    return [value for _, value in sorted(run.model(step).state_dict().items())]


def test_equals_the_plainest_loop(tmp_path):
    """w <- (1 - lr * weight_decay) w - lr * grad, the gradient of the loss at the query alone."""
    config = config_of(**SGD)
    model = HookedTransformer(config.model)
    batches = TrainingBatches(make_task(config.task), 5, 0)
    for step in range(4):
        batch = batches[step]
        predicted = model(inputs_embeds=batch.inputs)[:, -1].log_softmax(dim=-1)
        loss = -sum(predicted[row, label] for row, label in enumerate(batch.targets[:, -1])) / 5
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.copy_((1 - 0.1 * 0.01) * parameter - 0.1 * parameter.grad)
    run = train(config, tmp_path / "x", progress=False)
    for one, (_, other) in zip(weights(run), sorted(model.state_dict().items()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    moved = {name for name, value in run.model(4).state_dict().items() if not torch.equal(value, run.model(0).state_dict()[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad} and len(moved) == 13


def test_four_accuracies_are_logged(tmp_path):
    config = config_of(steps=2)
    run = train(config, tmp_path / "x", progress=False)
    metrics = run.metrics()
    assert metrics["step"].tolist() == [0, 2]
    model, task = run.model(2), make_task(config.task)
    for index, (prefix, split) in enumerate(
        [("", "train"), ("in_context_", "in-context"), ("flipped_", "flipped"), ("in_weights_", "in-weights")]
    ):
        batch = task.sample(31, generator(0, "evaluate", index), split)
        right, losses = [], []
        for vectors, label in zip(batch.inputs, batch.targets[:, -1].tolist(), strict=True):
            logits = model(inputs_embeds=vectors[None])[0, -1]
            right.append(logits.argmax().item() == label)
            losses.append(-logits.log_softmax(dim=-1)[label].item())
        assert metrics[f"{prefix}accuracy"].iloc[-1] == pytest.approx(sum(right) / 31)
        assert metrics[f"{prefix}loss"].iloc[-1] == pytest.approx(sum(losses) / 31, rel=1e-4)
    assert not torch.equal(task.sample(31, generator(0, "evaluate", 1), "in-context").inputs, TrainingBatches(task, 31, 0)[0].inputs)


@pytest.mark.parametrize("fields", [{}, SGD])
def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path, fields):
    config = config_of(**fields)
    whole = train(config, tmp_path / "whole", progress=False)
    trainer = Trainer(Run.create(tmp_path / "cut", config), "cpu")
    trainer._evaluate()
    trainer._save()
    for _ in range(2):
        trainer._update()
    trainer._save()
    resumed = train(config, tmp_path / "cut", resume=True, progress=False)
    assert resumed.steps[-1] == 4 and all(map(torch.equal, weights(resumed), weights(whole)))


def test_it_learns(tmp_path):
    config = config_of(steps=150, batch_size=61, eval_every=75, eval_size=61, checkpoint_every=150, lr=3e-3)
    losses = train(config, tmp_path / "x", progress=False).metrics()["loss"].tolist()
    assert len(losses) == 3 and losses[0] > losses[1] > losses[2] and losses[2] < losses[0] - 0.3, losses


def test_configuration_and_checkpoint_round_trip(tmp_path):
    config = config_of(steps=1)
    assert RunConfig.from_yaml(config.to_yaml()) == config
    run = train(config, tmp_path / "x", progress=False)
    again = Run.load(tmp_path / "x")
    assert again.config == config and isinstance(again.config.task, ClassificationConfig)
    batch = make_task(config.task).sample(3, generator(0, "analyze"))
    assert torch.equal(run.model()(**batch.model_inputs), again.model()(**batch.model_inputs))
    assert again.provenance["task_fingerprint"] == make_task(config.task).fingerprint()


def test_sections_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"model\.d_vocab=8 differs from the number of labels .* asks for, 7; set both"):
        config_of(model={"d_vocab": 8})
    with pytest.raises(
        ConfigError, match=r"model\.d_model=29 differs from the width of the inputs of the task in-context-classification, 28"
    ):
        config_of(model={"d_model": 29})
    with pytest.raises(ConfigError, match=r"model\.n_ctx=12 is shorter than task\.seq_len=13"):
        config_of(model={"n_ctx": 12})


def test_presets():
    published = presets["burns-toy"]
    task, model, training = published.task, published.model, published.train
    assert isinstance(task, ClassificationConfig) and training is not None
    assert (task.n_classes, task.n_labels, task.n_pairs, task.max_pairs, task.d_content) == (512, 32, 8, 32, 85)
    assert (task.burstiness, task.p_bursty, task.p_novel, task.eps, task.zipf_exponent, task.no_repeats) == (2, 0.5, 0.5, 0.1, 0.0, True)
    assert (model.d_model, model.head_width, model.n_layers, model.n_heads, model.score_divisor) == (150, 150, 2, 1, 1.0)
    assert (training.steps, training.batch_size, training.lr, training.eval_every, training.eval_size) == (75_000, 128, 0.01, 500, 10_000)
    assert training.optimizer == "sgd" and training.momentum == 0 and training.lr * training.weight_decay == pytest.approx(1e-6)
    # Two layers of W_Q, W_K and W_V, three relu layers with one bias each, and the readout: nothing else is trained.
    trained = sum(parameter.numel() for parameter in HookedTransformer(model).parameters() if parameter.requires_grad)
    assert trained == 6 * 150**2 + 3 * (150**2 + 1) + 150 * 32
    quick = presets["classification-quick"]
    assert {field.name for field in dataclasses.fields(model) if getattr(model, field.name) != getattr(quick.model, field.name)} == {
        "d_model", "d_vocab", "initializer_range", "embed_std",
    }  # fmt: skip
