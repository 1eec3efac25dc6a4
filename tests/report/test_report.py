"""What a report says and leaves out, and how it is written."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.browser import unpacked
from tests.figures.synthetic import Sizes, training_metrics
from tests.report.conftest import make_run
from workbench.errors import UsageError, WorkbenchError
from workbench.report import attention
from workbench.report.blocks import Block, Section, entries
from workbench.report.build import render_report, write_report


def section_ids(html: str) -> list[str]:
    return re.findall(r'<section id="([\w-]+)">', html)


def visible(html: str) -> str:
    """The page without scripts and styles."""
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", html, flags=re.DOTALL)


def circuitsvis(section: Section) -> list[Block]:
    return [block for block in section.blocks if block.kind == "attention"]


def test_a_full_report_has_every_section_once_and_each_library_once(tmp_path: Path) -> None:
    path = write_report([make_run("none"), make_run("value")], tmp_path / "new" / "report.html")
    html = path.read_text(encoding="utf-8")
    assert section_ids(html) == ["summary", "formation", "circuit", "heads", "attention", "tables", "provenance"]
    assert html.count('data-library="circuitsvis"') == 1
    assert html.count('data-library="plotly"') == 1
    assert html.count("CircuitsVis.render(") == 2
    assert os.listdir(path.parent) == ["report.html"]
    assert not re.search(r'(src|href)="(?!#)', visible(html))


def test_the_summary_holds_words_and_numbers_of_each_run() -> None:
    run = make_run("value", seed=3)
    assert run.words is not None
    run.words |= {"formed_step": None, "previous_token_head": None, "in_context_accuracy": 0.4321}
    text = visible(render_report([run]))
    for line in run.words["lines"]:
        assert line in text
    for cell in ("<td>value</td>", ">3</td>", "<td>none</td>", "<td>L1H2</td>", ">0.432</td>", ">not reached</td>"):
        assert cell in text


def test_a_run_that_was_not_analysed_has_curves_of_its_training_and_no_heads() -> None:
    run = replace(make_run(), tables={}, words=None)
    html = render_report([run])
    assert section_ids(html) == ["summary", "formation", "provenance"]
    assert "not analysed" in html
    assert 'data-library="circuitsvis"' not in html


def test_a_run_with_nothing_at_all_has_no_empty_section_and_no_library() -> None:
    run = replace(make_run(), tables={}, words=None, training=training_metrics().iloc[:0])
    html = render_report([run])
    assert section_ids(html) == ["summary", "provenance"]
    assert len(html) < 20_000


def test_text_from_outside_is_escaped() -> None:
    run = make_run(name="<b>bold</b>")
    assert run.words is not None
    run.words |= {"lines": ["<i>line</i>"], "induction_heads": ["<u>"]}
    run.provenance = {"machine": "</pre><script>alert(1)</script>", "half": "\ud800"}
    html = render_report([run])
    for raw in ("<b>bold", "<i>line", "<u>", "<script>alert"):
        assert raw not in html
    assert "&lt;i&gt;line&lt;/i&gt;" in html


def test_runs_of_one_name_get_labels_that_differ() -> None:
    runs = [make_run("none", name="seed_0"), make_run("value", name="seed_0"), make_run("value", name="seed_0", seed=1), make_run("key")]
    assert [entry.label for entry in entries(runs)] == ["none/seed_0", "value/seed_0", "value/seed_0 (2)", "key"]


def test_floors_on_which_runs_disagree_are_not_drawn() -> None:
    first, second = make_run("none"), make_run("value")
    assert "floor 2.31" in unpacked(render_report([first, second]))
    assert second.words is not None
    second.words["references"] = {"bigram_loss": 1.97}
    assert "floor " not in unpacked(render_report([first, second]))
    assert "floor 1.97" in unpacked(render_report([second]))


def test_patterns_beyond_the_budget_are_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [make_run("none"), make_run("value")]
    section = attention.attention_section(entries(runs))
    assert section is not None
    monkeypatch.setattr(attention, "PATTERN_BUDGET", len(circuitsvis(section)[0].html) + 1)
    html = render_report(runs)
    assert html.count("CircuitsVis.render(") == 1
    assert "Left out to keep this file small: value." in html


def test_a_long_sequence_is_shown_in_part_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_POSITIONS", 7)
    html = render_report([make_run()])
    assert "The first 7 of 11 positions." in html
    assert len(re.findall(r"<li( class=\"answered\")?><bdi>", html)) == 7


def test_of_many_heads_those_with_a_role_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_HEADS", 3)
    section = attention.attention_section(entries([make_run()]))
    assert section is not None
    assert '"attentionHeadNames":["L0H1","L1H2","L0H0"]' in circuitsvis(section)[0].html
    assert "3 of 6 heads." in render_report([make_run()])


def test_one_run_of_the_largest_size_always_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes(n_layers=2, n_heads=11, n_tokens=127, n_steps=2)
    html = render_report([make_run(sizes=sizes)])
    assert html.count("CircuitsVis.render(") == 1
    assert "16 of 22 heads." in html and "The first 96 of 127 positions." in html
    assert len(html.encode()) < 8_000_000


def test_eight_runs_of_the_size_of_the_demo_fit_in_eight_megabytes() -> None:
    sizes = Sizes(n_layers=2, n_heads=4, n_tokens=64, n_steps=40)
    runs = [make_run(variant, seed, sizes, name=f"{variant}/seed_{seed}") for variant in ("none", "value") for seed in range(4)]
    html = render_report(runs)
    assert len(html.encode()) < 8_000_000
    # Four runs are in the viewer, two of each variant; the others are named.
    assert "Not in this viewer, to keep the file small: none/seed_2, none/seed_3, value/seed_2, value/seed_3." in html


def test_the_viewer_keeps_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = entries([make_run("none"), make_run("value")])
    whole = payload(attention.attention_section(runs))
    monkeypatch.setattr(attention, "VIEWER_BUDGET", int(0.8 * len(whole)))
    less = payload(attention.attention_section(runs))
    assert len(less) <= 0.8 * len(whole) + 100
    for text, sequences in ((whole, 2), (less, 1)):
        for run in json.loads(text)["manifest"]["runs"]:
            assert (len(run["sequences"]), run["all_sequences"]) == (sequences, 2)


def payload(section: Section | None) -> str:
    assert section is not None and section.blocks[0].kind == "viewer"
    return re.findall(r'application/json">(.*?)</script>', section.blocks[0].html)[0]


def test_tables_of_an_earlier_form_are_left_out() -> None:
    run = make_run()
    run.tables["attention"] = run.tables["attention"].rename(columns={"attention": "value"})
    html = render_report([run])
    assert section_ids(html) == ["summary", "formation", "circuit", "heads", "tables", "provenance"]


def test_a_report_on_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one run"):
        write_report([], tmp_path / "report.html")


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match=r"cannot write the report .*file/report\.html"):
        write_report([make_run()], tmp_path / "file" / "report.html")


def test_a_failed_write_leaves_the_old_report_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WorkbenchError, match="No space left on device"):
        write_report([make_run()], path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]
