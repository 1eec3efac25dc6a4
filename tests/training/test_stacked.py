"""Members as one program: each is, up to rounding, the run that it is alone; nothing of one reaches another."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small_runs import small_config
from tests.training import test_classification as classification
from tests.training import test_regression as regression
from workbench import Run
from workbench.config import RunConfig
from workbench.errors import DivergedError, UsageError, WorkbenchError
from workbench.tasks.draw import TrainingBatches
from workbench.training import ensemble, hardware, stacked
from workbench.training.ensemble import Member, train_members
from workbench.training.loop import Trainer, train
from workbench.training.stack import Feed, Stack, clip_each
from workbench.training.stacked import programs

SGD = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.01}
FIVE = {"steps": 5, "eval_every": 2, "checkpoint_every": None}


def members(folder: Path, *seeds: int, model={}, **changes) -> list[Member]:
    return [
        Member(small_config({"seed": seed, **model}, **{"data_seed": seed, **FIVE, **changes}), folder / f"seed_{seed}") for seed in seeds
    ]


def together(several: list[Member], **options) -> list[Member]:
    trained: list[Member] = []
    train_members(several, **{"device": "cpu", "engine": "stacked", "progress": False, "trained": trained.append, **options})
    return trained


def alone(member: Member, folder: Path, **options) -> Run:
    return train(member.config, folder / member.path.name, device="cpu", progress=False, **options)


def assert_alike(run: Run, expected: Run, *, weights: bool = True) -> None:
    """What is saved and logged, up to rounding. AdamW magnifies it (the gradient of b_K is rounding alone): then no `weights`."""
    assert run.config == expected.config and run.steps == expected.steps
    for step in run.steps:
        one, other = (each.checkpoint(step).weights() for each in (run, expected))
        assert one.keys() == other.keys()
        if weights or step == 0:
            for name, value in one.items():
                torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6 if step else 0, msg=lambda text, name=name: name + text)
    states = [each.checkpoint().trainer() for each in (run, expected)]
    assert states[0][0].keys() == states[1][0].keys()
    for name, value in states[0][0].items():
        torch.testing.assert_close(value, states[1][0][name], rtol=1e-3, atol=1e-5)
    assert states[0][1]["loss_count"] == states[1][1]["loss_count"]
    rows, others = run.metrics(), expected.metrics()
    assert list(rows) == list(others) and rows["step"].tolist() == others["step"].tolist()
    for column in set(rows) - {"seconds"}:
        assert rows[column].tolist() == pytest.approx(others[column].tolist(), rel=1e-4, abs=1e-5, nan_ok=True), column
    assert rows["seconds"].is_monotonic_increasing and rows["seconds"].iloc[-1] > 0


SHAPES = {
    "none": {"stream": "none"},
    "value": {},
    "learned mix, own heads": {"stream": "query", "stream_mix": "learned", "stream_init": (0.7, 0.4)},
    "accumulated, permuted": {"stream": "key", "stream_source": "accumulated", "stream_permute_heads": "by-position", "n_layers": 3},
    "relative": {"positional_embedding_type": "relative"},
    "rotary": {"positional_embedding_type": "rotary", "d_head": 2},
    "sinusoidal, tied": {"positional_embedding_type": "sinusoidal", "d_model": 22, "tie_word_embeddings": True},
    "MLP, frozen": {"attn_only": False, "act_fn": "gelu", "frozen": ("blocks.0.attn.W_?", "embed.W_E"), "mlp_bias": False},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_is_what_it_is_alone(tmp_path, shape):
    several = members(tmp_path / "together", 3, 5, 7, model=SHAPES[shape], **SGD)
    assert together(several) == several
    for member in several[-1:]:
        run = Run.load(member.path)
        assert_alike(run, alone(member, tmp_path))
        first, last = run.checkpoint(0).weights(), run.checkpoint().weights()
        assert {name for name in first if torch.equal(first[name], last[name])} >= {"embed.W_E"} or shape != "MLP, frozen"


@pytest.mark.parametrize("fields", [{"lr": 0.01}, SGD])
def test_a_classifier_with_identity_and_frozen_weights(tmp_path, fields):
    several = [
        Member(classification.config_of(model={"seed": seed}, data_seed=seed, **fields), tmp_path / f"together/{seed}") for seed in (3, 5)
    ]
    together(several)
    for member in several:
        assert_alike(Run.load(member.path), alone(member, tmp_path), weights=fields is SGD)


def test_numbers_asked_for(tmp_path):
    several = [Member(regression.config_of(model={"seed": seed}, data_seed=seed, **SGD), tmp_path / f"together/{seed}") for seed in (3, 5)]
    together(several)
    for member in several:
        assert_alike(Run.load(member.path), alone(member, tmp_path))


@pytest.mark.parametrize("fields", [{}, {"loss_on": "answered"}, {"grad_clip": 0.05, "weight_decay": 0.1}])
def test_adamw(tmp_path, fields):
    several = members(tmp_path / "together", 3, 5, warmup_steps=2, schedule="cosine", **fields)
    together(several)
    for member in several:
        assert_alike(Run.load(member.path), alone(member, tmp_path), weights=False)


def test_learning_rates_share_a_program(tmp_path):
    """Given out of order, with one data seed, and clipped."""
    several = []
    for number, (seed, lr) in enumerate([(3, 0.3), (3, 0.01), (5, 0.3), (5, 0.05)]):
        several += [
            replace(member, path=tmp_path / "together" / str(number))
            for member in members(tmp_path, seed, **{**SGD, "lr": lr, "data_seed": 2, "grad_clip": 0.3, "schedule": "cosine"})
        ]
    assert programs(several, "cpu") == [several]
    together(several)
    for member in several:
        assert_alike(Run.load(member.path), alone(member, tmp_path))


def test_bf16(tmp_path):
    several = members(tmp_path / "together", 3, 5, dtype="bf16", **SGD)
    together(several)
    for member in several:
        run, expected = Run.load(member.path), alone(member, tmp_path)
        for name, value in run.checkpoint().weights().items():
            torch.testing.assert_close(value, expected.checkpoint().weights()[name], rtol=0, atol=0.01)
        full = alone(replace(member, config=member.config.override(train={"dtype": "fp32"})), tmp_path / "fp32")
        assert not torch.equal(full.checkpoint().weights()["embed.W_E"], run.checkpoint().weights()["embed.W_E"])


def test_programs(tmp_path, monkeypatch):
    alike = [*members(tmp_path, 1, 2, 3), *members(tmp_path / "lr", 1, lr=0.7), *members(tmp_path / "data", 1, data_seed=9)]
    others = [members(tmp_path / "x", 1, **changes) for changes in ({"model": {"stream": "none"}}, {"batch_size": 7}, {"grad_clip": 1.0})]
    dropping = members(tmp_path / "drop", 1, 2, model={"dropout": 0.1})
    mixed = [dropping[0], *alike[:2], *others[0], *others[1], *alike[2:], *others[2], dropping[1]]
    found = programs(mixed, "cpu")
    assert {tuple(each) for each in found} == {tuple(each) for each in (alike, *others, dropping[:1], dropping[1:])}
    monkeypatch.setattr(stacked, "MEMBERS_AT_ONCE", 2)
    assert programs(alike, "cpu") == [alike[:2], alike[2:4], alike[4:]]
    # A run that was begun goes on in its own arithmetic, which is not that of a new one.
    monkeypatch.setattr(stacked, "resolve_dtype", lambda dtype, device: "bf16")
    begun, new = members(tmp_path / "auto", 1, 2, dtype="auto")
    Run.create(begun.path, begun.config.override(train={"dtype": "fp32"}))
    assert programs([begun, new], "cpu") == [[begun], [new]]


def test_more_than_fit_in_a_program(tmp_path, monkeypatch):
    monkeypatch.setattr(stacked, "MEMBERS_AT_ONCE", 2)
    several = members(tmp_path / "together", 3, 5, 7, **SGD)
    assert together(several) == several
    assert_alike(Run.load(several[1].path), alone(several[1], tmp_path))


def test_dropout_is_trained_in_turn_with_the_same_random_numbers(tmp_path):
    several = members(tmp_path / "together", 3, 5, model={"dropout": 0.3})
    assert together(several) == several
    for member in several:
        one, other = Run.load(member.path).checkpoint().weights(), alone(member, tmp_path).checkpoint().weights()
        assert all(torch.equal(one[name], other[name]) for name in one)


def interrupted_after(monkeypatch, updates: int) -> None:
    """Ctrl-C in the middle of an update."""
    update, count = Stack.update, 0

    def counted(self):
        nonlocal count
        count += 1
        if count == updates:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self)

    monkeypatch.setattr(Stack, "update", counted)


@pytest.mark.parametrize("fields", [{}, SGD])
def test_ctrl_c_and_from_one_engine_to_the_other(tmp_path, monkeypatch, capsys, fields):
    several = members(tmp_path / "together", 3, 5, 7, **fields)
    other_shape = members(tmp_path / "none", 3, model={"stream": "none"}, **fields)
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupted_after(patch, 3)
        with pytest.raises(KeyboardInterrupt, match="stopped: 0 of 4 runs are done; the same command with --resume goes on"):
            together([*several, *other_shape], progress=True)
    printed = capsys.readouterr().err
    assert "stopping: each run saves where it is" in printed and "value, seed 5: stopped at step 3 of 5" in printed
    assert signal.getsignal(signal.SIGINT) is before
    assert [Run.load(member.path).steps for member in several] == [[0, 3]] * 3 and not other_shape[0].path.exists()
    with Run.load(several[0].path).lock():
        pass
    with pytest.raises(UsageError, match="already holds this run"):
        together(several)
    # One goes on alone, and ends; then one that never began, one alone at step 2 and the rest go on together.
    train(several[0].config, several[0].path, device="cpu", progress=False, resume=True)
    early = members(tmp_path / "together", 11, 13, **fields)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        update, made = Trainer._update, []
        patch.setattr(
            Trainer, "_update", lambda self: (made.append(1), len(made) == 2 and os.kill(os.getpid(), signal.SIGINT), update(self))
        )
        train(early[0].config, early[0].path, device="cpu", progress=False)
    assert Run.load(early[0].path).steps == [0, 2]
    updated = (several[0].path / "metrics.jsonl").stat().st_mtime_ns
    sizes: list[int] = []
    with monkeypatch.context() as patch:
        update_all = Stack.update
        patch.setattr(Stack, "update", lambda self: (sizes.append(len(self.trainers)), update_all(self))[1])
        assert {member.path for member in together([*several, *early], resume=True)} == {m.path for m in (*several, *early)}
    assert sizes == [4, 4, 2, 1, 1] and (several[0].path / "metrics.jsonl").stat().st_mtime_ns == updated
    for member in (*several, *early):
        run, expected = Run.load(member.path), alone(member, tmp_path / "whole")
        assert run.steps[0] == 0 and run.steps[-1] == 5
        rows, others = run.metrics(), expected.metrics()
        assert rows["step"].tolist() == others["step"].tolist() == [0, 2, 4, 5]
        assert rows["train_loss"].tolist() == pytest.approx(others["train_loss"].tolist(), rel=1e-4, nan_ok=True)
        assert rows["loss"].tolist() == pytest.approx(others["loss"].tolist(), rel=1e-4)
        for (name, value), (_, other) in zip(
            sorted(run.checkpoint().trainer()[0].items()), sorted(expected.checkpoint().trainer()[0].items()), strict=True
        ):
            torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)
        if fields:
            for name, value in run.checkpoint().weights().items():
                torch.testing.assert_close(value, expected.checkpoint().weights()[name], rtol=1e-5, atol=1e-6)


def test_the_second_ctrl_c_ends_it_at_once(tmp_path, monkeypatch):
    several = members(tmp_path, 3, 5)
    monkeypatch.setattr(Stack, "update", lambda self: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt, match="stopped: 0 of 2"):
        together(several)
    for member in several:
        assert Run.load(member.path).steps == [0]
        with Run.load(member.path).lock():
            pass


@pytest.mark.parametrize(("lr", "decay", "what"), [(1e30, 0.01, "the loss is nan"), (3e38, 10.0, "the weight embed.W_E is")])
def test_one_that_diverges_stops_no_other(tmp_path, capsys, lr, decay, what):
    """Found at the loss, or where the weights are saved."""
    several = members(tmp_path / "together", 3, 5, 7, checkpoint_every=1, **{**SGD, "lr": 0.01, "weight_decay": decay})
    diverging = several[1].config.override(train={"lr": lr})
    several[1] = replace(several[1], config=diverging)
    assert programs(several, "cpu") == [several]
    with pytest.raises(DivergedError, match=what) as expected:
        alone(several[1], tmp_path)
    trained: list[Member] = []
    with pytest.raises(WorkbenchError) as failed:
        together(several, trained=trained.append, progress=True)
    assert str(failed.value) == f"1 of 3 runs failed: {several[1].path}: {expected.value}"
    assert f"value, seed 5: failed: {expected.value}" in capsys.readouterr().err
    assert Run.load(several[1].path).steps == Run.load(tmp_path / "seed_5").steps and trained == [several[0], several[2]]
    for member in trained:
        assert_alike(Run.load(member.path), alone(member, tmp_path))


def test_one_in_use_stops_no_other(tmp_path):
    several = members(tmp_path / "together", 3, 5, 7, **SGD)
    run = Run.create(several[2].path, several[2].config)
    with run.lock(), pytest.raises(WorkbenchError, match=r"1 of 3 runs failed: .*seed_7 is in use by another process"):
        together(several, resume=True)
    assert [member.finished for member in several] == [True, True, False]


def test_runs_are_locked_while_they_train(tmp_path, monkeypatch):
    several, update, tried = members(tmp_path, 3, 5), Stack.update, []

    def watched(self):
        for member in several:
            with pytest.raises(UsageError, match="in use"), Run.load(member.path).lock():
                pass
            tried.append(member)
        return update(self)

    monkeypatch.setattr(Stack, "update", watched)
    train_members(several, device="cpu", engine="stacked", progress=False, trained=lambda member: Run.load(member.path).lock().__enter__())
    assert len(tried) == 10


def test_too_many_for_the_memory(tmp_path, monkeypatch):
    several = [*members(tmp_path, 3, 5), *members(tmp_path / "drop", 7, model={"dropout": 0.1})]

    def full(self):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Stack, "update", full)
    with pytest.raises(WorkbenchError, match=r"2 of 3 runs failed: .*does not hold 2 members at once; --engine processes --resume"):
        together(several)
    assert [member.finished for member in several] == [False, False, True]


def trainer(folder: Path, seed: int, **fields) -> Trainer:
    return Trainer(Run.create(folder / str(seed), small_config({"seed": seed}, data_seed=seed, **fields)), "cpu")


def test_clipping():
    """Each member by its own norm, over parameters of any shape; one of huge gradients, or of none, changes no other."""
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(5, *shape, generator=generator) for shape in ((), (2,), (3, 7))]
    for gradient in gradients:
        gradient[1] *= 1e20
        gradient[2] *= 0.01
        gradient[3] = float("nan")
    expected = []
    for number in range(5):
        parameters = [torch.zeros_like(gradient[number]) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient[number].clone()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        expected.append([parameter.grad for parameter in parameters])
    clip_each(gradients, 0.5)
    for number in range(5):
        for gradient, other in zip(gradients, expected[number], strict=True):
            torch.testing.assert_close(gradient[number], other, equal_nan=True)
    assert gradients[2][2].abs().max() < 0.05 and sum(gradient[0].square().sum() for gradient in gradients) == pytest.approx(0.25, rel=1e-4)


def test_nothing_of_one_reaches_another(tmp_path):
    """Other data and other weights of a neighbour change no bit of a member."""
    seen = []
    for number, neighbour in enumerate((5, 7)):
        with ThreadPoolExecutor(1) as drawing:
            trainers = [trainer(tmp_path / str(number), seed, **SGD) for seed in (3, neighbour)]
            stack = Stack(trainers, drawing)
            losses = [stack.update() for _ in range(2)]
        assert losses[0][0] != losses[0][1]
        seen.append((losses[0][0], trainers[0].model.state_dict()))
    assert seen[0][0] == seen[1][0] and all(torch.equal(value, seen[1][1][name]) for name, value in seen[0][1].items())


def test_batches_are_drawn_ahead_and_not_beyond_the_end(tmp_path, monkeypatch):
    drawn, draw = [], TrainingBatches.__getitem__
    monkeypatch.setattr(TrainingBatches, "__getitem__", lambda self, step: (drawn.append((self.seed, step)), draw(self, step))[1])
    trainers = [trainer(tmp_path, seed, steps=3) for seed in (3, 5)]
    with ThreadPoolExecutor(1) as drawing:
        feed = Feed(trainers, drawing)
        taken = [feed.take() for _ in range(3)]
    assert drawn == [(seed, step) for step in range(3) for seed in (3, 5)]
    for step, batch in enumerate(taken):
        assert set(batch) == {"tokens", "targets"}
        for number, each in enumerate(trainers):
            assert torch.equal(batch["tokens"][number], draw(each.batches, step).tokens)
            assert torch.equal(batch["targets"][number], draw(each.batches, step).targets)


def test_which_engine(tmp_path, monkeypatch):
    chosen: list[str] = []

    def done(name):
        def engine(*arguments, **options):
            chosen.append(name)
            return []

        return engine

    monkeypatch.setattr(stacked, "run_stacked", done("stacked"))
    monkeypatch.setattr(ensemble, "run_jobs", done("processes"))
    monkeypatch.setattr(ensemble, "_in_turn", done("in turn"))
    monkeypatch.setattr(ensemble, "warm_up", lambda: None)
    monkeypatch.setattr("workbench.processes.cores", lambda: 2)
    two = members(tmp_path, 3, 5)
    for gpu, options, expected in [
        (False, {}, "processes"), (False, {"engine": "stacked"}, "stacked"), (False, {"jobs": 1}, "in turn"),
        (True, {}, "stacked"), (True, {"jobs": 2}, "processes"), (True, {"jobs": 1}, "in turn"), (True, {"engine": "processes"}, "in turn"),
    ]:  # fmt: skip
        monkeypatch.setattr(hardware, "resolve_device", lambda device, gpu=gpu: "cuda" if gpu else "cpu")
        train_members(two, progress=False, **options)
        assert chosen.pop() == expected, (gpu, options)
        train_members(two[:1], progress=False, **options)
        assert chosen.pop() == "in turn"
    with pytest.raises(UsageError, match="--jobs 2 is a number of processes, but --engine stacked trains in one"):
        train_members(two, engine="stacked", jobs=2)


def test_command_line(tmp_path, monkeypatch, capsys):
    from workbench.cli import main

    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(small_config(**FIVE).to_yaml())
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--config", "tiny.yaml", "--seeds", "0:2", "--lr", "1e-3,1e-2", "--engine", "stacked", "--out", "r", "--json"])
    captured = capsys.readouterr()
    runs = json.loads(captured.out)["runs"]
    assert len(runs) == 4 and all(Run.load(run).finished for run in runs)
    assert "value, seed 1: done (4 of 4 done)" in captured.err
    assert RunConfig.from_yaml(Path(runs[-1], "config.yaml").read_text()).train.lr == 0.01
