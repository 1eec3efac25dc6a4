"""What the viewer is given: values against the tables, unpacked by other means, and what is left out where there is too much."""

from __future__ import annotations

import base64
import itertools
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.figures.synthetic import SMALL, Sizes, attention_table, formation_table, tokens_table
from tests.report.conftest import make_run
from tests.report.test_page import NASTY
from workbench.errors import UsageError
from workbench.figures import viewer
from workbench.figures.attention import visible_token
from workbench.figures.viewer import Payload, ViewerRun, _evenly, viewer_html, viewer_payload, viewer_runs, viewer_script

WORDS = [f"w{position}" for position in range(SMALL.n_tokens)]


def viewer_run(variant: str = "none", sizes: Sizes = SMALL, words: list[str] = WORDS) -> ViewerRun:
    words = words if sizes is SMALL else [f"w{position}" for position in range(sizes.n_tokens)]
    emergence = pd.DataFrame(
        {
            "metric": ["reached", "emergence_step", "emergence_step", "emergence_step"],
            "part": ["in-context accuracy", "in-context accuracy", "induction head", "copying"],
            "layer": [None, None, 1, None],
            "head": [None, None, 2, None],
            "value": [1.0, 237.04, 113.0, np.nan],
            "ci_low": [1.0, 228.96, None, None],
            "ci_high": [1.0, 241.0, None, None],
        }
    )
    return ViewerRun(
        variant,
        attention_table(variant, variant, sizes=sizes),
        tokens_table(words, variant, variant),
        stream=variant,
        roles={"L0H1": "previous-token head", "L1H2": "induction head"},
        formation=formation_table(variant, variant, sizes=sizes),
        emergence=emergence,
    )


def unpacked(payload: Payload, run: int, sequence: int, colour: str) -> np.ndarray:
    """Values [step, head, destination, source] of a colour, NaN above the diagonal: byte after byte."""
    manifest = payload.manifest["runs"][run]
    n, heads, steps = manifest["positions"], len(manifest["heads"]), len(manifest["steps"])
    cells = n * (n + 1) // 2

    def undone(name: str, each: int) -> list[int]:
        data = zlib.decompress(payload.blobs[f"{run}/{sequence}/{name}"])
        assert len(data) == steps * each
        found: list[int] = []
        for index, byte in enumerate(data):
            found.append((byte + (found[index - each] if index >= each else 0)) % 256)
        return found

    about = manifest["colours"][colour]
    values = np.full((steps, heads, n, n), np.nan)
    attention = undone("attention", heads * cells)
    other = undone(colour, heads * cells if about["kind"] != "factors" else 2 * heads * n)
    for step, head in np.ndindex(steps, heads):
        cell = (step * heads + head) * cells
        for t in range(n):
            for s in range(t + 1):
                if about["kind"] == "signed":
                    values[step, head, t, s] = (other[cell] - 128) / 127 * about["scales"][head]
                else:
                    values[step, head, t, s] = attention[cell] / 255
                if about["kind"] == "factors":
                    low, high = (other[(2 * step + part) * heads * n + head * n + s] for part in (0, 1))
                    values[step, head, t, s] *= (low + 256 * high - about["offset"]) * about["factor"]
                cell += 1
    return values


def expected(table: pd.DataFrame, sequence: int, column: str, sizes: Sizes = SMALL) -> np.ndarray:
    values = np.full((sizes.n_steps, sizes.n_layers * sizes.n_heads, sizes.n_tokens, sizes.n_tokens), np.nan)
    for row in table[table["sequence"] == sequence].itertuples():
        place = (sizes.steps.index(row.step), row.layer * sizes.n_heads + row.head, row.destination, row.source)  # type: ignore[operator, index]
        values[place] = getattr(row, column)
    return values


@pytest.mark.parametrize("variant", ["none", "value", "key"])
def test_the_payload_holds_the_values_of_the_tables(variant: str) -> None:
    run = viewer_run(variant)
    shuffled = replace(run, attention=run.attention.sample(frac=1, random_state=0))
    payload = viewer_payload([viewer_run("query"), shuffled])
    manifest = payload.manifest["runs"][1]
    assert manifest["steps"] == SMALL.steps and manifest["sequences"] == [0, 1]
    assert manifest["heads"] == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]
    for sequence in (0, 1):
        attention = expected(run.attention, sequence, "attention")
        np.testing.assert_allclose(unpacked(payload, 1, sequence, "attention"), attention, atol=0.5 / 255 + 1e-6)
        weighted = expected(run.attention, sequence, "value_weighted")
        np.testing.assert_allclose(unpacked(payload, 1, sequence, "value_weighted"), weighted, atol=3.01 * 0.5 / 255)
        if variant != "none":
            assert manifest["colours"]["streamed"]["heads"] == ["L1H0", "L1H1", "L1H2"]
            streamed = expected(run.attention, sequence, "streamed")[:, 3:]
            scale = manifest["colours"]["streamed"]["scales"][3:]
            np.testing.assert_allclose(np.nanmax(np.abs(streamed)), max(scale), rtol=0.5)
            error = max(scale) * 0.51 / 127 if variant == "key" else 3.01 * 0.51 / 255
            np.testing.assert_allclose(unpacked(payload, 1, sequence, "streamed")[:, 3:], streamed, atol=error)
    assert ("streamed" in manifest["colours"]) == (variant != "none")


def test_scales_are_each_heads_largest_value_over_all_steps() -> None:
    run = viewer_run("value")
    colours = viewer_payload([run]).manifest["runs"][0]["colours"]
    for head, scale in enumerate(colours["value_weighted"]["scales"]):
        rows = run.attention[(run.attention["layer"] == head // 3) & (run.attention["head"] == head % 3)]
        assert scale == pytest.approx(rows["value_weighted"].max(), rel=1e-4)


def test_curves_events_and_places_are_those_of_the_tables() -> None:
    run = viewer_run()
    manifest = viewer_payload([run]).manifest["runs"][0]
    assert manifest["events"] == [
        {"name": "induction head L1H2", "step": 113.0},
        {"name": "in-context accuracy", "step": 237.0, "interval": [229.0, 241.0]},
    ]
    assert run.emergence is not None
    without = replace(run, emergence=run.emergence.drop(columns=["ci_low", "ci_high"]))
    assert all("interval" not in event for event in viewer_payload([without]).manifest["runs"][0]["events"])
    assert run.formation is not None
    rows = run.formation[run.formation["metric"] == "in_context_accuracy"]
    assert manifest["curves"]["accuracy"] == [(step, round(value, 4)) for step, value in zip(rows["step"], rows["value"], strict=True)]
    own = run.formation[(run.formation["task"] == "trigger-bigram") & (run.formation["metric"] == "prefix_matching_score")]
    own = own[(own["layer"] == 1) & (own["head"] == 2)]
    assert manifest["curves"]["heads"]["L1H2"]["prefix matching"] == [
        (step, round(value, 4)) for step, value in zip(own["step"], own["value"], strict=True)
    ]
    assert manifest["tokens"][1]["text"] == WORDS[::-1]
    assert manifest["tokens"][0]["read_from"] == [-1, -1, -1, -1, 1, -1, -1, -1, -1, 6, -1]
    assert manifest["tokens"][0]["answered"] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]


def test_what_does_not_fit_is_left_out_sequences_first_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fewest in (("FEWEST_STEPS", 8), ("FEWEST_HEADS", 5), ("FEWEST_POSITIONS", 17)):
        monkeypatch.setattr(viewer, name, fewest)
    sizes = Sizes(n_layers=2, n_heads=7, n_tokens=23, n_steps=13)
    run = replace(viewer_run("none", sizes), formation=None)
    whole = viewer_payload([run])
    manifest = whole.manifest["runs"][0]
    assert (len(manifest["sequences"]), len(manifest["steps"]), len(manifest["heads"]), manifest["positions"]) == (2, 13, 14, 23)
    seen = [manifest]
    for part in (0.7, 0.4, 0.25, 0.15, 0.05):
        payload = viewer_payload([run], int(part * whole.size))
        assert payload.size <= part * whole.size
        seen.append(payload.manifest["runs"][0])
    counts = [(len(each["sequences"]), len(each["steps"]), len(each["heads"]), each["positions"]) for each in seen]
    assert counts[1] == (1, 13, 14, 23)
    for more, less in itertools.pairwise(counts):
        assert all(one >= other for one, other in zip(more, less, strict=True)) and more != less
    for each in seen:
        assert (each["steps"][0], each["steps"][-1]) == (sizes.steps[0], sizes.steps[-1])
        assert {"L0H1", "L1H2"} <= set(each["heads"])
        assert (each["analysed"], each["all_sequences"], each["all_heads"], each["all_positions"]) == (13, 2, 14, 23)
    assert counts[-1][1] < 13 and counts[-1][2] < 14 and counts[-1][3] < 23


def test_fifty_checkpoints_of_eight_heads_and_64_tokens_take_less_than_3_megabytes() -> None:
    sizes = Sizes(n_layers=2, n_heads=4, n_tokens=64, n_steps=50)
    payload = viewer_payload([viewer_run("none", sizes)], budget=3_000_000)
    manifest = payload.manifest["runs"][0]
    assert len(viewer_html(payload)) < 3_000_000
    assert len(manifest["steps"]) == 50 and len(manifest["heads"]) == 8 and manifest["positions"] == 64 and manifest["sequences"] == [0, 1]


@pytest.mark.parametrize(
    ("there", "kept", "chosen"),
    [(5, 7, [0, 1, 2, 3, 4]), (41, 21, list(range(0, 41, 2))), (41, 20, []), (8, 3, [0, 4, 7]), (5, 2, [0, 4])],
)
def test_kept_checkpoints_are_even_and_hold_both_ends(there: int, kept: int, chosen: list[int]) -> None:
    found = _evenly(there, kept)
    if kept == 20:
        assert len(found) <= 20 and (found[0], found[-1]) == (0, 40) and max(np.diff(found)) <= 3
    else:
        assert found == chosen


def test_ugly_tokens_stay_inside_their_strings() -> None:
    run = viewer_run(words=NASTY)
    payload = viewer_payload([replace(run, label=NASTY[0])])
    html = viewer_html(payload)
    assert html.isascii()
    assert re.findall(r"<[^>]*>", html) == [
        '<div data-attention-viewer="attention">', '<script type="application/json">', "</script>",
        "<noscript>", "<p>", "</p>", "</noscript>", "</div>",
    ]  # fmt: skip
    held = json.loads(re.findall(r'application/json">(.*?)</script>', html)[0])
    assert held["manifest"]["runs"][0]["label"] == NASTY[0]
    assert held["manifest"]["runs"][0]["tokens"][0]["text"] == [visible_token(text) for text in NASTY]
    assert {name: base64.b64decode(blob) for name, blob in held["blobs"].items()} == payload.blobs
    assert abs(len(html) - payload.size) < 400


def test_the_script_can_stand_in_a_page_and_reaches_for_nothing() -> None:
    script = viewer_script()
    assert "</script" not in script and "<!--" not in script
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|fetch\(|import\s*\(|https?:", script)


def test_wrong_runs_are_refused() -> None:
    run = viewer_run()
    with pytest.raises(UsageError, match="at least one run"):
        viewer_payload([])
    with pytest.raises(UsageError, match="labels, which must differ; got none, none"):
        viewer_payload([run, run])
    with pytest.raises(UsageError, match="lacks the columns value_weighted"):
        viewer_payload([replace(run, attention=run.attention.drop(columns="value_weighted"))])
    with pytest.raises(UsageError, match="tokens table lacks the columns read_from"):
        viewer_payload([replace(run, tokens=run.tokens.drop(columns="read_from"))])
    with pytest.raises(UsageError, match="name must be"):
        viewer_html(viewer_payload([run]), '"><script>')


def test_a_widget_holds_the_same_payload_and_its_view_in_traits() -> None:
    from workbench.figures.widget import AttentionWidget

    widget = AttentionWidget([viewer_run(), viewer_run("value")], step=200, head="L0H2")
    payload = viewer_payload([viewer_run(), viewer_run("value")])
    assert widget.blobs == payload.blobs and widget.manifest == payload.manifest
    assert repr(widget) == "AttentionWidget(none, value: step 200, L0H2, None)"
    state = widget.get_state()
    assert (state["step"], state["head"], state["run"]) == (200, "L0H2", None)
    assert "export default" in state["_esm"] and ".wbv" in state["_css"]
    widget.close()


def test_a_widget_takes_runs_and_tells_those_of_one_name_apart() -> None:
    from workbench.figures.widget import AttentionWidget

    runs = [make_run("none", name="twin"), make_run("value", name="twin"), make_run("value", name="twin"), make_run("key", name="other")]
    widget = AttentionWidget([*runs, viewer_run("none"), viewer_run("other")], step=200)
    labels = ["none/twin", "value/twin", "value/twin (2)", "key/other", "none", "other"]
    assert [run["label"] for run in widget.manifest["runs"]] == labels
    assert [run["stream"] for run in widget.manifest["runs"]] == ["none", "value", "value", "key", "none", "other"]
    widget.close()
    assert [run.label for run in viewer_runs([runs[3], runs[0]])] == ["other", "twin"]
    with pytest.raises(UsageError, match="takes a list of runs; got FakeRun"):
        AttentionWidget(runs[0])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"takes runs \(as Run.load gives them\) or ViewerRuns; got str"):
        AttentionWidget(["runs/none"])
    with pytest.raises(UsageError, match="none has no attention table"):
        AttentionWidget([replace(make_run("none"), tables={})])


def test_a_run_is_shown_by_its_tables_and_its_summary() -> None:
    run = make_run("value")
    shown = ViewerRun.of_run(run, "mine")
    assert (shown.label, shown.stream, shown.roles) == ("mine", "value", {"L0H1": "previous-token head", "L1H2": "induction head"})
    assert shown.attention is run.tables["attention"] and shown.formation is run.tables["formation"] and shown.emergence is None
    assert viewer_payload([shown]).manifest["runs"][0]["colour"] == "#D55E00"
    with pytest.raises(UsageError, match="value has no attention table; analyse it first"):
        ViewerRun.of_run(replace(run, tables={}))
