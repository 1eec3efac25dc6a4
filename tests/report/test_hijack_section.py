"""The report's section on knowledge hijack: what it draws of which tables, and how it looks in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser import Visit
from tests.figures.synthetic_hijack import STEPS, hijack_table, prompts_table
from tests.report.conftest import FakeRun, make_run
from workbench.figures.hijack import WINNERS
from workbench.report import sections
from workbench.report.blocks import entries
from workbench.report.build import render_report, write_report


def hijacked_run(variant: str = "none", seed: int = 0, name: str | None = None, steps: tuple[int, ...] = STEPS) -> FakeRun:
    run = make_run(variant, seed, name=name)
    same: dict[str, Any] = {"variant": variant, "seed": seed, "steps": steps}
    run.tables |= {"hijack": hijack_table(run.name, mlp=True, **same), "hijack_prompts": prompts_table(run.name, **same)}
    return run


def titles(*runs: FakeRun) -> list[str]:
    """What the section holds, in its order: titles of figures (up to the run's name), headings and notes."""
    section = sections.hijack_section(entries(runs))
    if section is None:
        return []
    return [block.text if block.figure is None else block.figure.layout.title.text.split(":")[0] for block in section.blocks]


CURVES = "Context against bigrams over training"
OF_EACH = ["Context against bigrams, prompt by prompt", "Margin by number of context pairs", "What the margin is made of"]


def test_curves_of_all_runs_come_first_then_the_figures_of_each() -> None:
    assert titles(hijacked_run("none"), make_run("key"), hijacked_run("value")) == [CURVES, "none", *OF_EACH, "value", *OF_EACH]


def test_the_section_stands_after_the_heads_and_is_absent_without_a_table() -> None:
    html = render_report([hijacked_run()])
    assert titles(make_run()) == []
    assert html.index('<section id="heads">') < html.index('<section id="hijack">') < html.index('<section id="attention">')


def test_a_single_checkpoint_has_no_curves() -> None:
    assert titles(hijacked_run(steps=(0,))) == ["none", *OF_EACH]


def test_of_tables_without_the_newer_rows_only_what_is_there_is_drawn() -> None:
    run = hijacked_run()
    table = run.tables["hijack"]
    run.tables["hijack"] = table[table["metric"].isin(["hijack_rate", "hijack_strength"])]
    assert titles(run) == [CURVES, "none", *OF_EACH[:2]]
    del run.tables["hijack_prompts"]
    assert titles(run) == [CURVES]
    run.tables["hijack"] = table[table["metric"] == "hijack_margin"]
    assert titles(run) == []
    run.tables |= {"hijack": table, "hijack_prompts": prompts_table(gap=False).assign(theory_gap=float("nan"))}
    assert titles(run) == [CURVES, "none", *OF_EACH[1:]]


def test_runs_beyond_the_first_are_named_as_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "MAX_HIJACK_RUNS", 1)
    runs = [hijacked_run("none"), hijacked_run("value", name="<b>"), hijacked_run("key")]
    note = titles(*runs)[-1]
    assert titles(*runs)[:-1] == [CURVES, "none", *OF_EACH]
    assert "<b>, key" in note
    assert "left out to keep this file small: &lt;b&gt;, key." in render_report(runs)


READ_MAP = """() => {
    const graph = [...document.querySelectorAll('#hijack .js-plotly-plot')].find(plot => plot.layout.sliders);
    return {
        heights: graph._fullData.slice(0, 2).map(trace => trace.y.map(height => height ?? null)),
        margins: graph._fullData.slice(0, 2).map(trace => [...trace.marker.color]),
        names: graph._fullData.filter(trace => trace.x.length > 1).map(trace => trace.name),
        active: graph._fullLayout.sliders[0].active,
    };
}"""

BOXES = """() => {
    const box = (plot, name) => plot.querySelector(name)?.getBoundingClientRect().toJSON();
    return [...document.querySelectorAll('#hijack .js-plotly-plot')].map(plot => ({
        card: plot.getBoundingClientRect().toJSON(), legend: box(plot, '.infolayer .legend'), slider: box(plot, '.slider-container'),
        titles: [...plot.querySelectorAll('text[class^="x"][class*="title"]')].map(title => title.getBoundingClientRect().bottom),
    }));
}"""


def test_the_map_follows_its_slider_and_nothing_lies_upon_anything(visit: Visit, tmp_path: Path) -> None:
    visit.page.set_viewport_size({"width": 1100, "height": 900})
    runs = [hijacked_run("value")]
    visit.open(write_report(runs, tmp_path / "report.html"))
    rail = visit.page.locator("#hijack .slider-rail-touch-rect").first
    rail.scroll_into_view_if_needed()
    slider = sections.hijack_map(runs[0].tables["hijack_prompts"], runs[0].tables["hijack"]).layout.sliders[0]
    assert visit.page.evaluate(READ_MAP)["active"] == len(STEPS) - 1
    for fraction, number in ((0.02, 0), (0.5, 2), (0.98, 4)):
        box = rail.bounding_box()
        assert box
        visit.page.mouse.click(box["x"] + fraction * box["width"], box["y"] + box["height"] / 2)
        visit.page.wait_for_timeout(200)
        shown, changes = visit.page.evaluate(READ_MAP), slider.steps[number].args[0]
        assert shown["active"] == number
        assert shown["heights"] == [list(heights) for heights in changes["y"][:2]]
        assert shown["margins"] == [list(changes["marker.color"][0])] * 2
        assert shown["names"] == list(changes["name"]) and shown["names"][:2] == list(WINNERS)
    for width in (1100, 800):
        visit.page.set_viewport_size({"width": width, "height": 900})
        visit.page.wait_for_timeout(500)
        for boxes in visit.page.evaluate(BOXES):
            assert boxes["card"]["right"] <= width
            assert boxes["legend"]["bottom"] <= boxes["card"]["bottom"] + 1
            assert boxes["legend"]["right"] <= boxes["card"]["right"] + 1
            above = [boxes["slider"]["bottom"]] if boxes["slider"] else boxes["titles"]
            assert above and boxes["legend"]["top"] >= max(above) - 1
    assert visit.problems == []
    assert [url for url in visit.requests if not url.startswith("file:")] == []
