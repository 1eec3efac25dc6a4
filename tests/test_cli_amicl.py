"""`workbench amicl` as a user types it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest

from workbench.amicl import published
from workbench.cli import main


@pytest.fixture
def typed(capsys, monkeypatch, tmp_path):
    """Type `workbench amicl ...` in an empty folder: status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["amicl", *arguments])
        return (end.value.code, *capsys.readouterr())

    return run


def test_the_comparison_the_tables_and_the_page(typed):
    status, out, _ = typed("--quick", "--trials", "101", "--seed", "3")
    assert status == 0
    lines = out.splitlines()
    measured = published.comparison(101, 3)
    assert lines[1].split() == ["a", "measured", "95", "%", "interval", "published"]
    for line, row in zip(lines[2:6], measured.to_dict("records"), strict=True):
        a, value, interval, said = re.fullmatch(r"  (\S+) +(\S+)  (\[.*\]) +(\S+)", line).groups()
        assert (float(a), float(said)) == (row["a"], row["published"]) and value == f"{row['value']:.3f}"
        assert interval == f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    assert lines[-2:] == ["tables: runs/amicl (published, strength, size, attention)", "page: runs/amicl/amicl.html"]
    names = ("published", "strength", "size", "attention")
    assert sorted(os.listdir("runs/amicl")) == sorted(["amicl.html", *(f"{name}.{end}" for name in names for end in ("csv", "parquet"))])
    tables = {name: pd.read_parquet(f"runs/amicl/{name}.parquet") for name in names}
    pd.testing.assert_frame_equal(tables["published"], measured, check_dtype=False)
    assert len(tables["strength"]) == 4 * 21 and len(tables["size"]) == 16 and len(tables["attention"]) == 12 * 400
    for name in ("strength", "size"):
        assert set(tables[name]["n"]) == {101} and set(tables[name]["seed"]) == {3}
    page = Path("runs/amicl/amicl.html").read_text()
    text = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
    assert re.findall(r'<section id="([\w-]+)">', page) == ["strength", "size", "attention", "provenance"]
    assert f"a\u00a0=\u00a01.25: {measured['value'][1]:.3f} " in text and "published 0.907" in text and "101 trials a point" in text
    assert not re.search(r'(src|href)="(?!#)', text)


def test_for_scripts(typed):
    status, out, _ = typed("--quick", "--trials", "11", "--out", "o", "--json")
    said = json.loads(out)
    assert status == 0 and set(said) == {"published", "tables", "page"} and said["page"] == "o/amicl.html"
    assert [row["a"] for row in said["published"]] == [1.0, 1.25, 1.5, 2.0] and said["published"][0]["n"] == 11
    assert all(Path(file).is_file() for file in said["tables"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "--trials must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--out", "file"], "--out must be a folder, and file is a file"),
        (["--trials", "many"], "many"),
    ],
)
def test_wrong_calls_are_one_plain_line(typed, arguments, message):
    Path("file").write_text("")
    status, out, err = typed(*arguments)
    assert status == 2 and out == "" and message in err and err.startswith("workbench: ") and len(err.splitlines()) == 1
    assert os.listdir() == ["file"]
