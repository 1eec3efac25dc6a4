"""The attention viewer of a report, in a browser without a network: what is drawn is what the tables hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import Visit
from tests.figures.synthetic import SMALL
from tests.figures.test_viewer import viewer_run
from tests.report.test_page import NASTY
from workbench.figures.viewer import Payload, ViewerRun, viewer_html, viewer_payload, viewer_script, viewer_style

N = SMALL.n_tokens
PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>x</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<style>{report} {style}</style><body><main><h1 id="top">Page</h1><section id="attention">{html}</section></main>
<script type="module">{script}</script>"""

VIEW = "document.querySelector('.wbv').workbenchViewer"
PIXELS = """selector => {
    const canvas = document.querySelector(selector), {width, height} = canvas;
    return [...canvas.getContext('2d').getImageData(0, 0, width, height).data];
}"""


def opened(visit: Visit, folder: Path, runs: Sequence[ViewerRun], fragment: str = "") -> Visit:
    report = Path(__file__).parent.parent.parent / "workbench" / "report" / "report.css"
    html = viewer_html(viewer_payload(runs))
    page = PAGE.format(report=report.read_text(), style=viewer_style(), html=html, script=viewer_script())
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    visit.page.goto(path.as_uri() + fragment)
    visit.page.wait_for_selector(".wbv[data-ready]")
    return visit


def problems(visit: Visit) -> list[str]:
    """What went wrong, but for advice about the reading of pixels, which only these tests do."""
    return [problem for problem in visit.problems if "willReadFrequently" not in problem]


def state(visit: Visit) -> dict[str, Any]:
    return visit.page.evaluate(f"({{...{VIEW}.state}})")


def table_values(run: ViewerRun, step: int, head: str, sequence: int = 0, column: str = "attention") -> np.ndarray:
    """Values row by row, straight from the table."""
    rows = run.attention[(run.attention["step"] == step) & (run.attention["sequence"] == sequence)]
    rows = rows[(rows["layer"] == int(head[1])) & (rows["head"] == int(head[3]))].sort_values(["destination", "source"])
    return rows[column].to_numpy()


def drawn(visit: Visit, panel: str = "this") -> np.ndarray:
    """Pixels (red, green, blue, alpha) of the lower triangle of a large pattern; nothing is drawn above it."""
    pixels = np.array(visit.page.evaluate(PIXELS, f"[data-panel={panel}] .wbv-cells")).reshape(N, N, 4)
    above = np.triu_indices(N, 1)
    assert (pixels[above] == 0).all()
    return pixels[np.tril_indices(N)]


def colours(visit: Visit, scale: str = "sequential") -> np.ndarray:
    """The 256 colours of a scale, in which no two are alike."""
    packed = visit.page.evaluate(f"[...{VIEW}.{scale}]")
    found = np.array([[value >> shift & 255 for shift in (0, 8, 16, 24)] for value in packed])
    return found


@pytest.fixture
def runs() -> list[ViewerRun]:
    return [viewer_run("none"), viewer_run("value")]


def test_every_checkpoint_draws_its_own_quantised_values(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    opened(visit, tmp_path, runs)
    scale = colours(visit)
    slider = visit.page.locator(".wbv input[type=range]")
    assert len({tuple(colour) for colour in scale}) > 250
    for index in (4, 0, 2, 1, 3):
        slider.fill(str(index))
        step = SMALL.steps[index]
        expected = np.rint(table_values(runs[0], step, "L1H2") * 255).astype(int)
        assert state(visit)["step"] == step
        assert visit.page.evaluate(f"[...{VIEW}.bytes('none', {step}, 'L1H2')]") == expected.tolist()
        np.testing.assert_array_equal(drawn(visit), scale[expected])
        small = np.array(visit.page.evaluate(PIXELS, "[data-head=L0H1] canvas")).reshape(N, N, 4)[np.tril_indices(N)]
        np.testing.assert_array_equal(small, scale[np.rint(table_values(runs[0], step, "L0H1") * 255).astype(int)])
        assert f"step {step}" in visit.page.locator("[data-panel=this] .wbv-title").inner_text()
        assert visit.page.locator(".wbv-step").inner_text() == f"step {step}, checkpoint {index + 1} of 5"
    assert problems(visit) == [] and [url for url in visit.requests if not url.startswith("file:")] == []


def test_sequences_runs_and_colours_draw_their_own_values(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    opened(visit, tmp_path, runs)
    visit.page.evaluate(f"{VIEW}.set({{run: 'value', sequence: 1, step: 200, head: 'L1H0'}})")
    expected = np.rint(table_values(runs[1], 200, "L1H0", 1) * 255).astype(int)
    np.testing.assert_array_equal(drawn(visit), colours(visit)[expected])
    for colour, scale, zero in (("value_weighted", "sequential", 0), ("streamed", "diverging", 128)):
        visit.page.locator("select[name=colour]").select_option(colour)
        visit.page.evaluate(f"{VIEW}.ready")
        values = table_values(runs[1], 200, "L1H0", 1, colour)
        found = visit.page.evaluate(f"[...{VIEW}.values('value', 200, 'L1H0')]")
        np.testing.assert_allclose(found, values, atol=3.01 * 0.51 / 255)
        end = visit.page.evaluate(f"{VIEW}._scale()")
        index = visit.page.evaluate(f"[...{VIEW}.indices('this', 'L1H0')]")
        np.testing.assert_allclose(index, zero + values / end * (255 - zero), atol=1.6)
        np.testing.assert_array_equal(drawn(visit), colours(visit, scale)[index])
    visit.page.locator("[data-head=L0H1]").click()
    assert "this layer receives no stream" in visit.page.locator("[data-panel=this]").inner_text()
    assert (np.array(visit.page.evaluate(PIXELS, "[data-panel=this] .wbv-cells")) == 0).all()
    assert problems(visit) == []


def test_a_difference_is_of_the_two_checkpoints_or_runs_shown(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    opened(visit, tmp_path, runs)
    one = table_values(runs[0], 400, "L1H2")
    for second, at, step in (("none", 100, 100), ("value", None, 400), ("value", 0, 0)):
        visit.page.evaluate("view => document.querySelector('.wbv').workbenchViewer.set(view)", {"second": second, "at": at})
        visit.page.evaluate(f"{VIEW}.ready")
        other = table_values(runs[0 if second == "none" else 1], step, "L1H2")
        np.testing.assert_array_equal(drawn(visit, "other"), colours(visit)[np.rint(other * 255).astype(int)])
        index = np.array(visit.page.evaluate(f"[...{VIEW}.indices('difference', 'L1H2')]"))
        np.testing.assert_allclose(index, 128 + (one - other) * 127, atol=1.1)
        np.testing.assert_array_equal(drawn(visit, "difference"), colours(visit, "diverging")[index])
    visit.page.evaluate(f"{VIEW}.set({{second: 'value', at: null}})")
    visit.page.locator(".wbv input[type=range]").fill("1")
    assert "value, step 100" in visit.page.locator("[data-panel=other] .wbv-title").inner_text()  # they move together
    np.testing.assert_array_equal(drawn(visit, "other"), colours(visit)[np.rint(table_values(runs[1], 100, "L1H2") * 255).astype(int)])
    neutral = colours(visit, "diverging")[128][:3]
    assert neutral.tolist() == [255, 255, 255]


def test_the_head_and_the_lock_survive_the_slider(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    opened(visit, tmp_path, runs)
    visit.page.locator("[data-head=L0H2]").click()
    box = visit.page.locator("[data-panel=this] .wbv-cells").bounding_box()
    assert box
    cell = box["width"] / N
    visit.page.mouse.click(box["x"] + 3.5 * cell, box["y"] + 9.5 * cell)
    for index in ("0", "3"):
        visit.page.locator(".wbv input[type=range]").fill(index)
        assert {name: state(visit)[name] for name in ("head", "lock")} == {"head": "L0H2", "lock": 9}
    assert visit.page.locator("[data-head=L0H2]").get_attribute("aria-pressed") == "true"
    assert visit.page.locator(".wbv [aria-pressed=true]").count() == 1
    assert visit.page.locator("li.destination").inner_text().startswith("w9")
    assert visit.page.locator("li.expected").inner_text().startswith("w6")
    visit.page.mouse.click(box["x"] + 3.5 * cell, box["y"] + 9.5 * cell)
    assert state(visit)["lock"] is None


def test_the_readout_says_what_is_under_the_cursor(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    opened(visit, tmp_path, runs)
    box = visit.page.locator("[data-panel=this] .wbv-cells").bounding_box()
    assert box
    cell = box["width"] / N
    visit.page.mouse.move(box["x"] + 2.5 * cell, box["y"] + 9.5 * cell)
    value = round(table_values(runs[0], 400, "L1H2")[9 * 10 // 2 + 2] * 255) / 255
    assert visit.page.locator(".wbv-readout").inner_text().startswith(f"‘w9’ (9) attends to ‘w2’ (2): {value:.3f}.")
    assert "earlier occurrence is at 5; what followed, the answer, is ‘w6’ (6)" in visit.page.locator(".wbv-readout").inner_text()
    assert visit.page.locator(".wbv-readout").get_attribute("aria-live") == "polite"
    visit.page.mouse.move(0, 0)
    assert "Point at a cell" in visit.page.locator(".wbv-readout").inner_text()


def test_keys_move_the_slider_and_the_cell(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    opened(visit, tmp_path, runs)
    visit.page.locator("[data-head=L0H1]").focus()
    for key, step in (("Home", 0), ("ArrowRight", 100), ("ArrowRight", 200), ("ArrowLeft", 100), ("End", 400), ("ArrowRight", 400)):
        visit.page.keyboard.press(key)
        assert state(visit)["step"] == step
    visit.page.locator(".wbv input[type=range]").focus()
    visit.page.keyboard.press("ArrowLeft")
    assert state(visit)["step"] == 300
    visit.page.keyboard.press("Home")
    visit.page.keyboard.press("Space")
    assert visit.page.get_by_role("button", name="Pause").count() == 1
    visit.page.wait_for_function(f"() => {VIEW}.state.step === 400")
    visit.page.wait_for_function(f"() => !{VIEW}.playing")
    visit.page.locator("[data-panel=this] .wbv-over").focus()
    for key in ("ArrowDown", "ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowLeft", "Enter", "PageUp"):
        visit.page.keyboard.press(key)
    assert (state(visit)["lock"], state(visit)["step"]) == (8, 300)
    assert visit.page.locator(".wbv-readout").inner_text().startswith("‘w8’ (8) attends to ‘w1’ (1)")
    visit.page.keyboard.press("Escape")
    assert state(visit)["lock"] is None


def test_events_and_the_curve_lead_to_their_checkpoints(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    opened(visit, tmp_path, runs)
    visit.page.get_by_role("button", name="2 in-context accuracy: 237").click()
    assert state(visit)["step"] == 200
    visit.page.get_by_role("button", name="1 induction head L1H2: 113").click()
    assert state(visit)["step"] == 100
    box = visit.page.locator(".wbv-chart").bounding_box()
    assert box
    visit.page.mouse.click(box["x"] + box["width"] - 9, box["y"] + 60)
    assert state(visit)["step"] == 400
    visit.page.mouse.click(box["x"] + 45, box["y"] + 60)
    assert state(visit)["step"] == 0


def test_events_say_what_their_numbers_are(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    opened(visit, tmp_path, runs)
    row = visit.page.locator(".wbv-events")
    assert row.count() == 1 and row.locator("span").inner_text() == "Midpoint of each rise, at step:"
    titles = [button.get_attribute("title") for button in row.get_by_role("button").all()]
    assert titles == [
        "Midpoint of the fitted rise: step 113. Go to the nearest checkpoint.",
        "Midpoint of the fitted rise: step 237 (95 % interval over sequences: 229 to 241). Go to the nearest checkpoint.",
    ]
    words = visit.page.locator(".wbv-chart").get_attribute("aria-label") or ""
    assert words.endswith("2 events: induction head L1H2 at step 113, in-context accuracy at step 237 (229 to 241)")


def test_a_second_runs_events_are_marked_under_the_first_ones(visit: Visit, tmp_path: Path) -> None:
    first, second = viewer_run("none"), viewer_run("value")
    assert second.emergence is not None
    # The later event is beyond the first run's last checkpoint: it stands in the list, not on the axis.
    moved = second.emergence.assign(value=[1.0, 9001.0, 322.0, np.nan])
    opened(visit, tmp_path, [first, replace(second, emergence=moved), replace(first, label="calm", emergence=None)])
    plain = visit.page.locator(".wbv-chart").bounding_box()
    filled = """([step, row]) => {
        const viewer = document.querySelector('.wbv').workbenchViewer, ratio = window.devicePixelRatio;
        const x = (viewer._x(viewer._index(step)) + 4) * ratio, y = (16 * row + 5) * ratio;
        return [...viewer.chart.getContext('2d').getImageData(x, y, 1, 1).data];
    }"""
    visit.page.evaluate(f"{VIEW}.set({{second: 'value'}})")
    visit.page.evaluate(f"{VIEW}.ready")
    rows = visit.page.locator(".wbv-events")
    assert [row.get_attribute("data-run") for row in rows.all()] == ["none", "value"]
    assert rows.nth(1).locator("span").inner_text() == "○ value, midpoint of each rise, at step:"
    assert rows.nth(1).get_by_role("button").all_inner_texts() == ["1 induction head L1H2: 322", "2 in-context accuracy: 9001"]
    taller = visit.page.locator(".wbv-chart").bounding_box()
    assert plain and taller and taller["height"] == plain["height"] + 16
    # Full for the first run, hollow for the second (the card's colour inside), nothing at the end of the axis.
    full, hollow, none = (visit.page.evaluate(filled, place) for place in ([113, 0], [322, 1], [400, 1]))
    assert full[3] == hollow[3] == 255 and sum(hollow[:3]) > 600 > sum(full[:3]) and none[3] == 0
    rows.nth(1).get_by_role("button").first.click()
    assert (state(visit)["step"], state(visit)["at"]) == (300, None)
    visit.page.evaluate(f"{VIEW}.set({{at: 100}})")
    rows.nth(1).get_by_role("button").first.click()
    rows.nth(0).get_by_role("button").first.click()
    assert (state(visit)["step"], state(visit)["at"]) == (100, 300)
    for other in ("none", "calm"):  # the same run again, and one without events
        visit.page.evaluate("label => document.querySelector('.wbv').workbenchViewer.set({second: label})", other)
        visit.page.evaluate(f"{VIEW}.ready")
        assert rows.count() == 1 and rows.locator("span").inner_text() == "Midpoint of each rise, at step:"
    assert problems(visit) == []


def test_damaged_patterns_are_reported_and_base64_is_read_by_older_browsers(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    visit.page.add_init_script("delete Uint8Array.fromBase64")
    opened(visit, tmp_path, runs)
    np.testing.assert_array_equal(drawn(visit), colours(visit)[np.rint(table_values(runs[0], 400, "L1H2") * 255).astype(int)])
    payload = viewer_payload(runs)
    damaged = Payload(payload.manifest, {name: blob[: len(blob) // 2] + b"?" * 40 for name, blob in payload.blobs.items()})
    path = tmp_path / "damaged.html"
    path.write_text(PAGE.format(report="", style="", html=viewer_html(damaged), script=viewer_script()), encoding="utf-8")
    visit.page.goto(path.as_uri())
    visit.page.wait_for_selector(".wbv-error")
    assert "cannot be unpacked" in visit.page.locator(".wbv-error").inner_text() and problems(visit) == []


def test_the_address_restores_a_view_in_a_new_page(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    opened(visit, tmp_path, runs)
    assert "#" not in visit.page.url
    view = {"run": "value", "second": "none", "step": 100, "at": 300, "head": "L1H0", "sequence": 1, "colour": "value_weighted"}
    view |= {"lock": 7, "small": "difference"}
    visit.page.evaluate("view => document.querySelector('.wbv').workbenchViewer.set(view)", view)
    visit.page.wait_for_function("() => location.hash.startsWith('#attention?')")
    address = visit.page.url
    other = visit.page.context.new_page()
    other.goto(address)
    other.wait_for_selector(".wbv[data-ready]")
    assert other.evaluate(f"({{...{VIEW}.state}})") == view
    assert other.locator("select[name=at]").input_value() == "300"
    # Anchors of the page still work, and a link from elsewhere in the page moves the view.
    other.evaluate("location.hash = '#top'")
    assert other.evaluate(f"({{...{VIEW}.state}})") == view
    other.evaluate("location.hash = '#attention?step=210&head=L0H1'")
    other.wait_for_function(f"() => {VIEW}.state.head === 'L0H1'")
    assert other.evaluate(f"{VIEW}.state.step") == 200 and other.evaluate(f"{VIEW}.state.lock") is None
    # What these data do not have becomes the nearest that they have.
    other.goto(address.split("#")[0] + "#attention?run=gone&step=x&head=L9H9&sequence=77&colour=__proto__&lock=-3&small=toString")
    other.reload()
    other.wait_for_selector(".wbv[data-ready]")
    found = other.evaluate(f"({{...{VIEW}.state}})")
    assert found == {
        **found,
        "run": "none",
        "step": 400,
        "head": "L0H0",
        "sequence": 0,
        "colour": "attention",
        "lock": None,
        "small": "this",
    }


def test_ugly_tokens_and_names_are_shown_and_execute_nothing(visit: Visit, tmp_path: Path) -> None:
    visit.page.add_init_script("window.executed = 0")
    run = viewer_run(words=NASTY)
    run = ViewerRun(NASTY[1], run.attention, run.tokens, roles={"L1H2": NASTY[0]}, formation=run.formation)
    opened(visit, tmp_path, [run, ViewerRun(NASTY[0], run.attention, run.tokens)])
    visit.page.evaluate("view => document.querySelector('.wbv').workbenchViewer.set(view)", {"second": NASTY[0], "lock": 10})
    visit.page.locator("[data-panel=this] .wbv-over").hover()
    shown = visit.page.locator("ol.wbv-tokens bdi").all_text_contents()
    assert shown == [text.replace(" ", "␣").replace("\n", "⏎").replace("\u202e", "\\u202e") for text in NASTY]
    assert NASTY[1] in visit.page.locator("select[name=run]").inner_text()
    assert visit.page.evaluate("window.executed") == 0 and visit.page.locator("img").count() == 0
    assert visit.dialogs == [] and problems(visit) == []


@pytest.mark.parametrize(("width", "scheme"), [(800, "light"), (800, "dark"), (400, "light")])
def test_no_width_scrolls_sideways_and_dark_pages_have_dark_patterns(
    visit: Visit, runs: list[ViewerRun], tmp_path: Path, width: int, scheme: str
) -> None:
    visit.page.set_viewport_size({"width": width, "height": 900})
    visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    opened(visit, tmp_path, runs, "#attention?second=value&small=difference")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    # Zero is the lightest colour of a light page and the darkest of a dark one.
    for scale, zero, end in (("sequential", 0, 255), ("diverging", 128, 255)):
        found = colours(visit, scale)[:, :3].sum(axis=1)
        assert (found[zero] > found[end]) == (scheme == "light")
    before = visit.page.evaluate(f"{VIEW}.sequential[0]")
    visit.page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
    visit.page.wait_for_function("dark => document.querySelector('.wbv').workbenchViewer.sequential[0] !== dark", arg=before)
    found = colours(visit)[:, :3].sum(axis=1)
    assert (found[0] > found[255]) == (scheme == "dark")
    np.testing.assert_array_equal(drawn(visit), colours(visit)[np.rint(table_values(runs[0], 400, state(visit)["head"]) * 255).astype(int)])


def test_a_browser_that_cannot_unpack_says_so(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    visit.page.add_init_script("delete window.DecompressionStream")
    path = tmp_path / "page.html"
    path.write_text(PAGE.format(report="", style="", html=viewer_html(viewer_payload(runs)), script=viewer_script()), encoding="utf-8")
    visit.page.goto(path.as_uri())
    visit.page.wait_for_selector(".wbv-error")
    assert "no DecompressionStream" in visit.page.locator(".wbv-error").inner_text()


def test_in_a_notebook_the_view_is_the_models_traits(visit: Visit, runs: list[ViewerRun], tmp_path: Path) -> None:
    payload = viewer_payload(runs)
    script = viewer_script().replace("export default", "window.widget =").replace("mountAll();\n", "", 1)
    held = {"manifest": payload.manifest, "bytes": {name: list(blob) for name, blob in payload.blobs.items()}, "step": 210, "head": "L0H1"}
    page = f"<!DOCTYPE html><style>{viewer_style()}</style><div id=cell></div><script type=module>{script}</script>"
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    visit.page.goto(path.as_uri())
    visit.page.evaluate(
        """held => {
            const heard = {}, values = {...held, blobs: {}, saved: 0};
            for (const [name, bytes] of Object.entries(held.bytes)) values.blobs[name] = new DataView(Uint8Array.from(bytes).buffer);
            window.model = {
                get: name => values[name], save_changes: () => values.saved++, off: name => delete heard[name],
                set: (name, value) => { const old = values[name]; values[name] = value; if (old !== value) heard[`change:${name}`]?.(); },
                on: (name, call) => (heard[name] = call), heard,
            };
            window.leave = widget.render({model, el: document.querySelector('#cell')});
        }""",
        held,
    )
    visit.page.wait_for_selector(".wbv[data-ready]")
    # What was set before is kept, as the nearest that there is; the rest is filled in.
    traits = "() => Object.fromEntries(['run', 'step', 'head', 'sequence', 'colour', 'lock'].map(name => [name, model.get(name)]))"
    expected = {"run": "none", "step": 200, "head": "L0H1", "sequence": 0, "colour": "attention", "lock": None}
    assert visit.page.evaluate(traits) == expected
    visit.page.evaluate("model.set('step', 100)")
    np.testing.assert_array_equal(drawn(visit), colours(visit)[np.rint(table_values(runs[0], 100, "L0H1") * 255).astype(int)])
    visit.page.locator("[data-head=L1H0]").click()
    assert visit.page.evaluate(traits) == {**expected, "step": 100, "head": "L1H0"} and visit.page.evaluate("model.get('saved')") > 0
    assert "#" not in visit.page.url
    visit.page.evaluate("leave()")
    assert visit.page.evaluate("Object.keys(model.heard)") == [] and problems(visit) == []
