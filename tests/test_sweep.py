"""Sweeps: which members there are, what is trained again and what never, and what is said of members that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from tests.browser import unpacked
from workbench import RunConfig, TrainConfig, TriggerBigramConfig, train
from workbench.cli import main
from workbench.config import ModelConfig
from workbench.errors import ConfigError, UsageError
from workbench.runs import Run
from workbench.sweep import Sweep, failures, run_sweep, table_of

BASE = RunConfig(
    task=TriggerBigramConfig(d_vocab=11, seq_len=13, n_triggers=2),
    model=ModelConfig(n_heads=3, d_model=21, d_vocab=11, n_ctx=13),
    train=TrainConfig(steps=5, batch_size=5, eval_every=2, eval_size=7, checkpoint_every=2),
)


def written(tmp_path: Path, **fields) -> Path:
    (tmp_path / "base.yaml").write_text(BASE.to_yaml())
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"config": "base.yaml", **fields}, sort_keys=False))
    return path


class Job:
    """A job that has run when it is submitted."""

    def __init__(self, function, arguments):
        self.error = None
        try:
            function(*arguments)
        except Exception as error:
            self.error = error

    def done(self):
        return True

    def exception(self):
        return self.error

    def cancel(self):
        raise AssertionError("nothing is left to cancel")


@pytest.fixture
def here(monkeypatch):
    """Jobs run in this process, one after another, in the order of their submission: the seeds' folders, as they start."""
    started = []

    class Executor:
        cluster = "local"

        def submit(self, function, config, path, *rest):
            started.append(Path(path).name)
            return Job(function, (config, path, *rest))

    monkeypatch.setattr("workbench.sweep._executor", lambda *_: Executor())
    return started


def test_the_members_are_the_product_seed_by_seed(tmp_path):
    vary = {"task.n_triggers": [1, 2], "train.batch_size": [3, 5, 7]}
    sweep = Sweep.from_yaml(written(tmp_path, stream=["none", "value-detached"], seeds="1:4", vary=vary, set={"train.lr": 0.01}))
    members = sweep.members()
    assert len(members) == len({member.folder for member in members}) == 2 * 2 * 3 * 3
    assert [member.config.model.seed for member in members] == [1] * 12 + [2] * 12 + [3] * 12
    one = next(member for member in members if member.folder == "value-detached/task.n_triggers=2,train.batch_size=5/seed_3")
    config = one.config
    assert (config.task.n_triggers, config.train.batch_size, config.train.lr, config.train.data_seed) == (2, 5, 0.01, 3)
    assert config.model.variant == "value-detached" and one.varied == {"task.n_triggers": 2, "train.batch_size": 5}
    alone = Sweep.from_yaml(written(tmp_path)).members()
    assert [member.folder for member in alone] == ["none/seed_0"] and alone[0].config == BASE


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sees": 1}, "unknown field 'sees'; did you mean seeds"),
        ({"preset": "trigger-bigram"}, "give preset .* or config"),
        ({"vary": {"train.lr": 0.1}}, "vary: train.lr: expected a list of values, got 0.1"),
        ({"vary": {"train.lr": [0.1, 0.1]}}, "a value stands twice"),
        ({"vary": {"lr": [0.1]}}, "'lr' is no field; expected one such as train.lr"),
        ({"vary": {"train.learning": [0.1]}}, "unknown field 'learning'"),
        ({"vary": {"task.d_vocab": [13]}}, "model.d_vocab=11 differs from task.d_vocab=13"),
        ({"stream": ["none", "valu"]}, "unknown stream 'valu'"),
        ({"seeds": "a:b"}, "seeds: expected a list"),
        ({"seeds": [-1]}, "seeds: expected a list"),
        ({"set": [1]}, "set: expected fields such as train.lr"),
    ],
)
def test_wrong_files(tmp_path, fields, message):
    with pytest.raises(UsageError, match=message):
        Sweep.from_yaml(written(tmp_path, **fields))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the sweep .*No such file"):
        Sweep.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("vary: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        Sweep.from_yaml(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="expected a mapping"):
        Sweep.from_yaml(tmp_path / "list.yaml")


def test_members_are_ordinary_runs_and_finished_ones_are_never_trained_again(tmp_path, here):
    sweep = Sweep.from_yaml(written(tmp_path, stream="none,value", seeds=[0, 1], vary={"train.batch_size": [3, 5]}))
    table = run_sweep(sweep, tmp_path / "o", progress=False)
    assert len(here) == 8 and list(table["status"]) == ["finished"] * 8 and set(table["step"]) == {5}
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "o/sweep.parquet"), table)
    alone = train(
        BASE.override(train={"batch_size": 3, "data_seed": 1}, model={"stream": "value", "seed": 1}), tmp_path / "alone", progress=False
    )
    member = Run.load(tmp_path / "o/value/train.batch_size=3/seed_1")
    assert member.config == alone.config and member.steps == alone.steps
    for name, weight in alone.model(device="cpu").state_dict().items():
        assert torch.equal(weight, member.model(device="cpu").state_dict()[name])
    row = table[table["run"] == "value/train.batch_size=3/seed_1"].iloc[0]
    assert (row["variant"], row["seed"], row["train.batch_size"]) == ("value", 1, 3) and row["loss"] == alone.metrics()["loss"].iloc[-1]
    # Again, and with a seed more: only what is new.
    again = run_sweep(sweep, tmp_path / "o", progress=False)
    pd.testing.assert_frame_equal(again, table)
    more = Sweep.from_yaml(written(tmp_path, stream="none,value", seeds=[0, 1, 2], vary={"train.batch_size": [3, 5]}))
    run_sweep(more, tmp_path / "o", progress=False)
    assert here[8:] == ["seed_2"] * 4


def test_an_unfinished_member_goes_on_where_it_stood(tmp_path, here):
    sweep = Sweep.from_yaml(written(tmp_path))
    straight = run_sweep(sweep, tmp_path / "straight", progress=False)
    (member,) = sweep.members()
    run_sweep(sweep, tmp_path / "o", progress=False)
    run = Run.load(tmp_path / "o/none/seed_0")
    # As if it had been killed after step 4: what came later is gone.
    for step in (5,):
        folder = run.path / f"checkpoints/step_{step:08d}"
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert not member.finished(tmp_path / "o")
    assert list(table_of([member], tmp_path / "o")["status"]) == ["unfinished"]
    table = run_sweep(sweep, tmp_path / "o", progress=False)
    pd.testing.assert_frame_equal(table, straight)
    weights = [Run.load(tmp_path / f"{name}/none/seed_0").model().state_dict() for name in ("o", "straight")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_member_that_fails_is_named_and_the_others_go_on(tmp_path, here):
    sweep = Sweep.from_yaml(written(tmp_path, vary={"train.lr": [1e30, 0.01]}, seeds=[0, 1]))
    table = run_sweep(sweep, tmp_path / "o", progress=False)
    assert list(table["status"]) == ["failed", "finished"] * 2
    said = failures(table)
    assert len(said) == 2 and said[0].startswith("none/train.lr=1e+30/seed_0: ") and "training diverged" in said[0]
    # A failed member is tried again, a finished one is not.
    run_sweep(sweep, tmp_path / "o", progress=False)
    assert here == ["seed_0", "seed_0", "seed_1", "seed_1", "seed_0", "seed_1"]


def test_a_folder_of_another_run_is_refused_before_anything_is_trained(tmp_path, here):
    run_sweep(Sweep.from_yaml(written(tmp_path)), tmp_path / "o", progress=False)
    other = Sweep.from_yaml(written(tmp_path, set={"train.lr": 0.5}))
    with pytest.raises(ConfigError, match=r"holds a run of another configuration .*train\.lr"):
        run_sweep(other, tmp_path / "o", progress=False)
    assert len(here) == 1
    with pytest.raises(UsageError, match="jobs must be at least 1, got 0"):
        run_sweep(other, tmp_path / "o", jobs=0)
    with pytest.raises(UsageError, match="unknown cluster 'slrm'"):
        run_sweep(other, tmp_path / "o", where="slrm")


def typed(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["sweep", *arguments])
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def test_the_command(tmp_path, here, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, stream="none,value", vary={"train.batch_size": [3, 5], "task.n_triggers": [1, 2]})
    status, out, _ = typed(capsys, "sweep.yaml", "--out", "o")
    assert status == 0
    assert out.splitlines() == ["o: 8 finished", "  table: o/sweep.parquet", "  formation map: o/formation_map.html"]
    page = unpacked(Path("o/formation_map.html").read_text())
    assert "by train.batch_size and task.n_triggers" in page
    status, out, _ = typed(capsys, "sweep.yaml", "--out", "o", "--map", "task.n_triggers", "--json")
    assert status == 0 and len(here) == 8 and [row["status"] for row in json.loads(out)] == ["finished"] * 8
    assert "When in-context learning forms, by task.n_triggers" in unpacked(Path("o/formation_map.html").read_text())
    status, _, err = typed(capsys, "sweep.yaml", "--map", "task.triggers")
    assert status == 2 and err.startswith("workbench: unknown varied field 'task.triggers'; did you mean task.n_triggers")
    assert typed(capsys, "sweep.yaml", "--map", ",")[0] == 2


def test_the_command_says_what_failed(tmp_path, here, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, vary={"train.lr": [1e30, 0.01]})
    status, out, err = typed(capsys, "sweep.yaml", "--out", "o")
    assert status == 1 and "1 failed" in out and "1 finished" in out
    assert err.splitlines()[-1].startswith("workbench: 1 of 2 members failed: none/train.lr=1e+30/seed_0: ")


def test_jobs_of_their_own(tmp_path):
    """Through submitit's local executor: what failed is said in one line, and its files are nobody else's."""
    sweep = Sweep.from_yaml(written(tmp_path, vary={"train.lr": [1e30, 0.01]}, cluster={"timeout_min": 5}))
    table = run_sweep(sweep, tmp_path / "o", jobs=2, progress=False)
    assert list(table["status"]) == ["failed", "finished"]
    (said,) = failures(table)
    assert said.startswith("none/train.lr=1e+30/seed_0: DivergedError: training diverged") and "\n" not in said
    private = tmp_path / "o/.submitit"
    assert private.stat().st_mode & 0o777 == 0o700
    # Nothing that lay there before is where submitit looks: each call has a folder of its own.
    assert all(entry.is_dir() and entry.stat().st_mode & 0o777 == 0o700 for entry in private.iterdir())
    assert [run.path for run in Run.find(tmp_path / "o")] == [
        tmp_path / "o/none/train.lr=0.01/seed_0",
        tmp_path / "o/none/train.lr=1e+30/seed_0",
    ]
    refused = Sweep.from_yaml(written(tmp_path, cluster={"slurm_partitio": "gpu"}, seeds=[1]))
    with pytest.raises(UsageError, match=r"submitit refuses the cluster local with .*slurm_partitio"):
        run_sweep(refused, tmp_path / "p", progress=False)


def test_when_a_member_has_formed(tmp_path):
    sweep = Sweep.from_yaml(written(tmp_path, seeds=[0, 1]))
    for member, values in zip(sweep.members(), ([0.1, 0.96, 0.9], [0.1, 0.2, 0.94]), strict=True):
        run = Run.create(tmp_path / "o" / member.folder, member.config)
        for step, value in zip((0, 2, 4), values, strict=True):
            run.log({"step": step, "in_context_accuracy": value, "loss": 1.0})
    table = table_of(sweep.members(), tmp_path / "o", {"none/seed_1": "it broke"})
    assert table["formed_step"].tolist()[0] == 2 and np.isnan(table["formed_step"].tolist()[1])
    assert list(table["status"]) == ["unfinished", "failed"] and list(table["error"]) == ["", "it broke"]


def test_ctrl_c_stops_all_and_the_same_call_goes_on(tmp_path):
    """With jobs in processes of their own, as a user has them."""
    written(tmp_path, stream="none,value", set={"train.steps": 300, "train.checkpoint_every": 10, "train.eval_every": 50})
    command = [sys.executable, "-m", "workbench.cli", "sweep", "sweep.yaml", "--out", "o", "--jobs", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.glob("o/*/seed_0/checkpoints/step_00000020")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].endswith("of 2 runs are done; the same command goes on") and "Traceback" not in said
    table = pd.read_parquet(tmp_path / "o/sweep.parquet")
    assert set(table["status"]) <= {"unfinished", "finished"} and "unfinished" in set(table["status"])
    kept = {folder: folder.stat().st_mtime for folder in tmp_path.glob("o/*/seed_0/checkpoints/step_00000010")}
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[0] == "o: 2 finished"
    assert kept and all(folder.stat().st_mtime == time_ for folder, time_ in kept.items())
    assert set(pd.read_parquet(tmp_path / "o/sweep.parquet")["step"]) == {300}
