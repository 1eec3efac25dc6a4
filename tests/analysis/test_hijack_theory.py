"""Predictions of margins are fitted on one half of the prompts and judged on the other, and say where they are wrong."""

import numpy as np
import pytest
import torch

from tests.reference_model import random_model
from workbench.analysis.data import AnalysisData
from workbench.analysis.hijack_answers import Answers, answers
from workbench.analysis.hijack_fit import Counts
from workbench.analysis.hijack_theory import ATTENDED, CLOSED_FORM, hijack_boundary_shift, judge, judgement_rows
from workbench.analysis.roles import Head
from workbench.config import TriggerBigramConfig
from workbench.model.constructed import Strengths, associative_memory
from workbench.tasks import make_task

TASK = make_task(TriggerBigramConfig(d_vocab=23, seq_len=47, n_triggers=3))
MODEL = random_model(n_layers=2, d_vocab=23, n_ctx=47)
PROMPTS = AnalysisData.draw(MODEL.config, TASK, sequences=4).hijack_prompts
ODDS = PROMPTS.log_odds.numpy()
GAPS = Counts.of(PROMPTS).gap(1.5)
SHOWN = PROMPTS.design["n_context"].numpy()


def rows_for(margins, gaps=None, conditions=()):
    found = Answers(torch.from_numpy(margins), None if gaps is None else torch.from_numpy(gaps), {})
    judged = judge(PROMPTS, found)
    assert judged is not None
    rows = list(judgement_rows(judged, list(conditions)))
    return {(row["metric"], row.get("part"), row.get("condition")): row for row in rows}, judged


def test_a_model_that_is_the_theory():
    strengths = Strengths(t1=1.5, t2=6.0, t3=0.8)
    model = associative_memory(TASK.language.bigram, 47, strengths, TASK.fixed_triggers.tolist())
    found = answers(model, PROMPTS, (Head(1, 0),))
    rows, judged = rows_for(found.margins.numpy(), found.gaps.numpy(), [("n_context 2", SHOWN == 2)])
    np.testing.assert_allclose(judged.theory_gap, found.gaps.numpy(), atol=1e-3)
    for part, value in (("t1", 1.5), ("t2", 6.0), ("t3", 0.8)):
        assert rows["hijack_strength", part, None]["value"] == pytest.approx(value, rel=0.02)
    for part in (CLOSED_FORM, ATTENDED):
        assert rows["hijack_r2", part, None]["value"] > 0.9999
        assert rows["hijack_sign_agreement", part, None]["value"] > 0.99
        edge = rows["hijack_boundary", part, None]
        assert edge["value"] == pytest.approx(0.8 / 6.0, rel=0.02) and edge["ci_low"] <= edge["value"] * 1.001
    assert abs(rows["hijack_boundary_shift", None, None]["value"]) < 0.05
    for condition in (None, "n_context 2"):
        assert abs(rows["hijack_residual", None, condition]["value"]) < 0.01
    assert rows["hijack_residual", None, "n_context 2"]["n"] == int(((SHOWN == 2) & ~judged.fitted).sum())


def test_halves_are_drawn_by_lot_and_judging_uses_the_other_one():
    margins = 6.0 * GAPS - 0.8 * ODDS
    rows, judged = rows_for(margins)
    assert judged.fitted.sum() == len(margins) - (~judged.fitted).sum() == rows["hijack_strength", "t1", None]["n"]
    for name, values in PROMPTS.design.items():
        for value in values.unique():
            share = judged.fitted[(values == value).numpy()].mean()
            assert 0.35 < share < 0.65, (name, value)
    # What is judged has another law than what was fitted: nothing of it is explained, though the fit is perfect.
    other = np.where(judged.fitted, margins, -margins)
    broken, again = rows_for(other)
    assert broken["hijack_strength", "t2", None]["value"] == pytest.approx(6.0, rel=0.01)
    assert broken["hijack_r2", CLOSED_FORM, None]["value"] < 0 and broken["hijack_sign_agreement", CLOSED_FORM, None]["value"] < 0.05
    np.testing.assert_array_equal(again.fitted, judged.fitted)


def test_which_prompts_break_the_theory():
    """Two nats more for the context wherever it stood twice: the residual says so, and only of these."""
    held = GAPS * 6.0 - 0.8 * ODDS
    conditions = [(f"n_context {n}", PROMPTS.design["n_context"].numpy() == n) for n in (0, 1, 2, 4)]
    rows, judged = rows_for(np.where(SHOWN == 2, held + 2.0, held), conditions=conditions)
    residuals = {name: rows["hijack_residual", None, name]["value"] for name, _ in conditions}
    assert max(residuals, key=lambda name: residuals[name]) == "n_context 2" and residuals["n_context 2"] > 1.0
    for name, chosen in conditions:
        chosen = chosen & ~judged.fitted
        error = judged.margins[chosen] - judged.predicted[CLOSED_FORM][chosen]
        assert rows["hijack_residual", None, name]["value"] == pytest.approx(error.mean())
        agreed = [np.sign(a) == np.sign(b) for a, b in zip(judged.margins[chosen], judged.predicted[CLOSED_FORM][chosen], strict=True)]
        assert rows["hijack_sign_agreement", CLOSED_FORM, name]["value"] == pytest.approx(np.mean(agreed))


def test_the_boundary_shift():
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=401)
    assert abs(hijack_boundary_shift(predicted, predicted)) < 0.02
    # A model that needs 0.7 more to let the context win.
    assert hijack_boundary_shift(predicted, predicted - 0.7) == pytest.approx(0.7, abs=0.02)
    assert np.isnan(hijack_boundary_shift(predicted, predicted - 9)) and np.isnan(hijack_boundary_shift(predicted, predicted + 9))
    many = hijack_boundary_shift(np.stack([predicted, 2 * predicted]), np.stack([predicted - 0.7] * 2))
    assert many[1] == pytest.approx(2 * many[0])


def test_the_line_in_the_attention_gap_has_an_interval_that_covers():
    covered = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 1.0, len(ODDS))
        rows, _ = rows_for(5.0 * GAPS - 0.5 * ODDS + noise, GAPS)
        edge = rows["hijack_boundary", ATTENDED, None]
        covered += edge["ci_low"] <= 0.1 <= edge["ci_high"]
    assert 34 <= covered <= 40


def test_no_boundary_without_a_pull_of_the_context():
    rows, _ = rows_for(-1.5 * ODDS, GAPS)
    assert not [key for key in rows if key[0] == "hijack_boundary"]
    assert rows["hijack_strength", "t3", None]["value"] == pytest.approx(1.5)


def test_noise_and_too_few_prompts():
    rows, _ = rows_for(np.random.default_rng(1).normal(size=len(ODDS)))
    assert rows["hijack_r2", CLOSED_FORM, None]["value"] < 0.15
    few = PROMPTS[:20]
    assert judge(few, answers(MODEL, few)) is None
