"""Every notebook, executed in its fast form in one folder: no error, nothing on stderr, a figure in each, and no output in what is kept."""

import re
import shutil
import subprocess
from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the folder, so that the runs go elsewhere. One for all, in which a notebook finds what an earlier one has trained."""
    copy = tmp_path_factory.mktemp("notebooks")
    for file in (ROOT / "notebooks").glob("*.py"):
        shutil.copy(file, copy)
    return copy


# jupyter_client and traitlets warn of their own futures.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_through(path, folder, monkeypatch):
    monkeypatch.setenv("WORKBENCH_FAST", "1")
    notebook = jupytext.read(path)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = NotebookClient(notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()  # raises where a cell does
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert [output["text"] for output in outputs if output.output_type == "stream" and output["name"] == "stderr"] == []
    assert any(PLOTLY in output.get("data", {}) for output in outputs)


def test_a_failing_cell_is_noticed(folder, monkeypatch):
    """The control: the same way of running a notebook does not swallow an error."""
    notebook = jupytext.reads("# %%\nfrom pace import pace\npace(1, 2) / 0\n", fmt="py:percent")
    client = NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    with pytest.raises(Exception, match="ZeroDivisionError"):
        client.execute()


def test_what_is_kept_and_listed():
    assert len(NOTEBOOKS) == 6
    tracked = subprocess.run(["git", "ls-files", "notebooks"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert ".ipynb" not in tracked
    readme, answers = (ROOT / "README.md").read_text(), (ROOT / "notebooks" / "answers.md").read_text()
    for number, path in enumerate(NOTEBOOKS, start=1):
        text = path.read_text()
        assert f"(notebooks/{path.name})" in readme
        assert f"# # {number}. " in text and "WORKBENCH_FAST=1" in text and f"[answers.md](answers.md), {number}." in text
        questions = re.findall(r"^# \d\. ", text.partition("## Questions")[2], flags=re.MULTILINE)
        section = answers.partition(f"\n## {number}. ")[2].partition("\n## ")[0]
        assert len(questions) >= 2 and len(re.findall(r"^\d\. ", section, flags=re.MULTILINE)) == len(questions)
        # One place decides what the fast form is.
        assert "environ" not in text and "from pace import" in text
