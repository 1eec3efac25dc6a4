"""What a notebook shows, and the shortcuts that it calls: equal to what they stand for, escaped, light, and quiet about damage."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
import torch

from tests.small_runs import small_config, untrained_run
from workbench import analyze, compare
from workbench.errors import UsageError
from workbench.representation import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, curve_svg
from workbench.training.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = train(small_config(), tmp_path_factory.mktemp("runs") / "a & <b>", progress=False)
    run.analyze("formation", sequences=17)
    return run


def points(svg: str) -> list[tuple[float, float]]:
    [line] = re.findall(r'<polyline points="([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in (place.split(",") for place in line.split())]


def test_a_curve_reaches_the_corners_of_its_axes():
    svg = curve_svg([(2, 0.0), (4, 0.25), (10, 1.0)], title="a < b & c")
    bottom, left, right = HEIGHT - BOTTOM, LEFT, WIDTH - RIGHT
    assert points(svg) == [(left, bottom), (left + (right - left) / 4, bottom - (bottom - TOP) / 4), (right, TOP)]
    picture = ElementTree.fromstring(svg)
    assert picture.find("{*}title").text == "a < b & c: 0 at step 2, 1 at step 10" and "a < b & c" in [text.text for text in picture]


def test_a_curve_of_few_many_or_no_points():
    assert curve_svg([], title="x") == "" == curve_svg([(1, float("nan")), (2, float("inf"))], title="x")
    assert points(curve_svg([(3, 0.5)], title="x")) == [(LEFT, TOP + (HEIGHT - BOTTOM - TOP) / 2)]
    many = points(curve_svg([(step, step / 1999) for step in range(2000)], title="x"))
    assert len(many) <= MOST_POINTS + 1 and many[0] == (LEFT, HEIGHT - BOTTOM) and many[-1] == (WIDTH - RIGHT, TOP)
    for n in range(1, 700, 13):
        assert points(curve_svg([(step, 1.0) for step in range(n)], title="x"))[-1][0] == pytest.approx(LEFT if n == 1 else WIDTH - RIGHT)
    loss = points(curve_svg([(0, 4.0), (1, 1.0)], title="x", highest=None))
    assert loss[0][1] == TOP and loss[1][1] == pytest.approx(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) / 4)
    ElementTree.fromstring(curve_svg([(0, 0.0), (1, 0.0)], title="x", highest=None))


def test_a_run_shows_what_it_is_and_what_was_said(run):
    page = run._repr_html_()
    assert "a &amp; &lt;b&gt;" in page and "<b>a &amp; &lt;b&gt;</b>" in page and "<b></b>" not in page
    body = ElementTree.fromstring(f"<div>{page}</div>")
    cells = {row.find("th").text: row.find("td").text for row in body.iter("tr")}
    assert cells["variant"] == "value, seed 0" and cells["trained"] == "step 4 of 4" and cells["saved"] == "5 checkpoints, steps 0 to 4"
    assert cells["folder"] == str(run.path) and "trigger-bigram" in cells["task"]
    assert [item.text for item in body.iter("li")] == run.summary()["lines"]
    logged = run.metrics()
    heights = [HEIGHT - BOTTOM - value * (HEIGHT - BOTTOM - TOP) for value in logged["in_context_accuracy"].dropna()]
    assert [y for _, y in points(page)] == pytest.approx(heights, abs=0.06)
    assert repr(run) == f"Run({str(run.path)!r}, value, seed 0, 5 checkpoints)"


def test_a_run_without_task_metrics_or_analysis(tmp_path):
    run = untrained_run(tmp_path / "x", steps=2)
    with pytest.raises(UsageError, match=r"has not been analysed; call run\.analyze\(\) first"):
        run.report()
    page = run._repr_html_()
    assert "run.analyze()" in page and "<svg" not in page and "trained" not in page
    run.log({"step": 1, "loss": 2.0})
    run.log({"step": 2, "note": "no number"})
    assert "Loss: 2 at step 1" in run._repr_html_()
    run.tables.write_summary({"lines": ["1 < 2 <i>heads</i>"]})
    assert "<li>1 &lt; 2 &lt;i&gt;heads&lt;/i&gt;</li>" in run._repr_html_()
    (run.path / "metrics.jsonl").write_text("{broken\n{}\n")
    assert "line 1: damaged" in run._repr_html_() and "<table" not in run._repr_html_()


def test_showing_a_run_is_light(run):
    code = (
        "import sys, workbench, workbench.runs; run = workbench.Run.load(sys.argv[1]); assert '<svg' in run._repr_html_()\n"
        "print(sorted({'torch', 'plotly', 'pandas', 'numpy', 'transformer_lens'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, run.path], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_shortcuts_are_what_they_stand_for(run, tmp_path):
    table = run.analyze("formation", sequences=17, write=False)
    pd.testing.assert_frame_equal(table, analyze(run, only=["formation"], sequences=17, write=False))
    loss = run.analyze(only="loss", steps=[2, 4], sequences=17, write=False)
    assert set(loss["metric"]) == {"loss"} and set(loss["step"].dropna()) == {2, 4}
    with pytest.raises(UsageError, match=r"unknown section or metric 'formaton'; did you mean formation\?"):
        run.analyze("formaton")
    assert run.report() == run.report_path and "</html>" in run.report_path.read_text()
    assert run.report(tmp_path / "r.html").is_file()


def test_attention_at_any_checkpoint(run):
    """Against the cache of the model of that step, on the sequence that the analysis also draws first."""
    from workbench.analysis.data import AnalysisData

    data = AnalysisData.of_run(run)
    for step, sequence in ((None, 0), (1, 0), (4, 3)):
        table = run.attention(step, sequence)
        tokens = data.batches[data.own].tokens[sequence]
        _, cache = run.model(step).run_with_cache(tokens[None])
        assert set(table["step"]) == {4 if step is None else step} and set(table["sequence"]) == {sequence}
        for row in table.sample(41, random_state=0).itertuples():
            expected = cache["pattern", row.layer][0, row.head, row.destination, row.source]
            assert row.attention == pytest.approx(expected.item(), abs=1e-6)
            names = run.task.to_strings([int(tokens[row.destination]), int(tokens[row.source])])
            assert [row.destination_token, row.source_token] == names
        sums = table.groupby(["layer", "head", "destination"])["attention"].sum()
        assert len(sums) == 2 * 3 * 13 and np.allclose(sums, 1, atol=1e-6)
    assert not np.allclose(run.attention(0)["attention"], run.attention(4)["attention"])


def test_what_attention_refuses(run):
    for wrong in (-1, 256):
        with pytest.raises(UsageError, match=f"sequence must be between 0 and 255, got {wrong}"):
            run.attention(sequence=wrong)
    with pytest.raises(UsageError, match="no checkpoint of step 7; it has 0, 1, 2, 3, 4"):
        run.attention(7)


def test_attention_of_a_run_without_a_task(tmp_path):
    run = untrained_run(tmp_path / "x")
    table = run.attention()
    assert set(table["destination"]) == set(range(16)) and torch.tensor(table["attention"].to_numpy()).isfinite().all()


def test_a_comparison_shows_its_sentences_and_table(tmp_path):
    for stream in ("none", "value"):
        for seed in (0, 1):
            train(small_config(model={"stream": stream, "seed": seed}), tmp_path / stream / f"seed_{seed}", progress=False)
    found = compare(tmp_path, metric="loss")
    body = ElementTree.fromstring(f"<div>{found._repr_html_()}</div>")
    assert [item.text for item in body.iter("li")] == found.sentences
    assert [[cell.text or "" for cell in row] for row in body.find("table").iter("tr")] == [found.head, *found.rows]
    assert body.find("p").text == " ".join((*found.legend, *found.notes))
