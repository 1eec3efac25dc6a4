"""The report's section on predictions: which runs it draws, and that it is left out where no run predicts tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.figures.synthetic import SMALL, predictions_table
from tests.report.conftest import FakeRun, make_run
from workbench.report import predictions
from workbench.report.blocks import entries
from workbench.report.build import render_report
from workbench.report.predictions import predictions_section

TEXTS = [chr(ord("a") + position % 7) for position in range(SMALL.n_tokens)]


def predicting(variant: str, seed: int = 0, **changes: Any) -> FakeRun:
    run = make_run(variant, seed, name=f"{variant}-{seed}", texts=TEXTS)
    run.tables["predictions"] = predictions_table(TEXTS, run.name, variant, seed).assign(**changes)
    return run


def test_it_stands_below_attention_with_one_sequence_of_each_run() -> None:
    html = render_report([predicting("none"), predicting("value")])
    ids = re.findall(r'<section id="([\w-]+)">', html)
    assert ids[ids.index("attention") + 1] == "predictions"
    assert html.count("CircuitsVis.TokenLogProbs, {") == 2 and html.count('data-library="circuitsvis"') == 1
    assert f"<h3>none-0, step {SMALL.steps[-1]}, sequence 0</h3>" in html
    assert "Underlined in blue" in html


def test_of_several_variants_each_has_a_run_and_the_others_are_named() -> None:
    runs = entries([predicting(*run) for run in (("none", 0), ("none", 1), ("none", 2), ("value", 0))])
    section = predictions_section(runs)
    assert section is not None
    assert [block.data["label"] for block in section.blocks if block.kind == "predictions"] == ["none-0", "none-1", "value-0"]
    assert section.blocks[-1].text.startswith("Predictions left out to keep this file small: none-2.")


def test_a_long_sequence_is_drawn_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MAX_POSITIONS", 5)
    html = render_report([predicting("none")])
    assert f"The first 5 of {SMALL.n_tokens} predictions." in html and html.count('"correctTokenRank":[') == 1
    found = re.search(r'"correctTokenRank":\[([\d,]*)\]', html)
    assert found and len(found[1].split(",")) == 5


def test_runs_without_answers_or_without_predictions() -> None:
    run = predicting("none")
    run.tables["tokens"]["answered"] = False
    assert "Underlined in blue" not in render_report([run])
    assert predictions_section(entries([make_run()])) is None
    # One that has diverged, beside one that has not.
    section = predictions_section(entries([predicting("none", log_prob=float("nan")), predicting("value")]))
    assert section is not None and [block.data["label"] for block in section.blocks[1:]] == ["value-0"]
    assert predictions_section(entries([predicting("none", log_prob=float("nan"))])) is None
