"""Members side by side: each is the run that it is alone, a failure stops no other, and Ctrl-C stops all with a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.small_runs import small_config
from workbench import Run
from workbench.errors import UsageError, WorkbenchError
from workbench.processes import Job, run_jobs, shares
from workbench.training import ensemble
from workbench.training.ensemble import Member, train_members
from workbench.training.loop import train

ROOT = Path(__file__).parents[2]


def members(folder: Path, *seeds: int, **changes) -> list[Member]:
    return [Member(small_config({"seed": seed}, data_seed=seed, **changes), folder / f"seed_{seed}") for seed in seeds]


def side_by_side(several: list[Member], **options) -> list[Member]:
    trained: list[Member] = []
    train_members(several, device="cpu", jobs=2, progress=False, trained=trained.append, **options)
    return trained


def alone(config, path: Path) -> Run:
    """Trained in this process, with the one thread that two jobs on two cores have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(shares(2, 2)[1])
    try:
        return train(config, path, device="cpu", progress=False)
    finally:
        torch.set_num_threads(threads)


def files(run: Run) -> dict[str, bytes]:
    """Every file that training decides (not times, versions and their hashes)."""
    return {str(file.relative_to(run.path)): file.read_bytes() for file in run.path.rglob("*.safetensors")} | {
        "config": run.config.to_yaml().encode(),
        "metrics": run.metrics().drop(columns="seconds").to_json().encode(),
    }


def test_each_is_what_it_is_alone(tmp_path):
    several = members(tmp_path / "together", 3, 5, 7)
    assert {member.path for member in side_by_side(several)} == {member.path for member in several}
    for member in several:
        expected = alone(member.config, tmp_path / "alone" / member.path.name)
        assert files(Run.load(member.path)) == files(expected)
        assert Run.load(member.path).provenance["threads"] == expected.provenance["threads"]


def test_a_failure_is_named_and_the_others_go_on(tmp_path, capsys):
    several = members(tmp_path, 0, 1, 2)
    diverging = small_config({"seed": 1}, data_seed=1, optimizer="sgd", lr=1e30)
    several[1] = replace(several[1], config=diverging)
    with pytest.raises(WorkbenchError, match=r"1 of 3 runs failed: .*seed_1: training diverged: ") as failed:
        side_by_side(several)
    assert failed.value.exit_status == 1 and "seed_0" not in str(failed.value)
    assert [member.finished for member in several] == [True, False, True]
    with pytest.raises(WorkbenchError, match=r"1 of 3 runs failed: .*seed_1: training diverged: "):
        train_members(
            [Member(member.config, tmp_path / "turn" / member.path.name) for member in several], device="cpu", jobs=1, progress=False
        )
    assert Member(several[2].config, tmp_path / "turn/seed_2").finished


def _killed(watch) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _wrong(watch) -> None:
    raise KeyError("spam")


def _counts(number: int, watch) -> int:
    return number + torch.get_num_threads()


def test_jobs_that_end_badly(capfd):
    jobs = [Job("a", _killed, (), 1), Job("b", _wrong, (), 1), Job("c", _counts, (10,), 1), Job("d", _counts, (20,), 1)]
    heard: list[str] = []
    run_jobs(jobs, 2, 1, finished=lambda job: heard.append(job.name))
    assert [(job.status, job.result) for job in jobs] == [("failed", None), ("failed", None), ("done", 11), ("done", 21)]
    assert jobs[0].text == "its process was killed by signal 9" and jobs[1].text == "KeyError: 'spam'"
    assert sorted(heard) == ["a", "b", "c", "d"]
    printed = capfd.readouterr().err
    assert "a: failed: its process was killed by signal 9" in printed and "d: done (2 of 4 done)" in printed


def test_resume_skips_what_is_finished(tmp_path, monkeypatch):
    several = members(tmp_path, 0, 1, 2)
    expected = [files(alone(member.config, tmp_path / "alone" / member.path.name)) for member in several]
    side_by_side(several[:1])
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", _interrupting_after(2))
        with pytest.raises(KeyboardInterrupt):
            train(several[1].config, several[1].path, device="cpu", progress=False)
    with pytest.raises(UsageError, match="already holds this run"):
        side_by_side(several)
    written = (several[0].path / "config.yaml").stat().st_mtime_ns
    started: list[str] = []
    with monkeypatch.context() as patch:
        real = ensemble.run_jobs
        patch.setattr(
            ensemble,
            "run_jobs",
            lambda jobs, *rest, **more: (started.extend(j.name for j in jobs if j.status == "waiting"), real(jobs, *rest, **more)),
        )
        assert len(side_by_side(several, resume=True)) == 3
    assert started == ["value, seed 1", "value, seed 2"] and (several[0].path / "config.yaml").stat().st_mtime_ns == written
    assert [files(Run.load(member.path)) for member in several] == expected


def _interrupting_after(times: int):
    log, count = Run.log, 0

    def counted(self, row):
        nonlocal count
        count += 1
        if count > times:
            raise KeyboardInterrupt
        log(self, row)

    return counted


def test_shares(monkeypatch):
    monkeypatch.setattr("workbench.processes.cores", lambda: 12)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [shares(*asked) for asked in ((None, 5), (None, 40), (3, 40), (3, 2), (40, 40), (1, 7))] == [
        (5, 2), (12, 1), (3, 4), (2, 6), (40, 1), (1, 12)
    ]  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert shares(3, 40) == (3, 2)
    with pytest.raises(UsageError, match="--jobs must be at least 1, got 0"):
        shares(0, 3)


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command line in a process group of its own, as in a terminal. A shell that starts things in the background leaves them
    SIGINT ignored: it is given back."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", *words],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_saves_every_member(tmp_path, whole_group):
    """From a terminal it reaches every process, from `kill` only the first: either way each member stops with a checkpoint."""
    (tmp_path / "tiny.yaml").write_text(small_config(steps=10**6, checkpoint_every=10**6, eval_every=10).to_yaml())
    words = ["train", "--config", "tiny.yaml", "--seeds", "0:3", "--jobs", "2", "--device", "cpu", "--out", "r"]
    process = command(tmp_path, *words)
    try:
        logs = [tmp_path / f"r/value/seed_{seed}/metrics.jsonl" for seed in (0, 1)]
        patience = time.monotonic() + 60
        while not all(log.is_file() and log.read_text().count("\n") > 1 for log in logs):
            assert time.monotonic() < patience and process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT) if whole_group else process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and out == "", err
    assert err.splitlines()[-1] == "workbench: stopped: 0 of 3 runs are done; the same command with --resume goes on"
    assert "Traceback" not in err and "value, seed 0: stopped at step" in err
    for log in logs:
        first, last = Run.load(log.parent).steps
        assert first == 0 and last >= 10
    assert not (tmp_path / "r/value/seed_2").exists()


def test_analysing_side_by_side_gives_the_same_tables(tmp_path, monkeypatch, capsys):
    from workbench.cli import main

    monkeypatch.chdir(tmp_path)
    side_by_side(members(Path("runs"), 0, 1))
    for name, jobs in (("one", "1"), ("two", "2")):
        with pytest.raises(SystemExit, match="0"):
            main(["analyze", "runs", "--only", "formation,probes", "--jobs", jobs, "--out", name, "--json"])
        answers = json.loads(capsys.readouterr().out)
        assert [answer["run"] for answer in answers] == ["runs/seed_0", "runs/seed_1"]
    for file in Path("one").rglob("*.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(Path("two") / file.relative_to("one")), rtol=1e-5)
