"""The logit lens and the loss by position: slow loops, hand-built models, and equality with the model's own prediction."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tests.hand_built import D_VOCAB, induction
from tests.reference_model import norm, random_model, random_tokens, reference
from workbench.analysis import formation, logit_lens
from workbench.analysis.data import AnalysisData
from workbench.analysis.stretches import bins
from workbench.config import RepeatedTokensConfig
from workbench.evaluation import evaluate
from workbench.tasks import make_task

TASK = make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=16, placement="non-periodic", distinct=True))
NORMS = ["LN", "LNPre", "RMS", "RMSPre", None]
MLPS = {
    "none": {"attn_only": True},
    "after": {"attn_only": False},
    "parallel": {"attn_only": False, "parallel_attn_mlp": True},
}


def data_for(model, sequences=24):
    return AnalysisData.draw(model.config, TASK, sequences=sequences)


def rows_of(model, data):
    """(metric, layer, part, position) -> row"""
    rows = list(logit_lens.measure_lens(model, data))
    table = {tuple(row.get(place) for place in ("metric", "layer", "part", "position")): row for row in rows}
    assert len(table) == len(rows)
    return table


@pytest.mark.parametrize("kind", MLPS)
def test_the_points_are_those_that_the_model_has(kind):
    model = random_model(d_vocab=D_VOCAB, n_ctx=16, **MLPS[kind])
    middle = [(layer, "resid_mid") for layer in range(3)] if kind == "after" else []
    expected = [(0, "resid_pre"), *((layer, "resid_post") for layer in range(3)), *middle]
    table = rows_of(model, data_for(model))
    for name in ("logit_lens_accuracy", "logit_lens_loss"):
        assert sorted(key[1:3] for key in table if key[0] == name) == sorted(expected)
    assert [key[3] for key in table if key[0] == "loss_by_position"] == list(range(0, 16, 2))


@pytest.mark.parametrize("stream", ["none", "value"])
@pytest.mark.parametrize("kind", MLPS)
def test_after_the_last_layer_it_is_the_model_itself(kind, stream):
    """Exactly, and as the section formation has it; in more sequences than a forward pass takes."""
    model = random_model(d_vocab=D_VOCAB, n_ctx=16, stream=stream, **MLPS[kind])
    data = data_for(model, 70)
    table = rows_of(model, data)
    theirs = {row["metric"]: row for row in formation.measure(model, data) if row.get("head") is None and row["task"] == data.own}
    for name in ("accuracy", "loss"):
        for column in ("value", "ci_low", "ci_high", "n"):
            assert table[f"logit_lens_{name}", 2, "resid_post", None][column] == theirs[f"in_context_{name}"][column]
        assert table[f"logit_lens_{name}", 1, "resid_post", None]["value"] != theirs[f"in_context_{name}"]["value"]


@pytest.mark.parametrize(("kind", "normed"), list(itertools.product(MLPS, NORMS)))
def test_unembedding_a_point_against_a_loop(kind, normed):
    model = random_model(normalization_type=normed, **MLPS[kind])
    with torch.no_grad():
        for parameter in model.parameters() if normed is None else ():
            parameter.mul_(0.5)  # without a norm the loop's plain softmax would overflow
    tokens = random_tokens()
    _, acts = reference(model.state_dict(), tokens, **model.config.to_dict())
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for layer, point in logit_lens.points(model.config):
        resid = acts[f"blocks.{layer}.hook_{point}"]
        with torch.no_grad():
            found = logit_lens.unembedded(model, resid).numpy()
        for b, t in itertools.product(range(2), range(5)):
            _, _, x = norm(resid[b, t].numpy(), normed, model.config.eps, state.get("ln_final.w"), state.get("ln_final.b"))
            np.testing.assert_allclose(found[b, t], x @ state["unembed.W_U"] + state["unembed.b_U"], atol=1e-9)


def test_rows_against_a_loop():
    model = random_model(d_vocab=D_VOCAB, n_ctx=16, attn_only=False)
    data = data_for(model, 7)
    table, batch = rows_of(model, data), data.batches[data.own]
    with torch.no_grad():
        _, cache = model.run_with_cache(batch.tokens)
    for layer, point in logit_lens.points(model.config):
        with torch.no_grad():
            logits = logit_lens.unembedded(model, cache[point, layer])
        losses, right = [], []
        for b, t in batch.answered.nonzero().tolist():
            row, target = logits[b, t].tolist(), int(batch.targets[b, t])
            losses.append(math.log(sum(math.exp(value) for value in row)) - row[target])
            right.append(row.index(max(row)) == target)
        assert table["logit_lens_loss", layer, point, None]["value"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert table["logit_lens_accuracy", layer, point, None]["value"] == pytest.approx(np.mean(right), rel=1e-5)


def test_an_induction_circuit_knows_nothing_before_its_last_head():
    model = induction()
    data = data_for(model)
    table, batch = rows_of(model, data), data.batches[data.own]
    for point in ((0, "resid_pre"), (0, "resid_post")):
        assert table["logit_lens_loss", *point, None]["value"] == pytest.approx(math.log(D_VOCAB))
        # All logits are 0, and the first of equals is token 0.
        assert table["logit_lens_accuracy", *point, None]["value"] == pytest.approx((batch.targets[batch.answered] == 0).float().mean())
    assert table["logit_lens_accuracy", 1, "resid_post", None]["value"] == 1.0
    expected = math.log(math.exp(3) + D_VOCAB - 1) - 3
    assert table["logit_lens_loss", 1, "resid_post", None]["value"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seq_len", [6, 13, 16])
def test_loss_by_position_against_a_loop(seq_len):
    model = random_model(d_vocab=D_VOCAB, n_ctx=16)
    task = make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=seq_len, block_len=3, distinct=True))
    data = AnalysisData.draw(model.config, task, sequences=7)
    losses = evaluate(model, data.batches[data.own]).losses
    found = {key[3]: row["value"] for key, row in rows_of(model, data).items() if key[0] == "loss_by_position"}
    starts = [positions.start for positions in bins(seq_len)]
    expected = {}
    for start, stop in zip(starts, [*starts[1:], seq_len], strict=True):
        values = [losses[b, t].item() for b in range(7) for t in range(start, stop)]
        expected[start] = sum(values) / len(values)
    assert found == pytest.approx(expected, rel=1e-5)
