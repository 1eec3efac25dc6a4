"""The tables behind a report: what they hold, and in a browser how they are sorted, searched and saved."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from tests.browser import Visit
from tests.report.conftest import make_run
from workbench.report import tables
from workbench.report.blocks import entries
from workbench.report.build import write_report
from workbench.report.tables import tables_section

UGLY = '</script><img src=x onerror="window.executed=1">,"\n'
BODY = "() => [...document.querySelectorAll('details.data[open] tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"


def events() -> pd.DataFrame:
    rows = [("none", "ö", 120.0), ("none", UGLY, None), ("none", "head", 90.25), ("none", "head", 1234567.891)]
    return pd.DataFrame(rows, columns=["run", "part", "value"]).assign(step=float("nan"), empty=None, metric="event")


def test_each_table_is_that_of_the_last_step_without_empty_columns() -> None:
    run = make_run("none")
    run.tables["emergence"] = events()
    section = tables_section(entries([run, make_run("value")]))
    assert section is not None
    note, first, second = section.blocks
    assert note.kind == "note"
    assert first.data["name"] == "emergence" and first.data["columns"] == ["run", "part", "value", "metric"]
    assert first.data["rows"] == [
        ["none", "ö", 120.0, "event"],
        ["none", UGLY, None, "event"],
        ["none", "head", 90.25, "event"],
        ["none", "head", 1234570.0, "event"],
    ]
    formation = run.tables["formation"]
    at = second.data["columns"].index("step")
    assert {row[at] for row in second.data["rows"]} == {formation["step"].max()}
    assert len(second.data["rows"]) == 2 * (formation["step"] == formation["step"].max()).sum()


def test_without_a_table_there_is_no_section() -> None:
    run = make_run("none")
    run.tables.clear()
    assert tables_section(entries([run])) is None


def test_a_long_table_says_that_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 3)
    run = make_run("none")
    run.tables = {"emergence": events()}
    section = tables_section(entries([run]))
    assert section is not None
    assert section.blocks[1].text.endswith("(4 rows, the first 3 here)") and len(section.blocks[1].data["rows"]) == 3


def test_sort_search_and_save(visit: Visit, tmp_path: Path) -> None:
    run = make_run("none")
    run.tables["emergence"] = events()
    page = visit.open(write_report([run], tmp_path / "report.html"))
    page.evaluate("window.executed = 0")
    page.locator("#tables summary").first.click()
    page.wait_for_selector("details.data[open] tbody tr")
    assert [row[1:3] for row in page.evaluate(BODY)] == [["ö", "120"], [UGLY, ""], ["head", "90.25"], ["head", "1234570"]]

    by_value = page.locator("details.data[open] th button", has_text="value")
    by_value.click()
    assert [row[2] for row in page.evaluate(BODY)] == ["90.25", "120", "1234570", ""]
    by_value.click()
    assert [row[2] for row in page.evaluate(BODY)] == ["1234570", "120", "90.25", ""]
    assert page.locator("details.data[open] th[aria-sort=descending]").text_content() == "value"

    page.get_by_role("searchbox", name="Rows of emergence that hold").fill("HEAD 90")
    assert [row[2] for row in page.evaluate(BODY)] == ["90.25"]
    assert page.locator("details.data[open] [role=status]").text_content() == "1 of 4 rows"
    page.get_by_role("searchbox").first.fill("")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download CSV").first.click()
    assert saved.value.suggested_filename == "emergence.csv"
    with Path(saved.value.path()).open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["run", "part", "value", "metric"] and rows[-1] == ["none", UGLY, "", "event"]
    assert page.evaluate("window.executed") == 0 and visit.problems == [] and visit.dialogs == []
