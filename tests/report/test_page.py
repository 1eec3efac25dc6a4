"""The report in a browser without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import Visit
from tests.figures.synthetic import HEAD_METRICS, SMALL
from tests.report.conftest import FakeRun, make_run
from workbench.report.build import write_report

NASTY = [
    "</script><script>window.executed = 1</script>",
    "<img src=x onerror='window.executed = 2'>",
    "'\"`;window.executed=3;//",
    "\n",
    "שלום",
    "👩‍👩‍👧",
    "${window.executed=4}",
    "{{ 7 * 7 }}",
    "<!--",
    "&lt;",
    "\u202eabc",
]

READ_PANELS = """() => {
    const graph = [...document.querySelectorAll('#heads .js-plotly-plot')].find(plot => plot.layout.sliders);
    return {
        drawn: graph._fullData.map(trace => trace.z.map(row => [...row])),
        data: graph.data.map(trace => trace.z.map(row => [...row])),
        active: graph._fullLayout.sliders[0].active,
        text: [...graph.querySelectorAll('.heatmap-label')].map(label => label.textContent),
    };
}"""

INK = """() => [...document.querySelectorAll('.circuitsvis')].map(block => [...block.querySelectorAll('canvas')].filter(canvas => {
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.some((value, index) => index % 4 === 3 && value > 0);
}).length)"""


def opened(visit: Visit, runs: list[FakeRun], folder: Path) -> Visit:
    visit.open(write_report(runs, folder / "report.html"))
    visit.page.wait_for_function("() => [...document.querySelectorAll('.circuitsvis')].every(block => block.querySelector('canvas'))")
    return visit


@pytest.fixture
def runs() -> list[FakeRun]:
    return [make_run("none"), make_run("value")]


def test_opens_without_an_error_or_a_request(visit: Visit, runs: list[FakeRun], tmp_path: Path) -> None:
    opened(visit, runs, tmp_path)
    assert visit.problems == []
    assert [url for url in visit.requests if not url.startswith("file:")] == []
    assert len(visit.requests) == 1
    # Two curves, the circuit, then curves and a heat map on the own task, and a heat map on the repeats.
    assert visit.page.locator(".js-plotly-plot").count() == 6


def test_the_browser_itself_refuses_requests(visit: Visit, runs: list[FakeRun], tmp_path: Path) -> None:
    opened(visit, runs, tmp_path)
    refused = visit.page.evaluate("() => fetch('https://example.org/').then(() => false, error => String(error))")
    assert refused
    assert any("Content Security Policy" in problem for problem in visit.problems)


def test_every_attention_block_draws_every_head(visit: Visit, runs: list[FakeRun], tmp_path: Path) -> None:
    opened(visit, runs, tmp_path)
    heads = SMALL.n_layers * SMALL.n_heads
    visit.page.wait_for_timeout(300)
    assert visit.page.evaluate(INK) == [heads + 1, heads + 1]  # the small patterns, and the large one
    names = visit.page.locator("#attention-1 h4").all_text_contents()
    assert sorted(names) == [f"L{layer}H{head}" for layer in range(SMALL.n_layers) for head in range(SMALL.n_heads)]
    assert names[:2] == ["L0H1", "L1H2"]


def test_the_slider_shows_the_values_of_its_step(visit: Visit, runs: list[FakeRun], tmp_path: Path) -> None:
    opened(visit, runs, tmp_path)
    rail = visit.page.locator("#heads .slider-rail-touch-rect").first
    rail.scroll_into_view_if_needed()
    box = rail.bounding_box()
    assert box
    seen = set()
    for fraction in (0.02, 0.5, 0.98):
        visit.page.mouse.click(box["x"] + fraction * box["width"], box["y"] + box["height"] / 2)
        visit.page.wait_for_timeout(300)
        shown = visit.page.evaluate(READ_PANELS)
        step = SMALL.steps[shown["active"]]
        seen.add(step)
        expected = [panel(run, metric, step) for run in runs for metric in HEAD_METRICS]
        assert shown["drawn"] == expected
        assert shown["data"] == expected
        assert shown["text"] == [f"{value:.2f}" for grid in expected for row in grid for value in row]
    assert seen == {SMALL.steps[0], SMALL.steps[2], SMALL.steps[4]}
    assert visit.problems == []


def panel(run: FakeRun, metric: str, step: int) -> list[list[float]]:
    table = run.tables["formation"]
    table = table[(table["metric"] == metric) & (table["step"] == step) & (table["task"] == "trigger-bigram")]
    return table.pivot(index="layer", columns="head", values="value").to_numpy().tolist()


def test_nasty_tokens_are_shown_and_execute_nothing(visit: Visit, tmp_path: Path) -> None:
    visit.page.add_init_script("window.executed = 0")
    opened(visit, [make_run(texts=NASTY, name=NASTY[1])], tmp_path)
    assert visit.page.evaluate("window.executed") == 0
    assert visit.dialogs == []
    assert visit.problems == []
    assert visit.page.locator("img").count() == 0
    shown = visit.page.locator("ol.tokens bdi").all_text_contents()
    assert shown == [text.replace(" ", "␣").replace("\n", "⏎").replace("\u202e", "\\u202e") for text in NASTY]
    visit.page.mouse.move(0, 0)
    visit.page.locator("#attention-0 canvas").last.hover()
    assert visit.page.evaluate("window.executed") == 0
    assert visit.page.locator("h1").text_content() == f"In-context learning: {NASTY[1]}"


@pytest.mark.parametrize("width", [800, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_never_scrolls_sideways_and_follows_the_colour_scheme(
    visit: Visit, runs: list[FakeRun], tmp_path: Path, width: int, scheme: str
) -> None:
    visit.page.set_viewport_size({"width": width, "height": 900})
    visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    opened(visit, runs, tmp_path)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in paper.removeprefix("rgb(").removesuffix(")").split(",")) / 3
    assert (brightness > 128) == (scheme == "light")


def test_a_window_made_small_and_large_again_shows_the_patterns_at_their_first_size(
    visit: Visit, runs: list[FakeRun], tmp_path: Path
) -> None:
    opened(visit, runs, tmp_path)
    widths = "() => [...document.querySelectorAll('.circuitsvis canvas')].map(canvas => canvas.clientWidth)"
    before = visit.page.evaluate(widths)
    visit.page.set_viewport_size({"width": 500, "height": 900})
    visit.page.wait_for_function(f"before => ({widths})().every((width, index) => width < before[index])", arg=before)
    visit.page.set_viewport_size({"width": 1280, "height": 900})
    visit.page.wait_for_function(f"before => ({widths})().every((width, index) => width === before[index])", arg=before, timeout=5000)


def test_configuration_is_there_but_folded(visit: Visit, runs: list[FakeRun], tmp_path: Path) -> None:
    opened(visit, runs, tmp_path)
    shown = visit.page.locator("#provenance pre").first
    assert not shown.is_visible()
    visit.page.locator("#provenance summary").first.click()
    assert shown.text_content() == runs[0].config.to_yaml()
