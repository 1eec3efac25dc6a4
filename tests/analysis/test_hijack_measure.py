"""The section hijack on models whose strengths are known, and against loops."""

import numpy as np
import pytest
import torch

from tests.reference_model import random_model
from workbench.analysis import hijack_measure
from workbench.analysis.data import AnalysisData
from workbench.analysis.roles import Head, Roles
from workbench.analysis.rows import CASES
from workbench.config import RepeatedTokensConfig, TriggerBigramConfig
from workbench.model.constructed import Strengths, associative_memory
from workbench.tasks import make_task

TASK = make_task(TriggerBigramConfig(d_vocab=23, seq_len=47, n_triggers=3))
ROLES = Roles(previous_token=(Head(0, 0),), induction=(Head(1, 0),))


def measured(model, roles=ROLES, task=TASK):
    data = AnalysisData.draw(model.config, task, sequences=4)
    rows = list(hijack_measure.measure(model, data, roles))
    return {
        (row["metric"], row.get("part") or row.get("condition")): row for row in rows if not (row.get("part") and row.get("condition"))
    }, data.hijack_prompts


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


def test_margins_and_rates_by_condition_against_loops():
    model = random_model(n_layers=2, n_heads=3, d_vocab=23, n_ctx=47)
    rows, prompts = measured(model)
    with torch.no_grad():
        logits = model(prompts.tokens)[:, -1]
    margins = [(logits[i, prompts.design["context"][i]] - logits[i, prompts.design["prior"][i]]).item() for i in range(len(prompts))]
    shown = [i for i in range(len(prompts)) if prompts.design["n_context"][i] > 0]
    trigger = prompts.design["trigger"][0].item()
    chosen = {
        None: shown,
        "n_context 2": [i for i in shown if prompts.design["n_context"][i] == 2],
        "n_prior 1": [i for i in shown if prompts.design["n_prior"][i] == 1],
        "distance 8": [i for i in shown if prompts.design["distance"][i] == 8],
        f"trigger {trigger}": [i for i in shown if prompts.design["trigger"][i] == trigger],
        "log_odds 2": [i for i in shown if round(prompts.log_odds[i].item()) == 2],
        "log_odds above 0": [i for i in shown if prompts.log_odds[i] > 0],
    }
    for condition, cell in chosen.items():
        row = rows["hijack_margin", condition]
        assert row["value"] == pytest.approx(np.mean([margins[i] for i in cell]), rel=1e-5) and row["n"] == len(cell) > 0
        assert rows["hijack_rate", condition]["value"] == pytest.approx(np.mean([margins[i] < 0 for i in cell]))
    assert ("hijack_margin", "n_context 0") not in rows


@pytest.mark.parametrize("stream", ["none", "value"])
def test_parts_sum_to_the_margin(stream):
    """Direct contributions of components, and the causal parts, of equal condition."""
    model = random_model(n_layers=2, n_heads=3, d_vocab=23, n_ctx=47, stream=stream, attn_only=False)
    data = AnalysisData.draw(model.config, TASK, sequences=4)
    rows = list(hijack_measure.measure(model, data, ROLES))
    for condition in (None, "n_context 1", "n_context 4", "log_odds above 0"):
        here = [row for row in rows if row.get("condition") == condition]
        (margin,) = [row["value"] for row in here if row["metric"] == "hijack_margin"]
        contributions = {
            (row.get("layer"), row.get("head"), row.get("part")): row["value"] for row in here if row["metric"] == "hijack_contribution"
        }
        assert ((1, 2, "streamed") in contributions) == (stream == "value") and (0, None, "mlp") in contributions
        whole = [value for place, value in contributions.items() if place[2] not in ("own", "streamed")]
        assert sum(whole) == pytest.approx(margin, rel=1e-5)
        parts = {row["part"]: row["value"] for row in here if row["metric"] == "hijack_causal_part"}
        assert set(parts) == {"global", "in context"} and sum(parts.values()) == pytest.approx(margin, rel=1e-5)
    conditions = {row.get("condition") for row in rows if row["metric"] == "hijack_causal_part"}
    assert "n_context 0" in conditions and "distance 8" not in conditions


def test_the_table_of_prompts():
    strengths = Strengths(t1=1.5, t2=6.0, t3=0.8)
    data = AnalysisData.draw(built(strengths).config, TASK, sequences=4)
    rows = list(hijack_measure.measure(built(strengths), data, ROLES))
    ((name, table),) = [row[CASES] for row in rows if CASES in row]
    assert name == "hijack_prompts" and len(table) == len(data.hijack_prompts) and not table.isna().any().any()
    # First rows are a sample of all designs, not a corner of the grid.
    first = table.head(100)
    for factor in ("n_context", "n_prior", "distance", "trigger"):
        assert set(first[factor]) == set(table[factor])
    for row in table.head(9).itertuples():
        assert data.hijack_prompts.log_odds[row.prompt].item() == pytest.approx(row.log_odds)
        assert data.hijack_prompts.design["distance"][row.prompt].item() == row.distance
        assert row.gap == pytest.approx(row.theory_gap, abs=1e-3) and row.margin == pytest.approx(row.predicted, abs=0.02)
        assert row.margin == pytest.approx(6.0 * row.gap - 0.8 * row.log_odds, abs=1e-4)
    model = random_model(n_layers=2, n_heads=3, d_vocab=23, n_ctx=47)
    ((_, unnamed),) = [
        row[CASES] for row in hijack_measure.measure(model, AnalysisData.draw(model.config, TASK, sequences=4)) if CASES in row
    ]
    assert unnamed["gap"].isna().all() and unnamed["predicted"].notna().all()


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
