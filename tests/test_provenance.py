"""Where a run came from."""

import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import workbench.provenance
from workbench.provenance import PACKAGES, provenance


def copy_of_the_module(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return Path(shutil.copy(workbench.provenance.__file__, folder))


def source_seen_by(file: Path):
    code = "import json, provenance; print(json.dumps(provenance.provenance()['source']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_what_a_reader_needs(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somebody/home/bin/workbench", "train", "x"])
    values = provenance(device="cpu", threads=3)
    assert json.loads(json.dumps(values)) == values
    assert set(values) == {"created", "command", "versions", "source", "machine", "device", "threads"}
    assert values["command"] == "workbench train x" and (values["device"], values["threads"]) == ("cpu", 3)
    assert set(values["versions"]) == {"python", *PACKAGES} and all(values["versions"].values())
    assert datetime.fromisoformat(values["created"]).tzinfo is not None
    assert values["machine"]["cores"] >= 1 and values["machine"]["processor"]


def test_a_checkout_is_named_with_its_state(tmp_path):
    file = copy_of_the_module(tmp_path / "package")
    git(tmp_path, "init")
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert source_seen_by(file) == {"commit": commit, "uncommitted_changes": False}
    file.write_text(file.read_text() + "\n")
    assert source_seen_by(file) == {"commit": commit, "uncommitted_changes": True}


def test_outside_a_checkout(tmp_path):
    assert source_seen_by(copy_of_the_module(tmp_path / "package")) is None


def test_installed_inside_somebody_elses_checkout(tmp_path):
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "theirs")
    assert source_seen_by(copy_of_the_module(tmp_path / ".venv" / "package")) is None


def test_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance()["source"] is None
    monkeypatch.setattr(workbench.provenance, "PACKAGES", ("not-a-package-at-all",))
    assert provenance()["versions"]["not-a-package-at-all"] is None
