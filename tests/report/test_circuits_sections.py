"""The report's sections on circuit matrices and on the stream: who gets one, what is left out, and how they look in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser import Visit
from tests.figures.synthetic_circuits import OF_VALUE, TEXTS, circuits_table, matrices_table, stream_table
from tests.report.conftest import FakeRun, make_run
from workbench.figures.tables import where
from workbench.report import circuits
from workbench.report.blocks import Section, entries
from workbench.report.build import write_report
from workbench.report.sections import SECTIONS


def run_of(variant: str = "value", name: str | None = None, texts: tuple[str, ...] = TEXTS) -> FakeRun:
    run = make_run(variant, name=name)
    specs = OF_VALUE if variant == "value" else tuple(spec for spec in OF_VALUE if spec[1] != "streamed")
    run.tables["circuit_matrices"] = matrices_table(run.name, specs, texts)
    run.tables["circuits"] = circuits_table(run.name, variant)
    if variant != "none":
        run.tables["stream"] = stream_table(run.name, variant)
    return run


def titles(section: Section | None) -> list[str]:
    blocks = [] if section is None else section.blocks
    return [block.text if block.figure is None else block.figure.layout.title.text for block in blocks]  # type: ignore[union-attr]


SPLIT, CUTS = "Own and streamed parts of the induction head", "What the wire carries for the behaviour"


def test_they_stand_between_the_circuit_and_the_heads() -> None:
    runs = entries([run_of("none"), run_of("value")])
    ids = [section.id for build in SECTIONS if (section := build(runs)) is not None]
    assert ids[ids.index("circuit") : ids.index("heads") + 1] == ["circuit", "matrices", "stream", "heads"]


def test_runs_without_the_tables_have_no_section() -> None:
    assert circuits.matrices_section(entries([make_run("value")])) is None
    assert circuits.stream_section(entries([run_of("none"), make_run("value")])) is None
    one = circuits.matrices_section(entries([make_run(), run_of("value", "x")]))
    assert titles(one) == ["Circuit matrices: x"]
    assert titles(circuits.stream_section(entries([run_of("none"), run_of("value")]))) == [SPLIT, CUTS]


def test_without_an_induction_head_only_the_cuts_are_drawn() -> None:
    run = run_of()
    assert run.words is not None
    for heads in ([], ["<u>"], ["L1H1"]):  # none, none that can be read, and one of which the tables hold nothing
        run.words["induction_heads"] = heads
        assert titles(circuits.stream_section(entries([run]))) == [CUTS]
    del run.tables["circuits"]
    run.words["induction_heads"] = ["L1H2"]
    assert titles(circuits.stream_section(entries([run]))) == [SPLIT, CUTS]
    run.tables["stream"] = where(run.tables["stream"], metric="stream_scale")
    assert circuits.stream_section(entries([run])) is None


def test_of_many_runs_the_first_are_drawn_and_the_others_named() -> None:
    runs = [run_of("value", name) for name in "abcdef"]
    found = titles(circuits.matrices_section(entries(runs)))
    assert found[:3] == [f"Circuit matrices: {name}" for name in "abc"]
    assert found[3].startswith("The matrices of these runs are left out to keep this file small: d, e, f.") and len(found) == 4
    section = circuits.stream_section(entries(runs))
    assert section is not None and titles(section)[2].startswith("The streams of these runs are left out to keep this file small: e, f.")
    figure: Any = section.blocks[0].figure
    assert [note.text for note in figure.layout.annotations][-4:] == [f"{name}<br>L1H2" for name in "abcd"]


def test_of_two_runs_of_the_demo_they_stay_small() -> None:
    texts = tuple(f"t{number}" for number in range(65))
    runs = entries([run_of("none", texts=texts), run_of("value", texts=texts)])
    drawn = [block.figure for build in (circuits.matrices_section, circuits.stream_section) for block in build(runs).blocks]  # type: ignore[union-attr]
    assert len(drawn) == 4 and sum(len(figure.to_json()) for figure in drawn if figure) < 300_000


def test_they_open_without_an_error(visit: Visit, tmp_path: Path) -> None:
    visit.page.add_init_script("window.executed = 0")
    texts = ("<img src=x onerror='window.executed = 1'>", "' '", "⏎", "e")
    path = write_report([run_of("none", texts=texts), run_of("value", texts=texts)], tmp_path / "report.html")
    visit.page.set_viewport_size({"width": 800, "height": 900})
    visit.page.goto(path.as_uri())
    for section in ("matrices", "stream"):
        visit.page.locator(f"#{section}").scroll_into_view_if_needed()
        visit.page.wait_for_function(f"() => document.querySelectorAll('#{section} .js-plotly-plot .main-svg').length >= 2")
    visit.page.wait_for_function("() => document.querySelectorAll('#matrices .heatmaplayer image').length >= 3 + 4")
    for width in (800, 1100):
        visit.page.set_viewport_size({"width": width, "height": 900})
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.problems == [] and visit.page.evaluate("window.executed") == 0
