"""Training: the same every time, on data that are its own, and stopped in good order."""

import math
import os
import signal
import threading
import time

import pytest
import torch

from tests.processes import INTERRUPTED, start
from tests.small_runs import leftovers, small_config
from workbench.errors import CheckpointError, ConfigError, DivergedError, UsageError
from workbench.model import HookedTransformer
from workbench.runs import Run
from workbench.tasks import make_task
from workbench.tasks.draw import TrainingBatches
from workbench.training.interrupt import stop_on_interrupt
from workbench.training.loop import Interrupted, Trainer, train


def quietly(config, out, **options) -> Run:
    return train(config, out, progress=False, device="cpu", **options)


def weights(run: Run, step: int | None = None) -> list[torch.Tensor]:
    return [value for _, value in sorted(run.checkpoint(step).weights().items())]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def naive_training(config, steps: int) -> HookedTransformer:
    """The loop in its plainest form: SGD at a constant learning rate. (AdamW would make noise of b_K, whose gradient is 0.)"""
    model = HookedTransformer(config.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.train.lr, momentum=config.train.momentum)
    batches = TrainingBatches(make_task(config.task), config.train.batch_size, config.train.data_seed)
    for step in range(steps):
        batch = batches[step]
        losses = -model(batch.tokens).log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
        loss = losses[batch.answered].mean() if config.train.loss_on == "answered" else losses.mean()
        optimizer.zero_grad()
        loss.backward()
        if config.train.grad_clip:
            norm = math.sqrt(sum(parameter.grad.square().sum().item() for parameter in model.parameters()))
            for parameter in model.parameters():
                parameter.grad *= min(1.0, config.train.grad_clip / norm)
        optimizer.step()
    return model


@pytest.mark.parametrize("fields", [{}, {"loss_on": "answered"}, {"grad_clip": 0.05}])
def test_equals_the_plainest_loop(tmp_path, fields):
    config = small_config(optimizer="sgd", lr=0.3, **fields)
    trained, expected = weights(quietly(config, tmp_path / "x")), sorted(naive_training(config, 4).state_dict().items())
    for one, (_, other) in zip(trained, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(trained[0], weights(quietly(small_config(optimizer="sgd", lr=0.1), tmp_path / "y"))[0], atol=1e-3)


@pytest.mark.parametrize("model", [{}, {"dropout": 0.3}])
def test_training_twice_gives_the_same_bits(tmp_path, model):
    torch.manual_seed(1)
    first = quietly(small_config(model=model), tmp_path / "a")
    torch.manual_seed(2)
    second = quietly(small_config(model=model), tmp_path / "b")
    assert first.steps == second.steps == [0, 1, 2, 3, 4]
    assert all(equal(weights(first, step), weights(second, step)) for step in first.steps)
    for fields in ({"data_seed": 1}, {"lr": 0.01}):
        assert not equal(weights(first), weights(quietly(small_config(model=model, **fields), tmp_path / str(fields))))


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    quietly(small_config(model={"dropout": 0.3}), tmp_path / "x")
    assert torch.equal(torch.rand(1), expected)


def test_variants_and_seeds_see_the_same_data(tmp_path, monkeypatch):
    seen, draw = [], TrainingBatches.__getitem__
    monkeypatch.setattr(TrainingBatches, "__getitem__", lambda self, step: seen.append(draw(self, step)) or seen[-1])
    held_out = []
    for number, model in enumerate(({"stream": "none"}, {"stream": "value"}, {"stream": "none", "seed": 5})):
        run = quietly(small_config(model=model), tmp_path / str(number))
        held_out.append(Trainer(run, "cpu").held_out.tokens)
    assert len(seen) == 12
    for step in range(4):
        assert torch.equal(seen[step].tokens, seen[step + 4].tokens) and torch.equal(seen[step].tokens, seen[step + 8].tokens)
    assert torch.equal(held_out[0], held_out[1]) and torch.equal(held_out[0], held_out[2])
    # The first weights of variants of one seed are equal, too.
    first = [weights(Run.load(tmp_path / str(number)), 0) for number in range(3)]
    assert equal(first[0], first[1]) and not equal(first[0], first[2])


def test_it_learns(tmp_path):
    config = small_config(steps=120, batch_size=31, eval_every=60, eval_size=64, checkpoint_every=120)
    for schedule in ({}, {"warmup_steps": 10, "schedule": "cosine"}):
        losses = quietly(config.override(train={"lr": 0.01, **schedule}), tmp_path / str(len(schedule))).metrics()["loss"].tolist()
        assert len(losses) == 3 and losses[0] > losses[1] > losses[2] and losses[2] < losses[0] - 0.4, losses


def test_metrics(tmp_path):
    metrics = quietly(small_config(steps=5), tmp_path / "x").metrics()
    assert metrics["step"].tolist() == [0, 2, 4, 5] and metrics["seconds"].is_monotonic_increasing
    assert math.isnan(metrics["train_loss"][0]) and metrics["train_loss"][1:].between(1, 4).all()
    assert {"lr", "loss", "in_context_accuracy", "in_context_loss", "bigram_loss"} < set(metrics.columns)


def test_bf16(tmp_path):
    run = quietly(small_config(dtype="bf16"), tmp_path / "x")
    reference = quietly(small_config(dtype="fp32"), tmp_path / "y")
    assert run.config.train.dtype == "bf16" and all(value.dtype == torch.float32 for value in weights(run))
    assert not equal(weights(run), weights(reference))
    for one, other in zip(weights(run), weights(reference), strict=True):
        torch.testing.assert_close(one, other, atol=0.02, rtol=0)


def test_auto_is_resolved_and_saved(tmp_path):
    assert quietly(small_config(dtype="auto"), tmp_path / "x").config.train.dtype in ("fp32", "bf16")
    with pytest.raises(UsageError, match="device 'tpu' is not available; this machine has cpu"):
        train(small_config(), tmp_path / "y", device="tpu")


@pytest.mark.parametrize("model", [{}, {"normalization_type": None}])
def test_divergence_keeps_the_last_good_checkpoint(tmp_path, model):
    config = small_config(model=model, optimizer="sgd", lr=1e30, steps=40)
    with pytest.raises(DivergedError, match=r"diverged: the (loss|weight \S+) is (nan|inf) at step \d+; last good checkpoint: step"):
        quietly(config, tmp_path / "x")
    run = Run.load(tmp_path / "x")
    assert run.steps and all(value.isfinite().all() for step in run.steps for value in weights(run, step)) and not leftovers(run.path)
    run.model()


def test_a_last_update_that_diverges_is_not_saved(tmp_path, monkeypatch):
    update = Trainer._update

    def poisoned(self):
        update(self)
        if self.step == 4:
            self.model.embed.W_E.data[0, 0] = math.nan

    monkeypatch.setattr(Trainer, "_update", poisoned)
    with pytest.raises(DivergedError, match=r"the weight embed\.W_E is nan at step 4; last good checkpoint: step 3; try a smaller lr"):
        quietly(small_config(), tmp_path / "x")
    assert Run.load(tmp_path / "x").steps == [0, 1, 2, 3]


def test_folders_that_will_not_do(tmp_path):
    run = quietly(small_config(), tmp_path / "x")
    before = {file: (file.read_bytes()) for file in run.path.rglob("*") if file.is_file()}
    with pytest.raises(UsageError, match=r"already holds this run \(step 4 of 4\); pass --resume"):
        quietly(small_config(), run.path)
    with pytest.raises(ConfigError, match=r"another configuration \(train\.lr is .*choose another folder"):
        quietly(small_config(lr=0.5), run.path, resume=True)
    with pytest.raises(ConfigError, match="needs the sections task and train"):
        quietly(small_config().replace(task=None, train=None), tmp_path / "y")
    # A run that is finished goes on to do nothing.
    assert quietly(small_config(), run.path, resume=True).steps == run.steps
    assert {file: (file.read_bytes()) for file in run.path.rglob("*") if file.is_file()} == before
    for name in ("trainer.safetensors", "trainer.json"):
        (run.checkpoint(4).path / name).unlink()
    with pytest.raises(CheckpointError, match="no optimiser state"):
        quietly(small_config(), run.path, resume=True)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(tmp_path, monkeypatch, times):
    update, handler = Trainer._update, signal.getsignal(signal.SIGINT)

    def interrupted(self):
        update(self)
        if self.step == 3:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0)

    config = small_config(steps=9, checkpoint_every=9)
    expected = quietly(config, tmp_path / "expected")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", interrupted)
        with pytest.raises(KeyboardInterrupt) as stopped:
            quietly(config, tmp_path / "x")
    assert signal.getsignal(signal.SIGINT) is handler
    run = Run.load(tmp_path / "x")
    if times == 1:
        assert isinstance(stopped.value, Interrupted) and str(stopped.value) == "stopped at step 3 of 9" and run.steps == [0, 3]
    else:
        assert not isinstance(stopped.value, Interrupted) and run.steps == [0]
    assert equal(weights(quietly(config, run.path, resume=True)), weights(expected))


def test_ctrl_c_in_another_process(tmp_path):
    config = small_config(steps=10**6, checkpoint_every=10**6, eval_every=10)
    process = start(config, tmp_path / "x")
    while process.is_alive() and not ((tmp_path / "x" / "metrics.jsonl").exists() and len(Run.load(tmp_path / "x").metrics()) > 1):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == INTERRUPTED
    first, last = Run.load(tmp_path / "x").steps
    assert first == 0 and last >= 10


def test_no_handler_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(quietly(small_config(), tmp_path / "x").steps))
    thread.start()
    thread.join(60)
    assert results == [[0, 1, 2, 3, 4]]
    with pytest.raises(KeyError), stop_on_interrupt() as wish:
        assert not wish.is_set()
        raise KeyError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stopped_before_the_first_checkpoint(tmp_path, monkeypatch):
    expected = quietly(small_config(), tmp_path / "expected").metrics()

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            quietly(small_config(), tmp_path / "x")
    assert len(Run.load(tmp_path / "x").metrics()) == 1
    again = quietly(small_config(), tmp_path / "x", resume=True).metrics()
    assert again.drop(columns="seconds").equals(expected.drop(columns="seconds"))
