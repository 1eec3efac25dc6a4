"""A checkpoint is whole or not there, every damage is found, and nothing is unpickled."""

import hashlib
import json
import pickle

import pytest
import torch

from tests.small_runs import MODEL, flip, leftovers, small_config, untrained_run
from workbench.checkpoints import CONFIG, COUNTERS, TRAINER, Checkpoint, _checksum, write_checkpoint
from workbench.checkpoints import MODEL as WEIGHTS
from workbench.config import ModelConfig
from workbench.errors import CheckpointError, UsageError, WorkbenchError
from workbench.runs import Run
from workbench.training.loop import train

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "c": torch.zeros(0), "t": torch.arange(6.0).view(2, 3).T}
COUNTED = {"sum": 0.1 + 0.2, "n": 3, "tiny": 5e-324}


@pytest.fixture
def saved(tmp_path) -> Checkpoint:
    return write_checkpoint(tmp_path / "step_00000005", 5, ModelConfig(**MODEL), TENSORS, {"a|exp_avg": TENSORS["a"]}, COUNTED)


def read_all(path) -> None:
    checkpoint = Checkpoint.open(path)
    checkpoint.weights()
    checkpoint.trainer()


def test_what_is_written_is_read(saved):
    opened = Checkpoint.open(saved.path)
    assert opened == saved and opened.step == 5 and opened.model_config == ModelConfig(**MODEL)
    for tensors, expected in ((opened.weights(), TENSORS), (opened.trainer()[0], {"a|exp_avg": TENSORS["a"]})):
        assert set(tensors) == set(expected)
        assert all(tensors[name].dtype == expected[name].dtype and torch.equal(tensors[name], expected[name]) for name in expected)
    assert opened.trainer()[1] == COUNTED
    assert sorted(file.name for file in saved.path.iterdir()) == sorted([CONFIG, WEIGHTS, TRAINER, COUNTERS])


def test_files_have_the_permissions_of_any_new_file(saved):
    other = saved.path.parent / "other"
    other.touch()
    assert {file.stat().st_mode for file in saved.path.iterdir()} == {other.stat().st_mode}


@pytest.mark.parametrize("name", [WEIGHTS, TRAINER, COUNTERS])
def test_every_flipped_byte_is_found(saved, name):
    file = saved.path / name
    for place in range(file.stat().st_size):
        flip(file, place)
        with pytest.raises(CheckpointError, match=f"{name} is damaged.*use another checkpoint"):
            read_all(saved.path)
        flip(file, place)
    read_all(saved.path)


def test_every_flipped_byte_of_the_description_is_found(saved):
    file = saved.path / CONFIG
    for place in range(file.stat().st_size):
        flip(file, place)
        with pytest.raises(CheckpointError):
            read_all(saved.path)
        flip(file, place)
    read_all(saved.path)


def test_every_changed_digit_of_the_description_is_found(saved):
    text = (saved.path / CONFIG).read_text()
    places = [place for place, character in enumerate(text) if character.isdigit()]
    for place in places:
        changed = text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]
        (saved.path / CONFIG).write_text(changed)
        with pytest.raises(CheckpointError, match=r"damaged|upgrade workbench"):
            Checkpoint.open(saved.path)
    assert len(places) > 50


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, TRAINER, COUNTERS])
@pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
def test_truncated_files(saved, name, kept):
    content = (saved.path / name).read_bytes()
    (saved.path / name).write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=name):
        read_all(saved.path)


@pytest.mark.parametrize(
    ("name", "message"),
    [(CONFIG, "it has no config.json"), (WEIGHTS, "incomplete"), (TRAINER, "no optimiser state"), (COUNTERS, "no optimiser state")],
)
def test_missing_files(saved, name, message):
    (saved.path / name).unlink()
    with pytest.raises(CheckpointError, match=message):
        read_all(saved.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"step: 5", "not readable JSON"),
        (b"\xff\xfe", "not readable JSON"),
        (b"[1]", "names no format"),
        (b'{"step": 5}', "names no format"),
        (b'{"format": 2}', "format 2, this version reads up to 1: upgrade workbench"),
        (b'{"format": 1, "step": 5}', "checksum does not match"),
    ],
)
def test_descriptions_that_are_none(saved, content, message):
    (saved.path / CONFIG).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(saved.path)


def test_weights_of_another_checkpoint_are_found(saved):
    other = write_checkpoint(saved.path.with_name("other"), 5, saved.model_config, {"a": TENSORS["a"] + 1})
    (saved.path / WEIGHTS).write_bytes((other.path / WEIGHTS).read_bytes())
    with pytest.raises(CheckpointError, match="does not match its hash"):
        saved.weights()


def test_a_folder_is_no_file(saved):
    (saved.path / WEIGHTS).unlink()
    (saved.path / WEIGHTS).mkdir()
    with pytest.raises(CheckpointError, match="Is a directory"):
        saved.weights()


def test_without_an_optimiser(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "x", 0, ModelConfig(**MODEL), TENSORS)
    assert set(checkpoint.weights()) == set(TENSORS)
    with pytest.raises(CheckpointError, match="no optimiser state: training cannot go on from it"):
        checkpoint.trainer()


def test_saving_again_replaces_all_of_it(saved):
    write_checkpoint(saved.path, 5, saved.model_config, {"a": TENSORS["a"] + 1})
    assert torch.equal(Checkpoint.open(saved.path).weights()["a"], TENSORS["a"] + 1) and not (saved.path / TRAINER).exists()


def test_what_cannot_be_saved_leaves_nothing(tmp_path):
    for trainer in ({"a": TENSORS["a"], "b": "no tensor"}, None):
        with pytest.raises((AttributeError, TypeError)):
            write_checkpoint(tmp_path / "x", 0, ModelConfig(**MODEL), {"a": None} if trainer is None else TENSORS, trainer)
    assert not list(tmp_path.iterdir())


def test_an_error_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    write, names = type(tmp_path).write_bytes, []

    def failing(path, content):
        names.append(path.name)
        if len(names) == 3:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(type(tmp_path), "write_bytes", failing)
    with pytest.raises(WorkbenchError, match=r"cannot write .*x: No space left on device"):
        write_checkpoint(tmp_path / "x", 0, ModelConfig(**MODEL), TENSORS, TENSORS)
    assert names == [WEIGHTS, TRAINER, COUNTERS] and not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_run_copied_in(tmp_path):
    run, other = untrained_run(tmp_path / "run"), tmp_path / "other"
    model = ModelConfig(**{**MODEL, "n_heads": 2})
    write_checkpoint(other, 1, model, TENSORS)
    other.rename(run.path / "checkpoints" / "step_00000001")
    with pytest.raises(CheckpointError, match="of another architecture: n_heads is 2, the run has 3"):
        run.model()
    assert run.model(0).config == run.config.model
    (run.path / "checkpoints" / "step_00000000").rename(run.path / "checkpoints" / "step_00000007")
    with pytest.raises(CheckpointError, match="step_00000007 holds step 0; give the folder back its name"):
        run.checkpoint(7)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    config = small_config()
    train(config, tmp_path / "run", progress=False)

    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    run = train(config, tmp_path / "run", resume=True, progress=False)
    for step in Run.load(run.path).steps:
        run.model(step)
    assert not [file for file in run.path.rglob("*") if file.suffix in (".pt", ".pth", ".pkl", ".bin")] and not leftovers(run.path)


def test_pickles_are_refused(saved):
    """Even where every hash is right."""
    torch.save(TENSORS, saved.path / WEIGHTS)

    values = json.loads((saved.path / CONFIG).read_text())
    values.pop("checksum")
    values["files"][WEIGHTS] = hashlib.sha256((saved.path / WEIGHTS).read_bytes()).hexdigest()
    (saved.path / CONFIG).write_text(json.dumps({**values, "checksum": _checksum(values)}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        Checkpoint.open(saved.path).weights()


def test_a_step_is_a_count(tmp_path):
    run = untrained_run(tmp_path / "run")
    with pytest.raises(UsageError, match="at least 0, got -1"):
        run.save(-1, run.model())
