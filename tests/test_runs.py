"""A run on disk: made, claimed, logged, damaged, found again."""

import json
import time

import filelock
import pytest
import torch

from tests.processes import context
from tests.small_runs import MODEL, flip, leftovers, small_config, untrained_run
from workbench.checkpoints import COUNTERS, TRAINER
from workbench.config import ModelConfig, RunConfig
from workbench.errors import CheckpointError, ConfigError, UsageError, WorkbenchError
from workbench.model import HookedTransformer
from workbench.runs import KEPT_TRAINERS, Run
from workbench.training.loop import train


def test_your_own_training_loop(tmp_path):
    config = RunConfig(model=ModelConfig(**MODEL))
    run = Run.create(tmp_path / "x", config, note="mine")
    model = HookedTransformer(config.model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tokens, weights = torch.arange(10)[None], []
    for step in range(5):
        run.save(step, model, optimizer)
        weights.append(model.embed.W_E.detach().clone())
        loss = model(tokens, return_type="loss")
        run.log({"step": step, "loss": loss.item()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    again = Run.load(tmp_path / "x")
    assert again.steps == [0, 1, 2, 3, 4] and again.config == config and again.provenance["note"] == "mine"
    assert all(torch.equal(again.model(step).embed.W_E, weights[step]) for step in again.steps) and not again.model().training
    assert again.metrics()["step"].tolist() == again.steps and again.metrics()["loss"].is_monotonic_decreasing
    assert again.task is None and again.progress == "5 checkpoints" and again.name == "x"
    tensors, counters = again.checkpoint().trainer()
    assert counters == {} and tensors["embed.W_E|step"] == 4 and tensors["embed.W_E|exp_avg"].shape == model.embed.W_E.shape
    again.load_weights(model, 2)
    assert torch.equal(model.embed.W_E, weights[2])


def test_only_the_newest_two_keep_what_resuming_needs(tmp_path):
    run = train(small_config(), tmp_path / "x", progress=False)
    for name in (TRAINER, COUNTERS):
        holding = [step for step in run.steps if (run.path / "checkpoints" / f"step_{step:08d}" / name).exists()]
        assert holding == run.steps[-KEPT_TRAINERS:] == [3, 4]
    with pytest.raises(CheckpointError, match="no optimiser state"):
        run.checkpoint(2).trainer()


def test_a_model_of_another_configuration_is_not_saved(tmp_path):
    run = untrained_run(tmp_path / "x")
    with pytest.raises(UsageError, match="not the run's"):
        run.save(1, HookedTransformer(ModelConfig(**{**MODEL, "seed": 1})))
    assert run.steps == [0]


def test_a_run_needs_a_folder_of_its_own(tmp_path):
    config = RunConfig(model=ModelConfig(**MODEL))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    untrained_run(tmp_path / "run")
    for name in ("full", "file", "run"):
        with pytest.raises(UsageError, match=f"{name} already exists and is not empty; choose another folder"):
            Run.create(tmp_path / name, config)
    assert [entry.name for entry in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    with pytest.raises(WorkbenchError, match=r"cannot write .*: Not a directory"):
        Run.create(tmp_path / "file" / "below", config)


def test_a_creation_cut_short_is_done_again(tmp_path):
    for name in (".lock", "provenance.json", ".config.yaml.12.part"):
        (tmp_path / name).write_text("{")
    assert not Run.is_run(tmp_path)
    run = Run.create(tmp_path, RunConfig(model=ModelConfig(**MODEL)))
    assert run.provenance["versions"] and not leftovers(tmp_path)


def test_loading_what_is_no_run(tmp_path):
    with pytest.raises(UsageError, match=r"there is no .*nowhere"):
        Run.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"is not a run: it has no config\.yaml"):
        Run.load(tmp_path)
    (tmp_path / "config.yaml").write_text("model: {d_model: wide}")
    with pytest.raises(ConfigError, match=r"config\.yaml: model\.d_model: expected an integer, got 'wide'"):
        Run.load(tmp_path)


def test_steps_that_are_not_there(tmp_path):
    run = untrained_run(tmp_path / "few", steps=3)
    with pytest.raises(UsageError, match=r"has no checkpoint of step 7; it has 0, 1, 2$"):
        run.model(7)
    for step in range(3, 10):
        run.checkpoint(0).path.with_name(f"step_{step:08d}").mkdir()
    with pytest.raises(UsageError, match=r"it has 10 from 0 to 9$"):
        run.model(10)
    empty = Run.create(tmp_path / "empty", run.config)
    with pytest.raises(UsageError, match="has no checkpoints"):
        empty.model()
    assert empty.steps == [] and empty.metrics().empty


def test_other_things_among_the_checkpoints_are_passed_over(tmp_path):
    run = untrained_run(tmp_path / "x")
    for name in (".step_00000005.77.part", "step_7", "best", "step_123456789"):
        (run.path / "checkpoints" / name).mkdir()
    assert run.steps == [0, 123456789]


def test_finding_runs(tmp_path):
    paths = [tmp_path / "value" / "seed_1", tmp_path / "none" / "seed_0", tmp_path / "plain"]
    for path in paths:
        untrained_run(path)
    assert [run.path for run in Run.find(tmp_path)] == sorted(paths)
    assert [run.path for run in Run.find(paths[2])] == [paths[2]] and Run.find(tmp_path / "nowhere") == []
    assert [run.name for run in Run.find(tmp_path)] == ["none/seed_0", "plain", "value/seed_1"]
    assert "value, seed 0, 1 checkpoints" in repr(Run.load(paths[0]))


def test_a_metrics_line_cut_short(tmp_path):
    run = untrained_run(tmp_path / "x")
    for step in range(3):
        run.log({"step": step, "loss": 0.1 * step})
    file = run.path / "metrics.jsonl"
    whole = file.read_bytes()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        file.write_bytes(whole[:-cut])
        assert len(run.metrics()) == (3 if cut == 1 else 2)
    run.rewind(1)
    run.log({"step": 2, "loss": 0.2})
    assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", [b'{"step": 0, "lo', b"\xff\xfe", b"5", b"null"])
def test_a_metrics_line_damaged_in_the_middle(tmp_path, damage):
    run = untrained_run(tmp_path / "x")
    (run.path / "metrics.jsonl").write_bytes(b'{"step": 0}\n' + damage + b'\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2: damaged"):
        run.metrics()


def test_rewinding(tmp_path):
    run = untrained_run(tmp_path / "x")
    rows = [{"note": "no step"}, *({"step": step, "loss": 0.1 + 0.2} for step in range(4))]
    for row in rows:
        run.log(row)
    for folder in (run.path, run.path / "checkpoints"):
        (folder / ".x.1.part").mkdir()
    run.rewind(2)
    assert [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()] == rows[:4]
    assert not leftovers(run.path)
    run.rewind(-1)
    assert run.metrics()["note"].tolist() == ["no step"]


def test_damaged_provenance(tmp_path):
    run = untrained_run(tmp_path / "x")
    flip(run.path / "provenance.json", 0)
    with pytest.raises(CheckpointError, match=r"provenance\.json is damaged"):
        run.provenance  # noqa: B018
    (run.path / "provenance.json").unlink()
    assert run.provenance == {}


def test_a_task_whose_text_has_changed(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("abcdefghijkl" * 50 + "the quick brown fox")
    config = small_config(task={"language": str(text)})
    train(config, tmp_path / "x", progress=False)
    assert Run.load(tmp_path / "x").task is not None
    text.write_text("abcdefghijkl" * 50 + "the lazy dog")
    with pytest.raises(CheckpointError, match="data of its task have changed"):
        Run.load(tmp_path / "x").task  # noqa: B018


def hold(path, holding) -> None:
    with filelock.FileLock(path):
        holding.set()
        time.sleep(60)


def test_a_run_in_use(tmp_path):
    config = small_config()
    run = train(config, tmp_path / "x", progress=False)
    holding = context.Event()
    process = context.Process(target=hold, args=(str(run.path / ".lock"), holding))
    process.start()
    try:
        assert holding.wait(60)
        with pytest.raises(UsageError, match="in use by another process"):
            train(config, run.path, resume=True, progress=False)
    finally:
        process.kill()
        process.join()
    # The claim ended with the process, however it ended.
    train(config, run.path, resume=True, progress=False)


def test_a_claim_is_given_back(tmp_path):
    run = untrained_run(tmp_path / "x")
    with pytest.raises(KeyError), run.lock():
        with pytest.raises(UsageError, match="in use"), Run.load(run.path).lock():
            pass
        raise KeyError
    with run.lock():
        pass
    with pytest.raises(WorkbenchError, match="cannot write to"), Run(tmp_path / "x" / "config.yaml", run.config).lock():
        pass


def test_a_full_disk_is_one_line(tmp_path):
    run = untrained_run(tmp_path / "x")
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(WorkbenchError, match=r"cannot write .*metrics\.jsonl: No space left on device"):
        run.log({"step": 0})
