"""The section hijack on models whose strengths are known, and against loops."""

import numpy as np
import pytest
import torch

from tests.reference_model import random_model
from workbench.analysis import hijack_measure, interventions
from workbench.analysis.data import AnalysisData
from workbench.analysis.roles import Head, Roles
from workbench.config import RepeatedTokensConfig, TriggerBigramConfig
from workbench.model.constructed import Strengths, associative_memory
from workbench.tasks import make_task

TASK = make_task(TriggerBigramConfig(d_vocab=23, seq_len=47, n_triggers=3))
ROLES = Roles(previous_token=(Head(0, 0),), induction=(Head(1, 0),))


def measured(model, roles=ROLES, task=TASK):
    data = AnalysisData.draw(model.config, task, sequences=4)
    rows = list(hijack_measure.measure(model, data, roles))
    return {(row["metric"], row.get("part") or row.get("condition")): row for row in rows}, data.hijack_prompts


def built(strengths, **options):
    return associative_memory(TASK.language.bigram, 47, strengths, TASK.fixed_triggers.tolist(), **options)


@pytest.mark.parametrize(("options", "t1"), [({}, 1.0), ({"stream": True, "positions": "relative"}, 2.5)])
def test_the_strengths_of_a_constructed_model(options, t1):
    rows, prompts = measured(built(Strengths(t1=t1, t2=6.0, t3=0.8), **options))
    for part, value in (("t1", t1), ("t2", 6.0), ("t3", 0.8)):
        row = rows["hijack_strength", part]
        assert row["value"] == pytest.approx(value, rel=0.02) and row["ci_low"] <= row["value"] * 1.01 and row["n"] == len(prompts) // 2
    for part in ("closed form", "attention of the induction heads"):
        assert rows["hijack_r2", part]["value"] > 0.999 and rows["hijack_sign_agreement", part]["value"] > 0.99
    strong, _ = measured(built(Strengths(t1=t1, t2=60.0, t3=0.8), **options))
    assert strong["hijack_rate", None]["value"] < rows["hijack_rate", None]["value"]


def test_margins_rates_and_gaps_against_loops():
    model = random_model(n_layers=2, n_heads=3, d_vocab=23, n_ctx=47)
    heads = (Head(1, 2), Head(0, 1))
    rows, prompts = measured(model, Roles(induction=heads))
    few = prompts[:9]
    found = hijack_measure.answers(model, few, heads)
    logits, cache = model.run_with_cache(few.tokens)
    for i in range(9):
        c, g = few.design["context"][i].item(), few.design["prior"][i].item()
        assert found.margins[i].item() == pytest.approx((logits[i, -1, c] - logits[i, -1, g]).item())
        gap = 0.0
        for head in heads:
            pattern = cache["pattern", head.layer][i, head.head, -1]
            for s, token in enumerate(few.tokens[i].tolist()):
                gap += pattern[s].item() * ((token == c) - (token == g)) / 2
        assert found.gaps[i].item() == pytest.approx(gap)
    margins = hijack_measure.answers(model, prompts).margins
    shown = [i for i in range(len(prompts)) if prompts.design["n_context"][i] > 0]
    assert rows["hijack_rate", None]["value"] == pytest.approx(np.mean([margins[i].item() < 0 for i in shown]))
    assert rows["hijack_margin", None]["value"] == pytest.approx(np.mean([margins[i].item() for i in shown]), rel=1e-5)
    for name, value in (("n_context", 2), ("n_prior", 1), ("distance", 8)):
        of_cell = [margins[i].item() for i in shown if prompts.design[name][i] == value]
        assert rows["hijack_margin", f"{name} {value}"]["value"] == pytest.approx(np.mean(of_cell), rel=1e-5)
        assert rows["hijack_margin", f"{name} {value}"]["n"] == len(of_cell)
    assert ("hijack_margin", "n_context 0") not in rows


def test_chunks_change_nothing(monkeypatch):
    model = random_model(n_layers=2, d_vocab=23, n_ctx=47)
    whole, prompts = measured(model)
    monkeypatch.setattr(interventions, "PAIRS", 7 * 47**2)
    pieces, _ = measured(model)
    assert whole.keys() == pieces.keys() and len(prompts) > 14
    assert all(whole[key]["value"] == pytest.approx(pieces[key]["value"]) for key in whole)


def test_an_untrained_model_is_not_explained():
    rows, _ = measured(random_model(n_layers=2, d_vocab=23, n_ctx=47), Roles())
    assert rows["hijack_r2", "closed form"]["value"] < 0.5
    assert ("hijack_r2", "attention of the induction heads") not in rows


def test_where_there_are_no_prompts():
    model = random_model(n_layers=2, d_vocab=23, n_ctx=47)
    assert measured(model, task=make_task(RepeatedTokensConfig(d_vocab=23, seq_len=46))) == ({}, None)
    short = make_task(TriggerBigramConfig(d_vocab=23, seq_len=4, n_triggers=1))
    rows, prompts = measured(model, task=short)
    assert prompts is not None and prompts.tokens.shape[1] == 4 and set(prompts.design["distance"].tolist()) <= {2, 8, 24}
    assert all(torch.isfinite(torch.tensor(row["value"])) for row in rows.values())


def test_the_prompts_are_drawn_once_and_are_the_same_each_time():
    data, again = (AnalysisData.draw(random_model(d_vocab=23, n_ctx=47).config, TASK, seed=3, sequences=4) for _ in range(2))
    assert data.hijack_prompts is data.hijack_prompts
    assert torch.equal(data.hijack_prompts.tokens, again.hijack_prompts.tokens)
