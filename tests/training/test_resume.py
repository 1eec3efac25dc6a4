"""kill -9 at any moment, then --resume: everything is as though nothing had happened, bit by bit."""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.processes import finish, start
from tests.small_runs import leftovers, small_config
from workbench.checkpoints import MODEL, TRAINER
from workbench.runs import Run

CONFIG = small_config(
    model={"dropout": 0.1}, steps=119, batch_size=19, eval_every=10, checkpoint_every=7, warmup_steps=30, schedule="cosine", grad_clip=1.0
)
FEW_STEPS = small_config(model={"dropout": 0.1}, steps=2, eval_every=1, checkpoint_every=1)


def assert_equal(path: Path, reference: Path) -> None:
    """All that two runs left on disk is equal, but for the time it took."""
    run, expected = Run.load(path), Run.load(reference)
    assert run.config == expected.config and run.steps == expected.steps and not leftovers(path)
    for step in run.steps:
        folder, other = run.checkpoint(step).path, expected.checkpoint(step).path
        assert {file.name for file in folder.iterdir()} == {file.name for file in other.iterdir()}
        for name in (MODEL, TRAINER):
            assert not (other / name).exists() or (folder / name).read_bytes() == (other / name).read_bytes(), (step, name)
        run.checkpoint(step).weights()
        if (folder / TRAINER).exists():
            counters, others = run.checkpoint(step).trainer()[1], expected.checkpoint(step).trainer()[1]
            assert counters | {"seconds": 0} == others | {"seconds": 0}
    rows, others = ([json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()] for each in (path, reference))
    assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in others]
    assert len({row["step"] for row in rows}) == len(rows)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """A run that nothing disturbs."""
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(CONFIG, path)
    return path


def kill_at(path: Path, checkpoints: int, delay: float) -> bool:
    """Train, and kill -9 some `delay` (seconds) after that many checkpoints are there, or right after the start;
    whether training was still going on. It goes by checkpoints since a busy machine is slow."""
    process = start(CONFIG, path)
    while process.is_alive() and len(saved(path)) < checkpoints:
        time.sleep(0.001)
    process.join(delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def saved(path: Path) -> list[Path]:
    return list((path / "checkpoints").glob("step_*"))


def test_killed_once_at_random(reference, tmp_path):
    moments = random.Random(0)
    for number in range(5):
        path, checkpoints = tmp_path / str(number), 3 * number + moments.randint(0, 2)
        assert kill_at(path, checkpoints, moments.uniform(0, 0.04)) and len(saved(path)) < len(saved(reference))
        finish(CONFIG, path)
        assert_equal(path, reference)


def test_killed_again_and_again(reference, tmp_path):
    moments, path = random.Random(1), tmp_path / "run"
    for _ in range(6):
        assert kill_at(path, len(saved(path)) + moments.randint(0, 2), moments.uniform(0, 0.04))
    assert 0 < len(saved(path)) < len(saved(reference))
    finish(CONFIG, path)
    assert_equal(path, reference)


def test_killed_before_every_change_of_the_disk(tmp_path):
    """From the creation of the folder to the end: each run dies before another change, and goes on."""
    finish(FEW_STEPS, tmp_path / "reference")
    for number in range(1, 200):
        path = tmp_path / str(number)
        process = start(FEW_STEPS, path, die_before=number)
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        finish(FEW_STEPS, path)
        assert_equal(path, tmp_path / "reference")
    assert 40 < number < 199, number
