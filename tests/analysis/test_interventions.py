"""Passes with edits: what is replaced, what is recorded, and that nothing stays behind."""

import pytest
import torch

from tests.reference_model import random_model, random_tokens
from workbench.analysis import interventions
from workbench.analysis.interventions import lost, replaced_by, run, substituted
from workbench.errors import UsageError
from workbench.evaluation import Evaluation
from workbench.tasks.base import Batch

Z = "blocks.1.attn.hook_z"


def batch_of(n):
    tokens = random_tokens(n, 5)
    answered = torch.arange(5).expand(n, -1) > 1
    return Batch(tokens, tokens.roll(-1, 1), answered, ~answered)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_chunks_change_nothing(chunk, monkeypatch):
    monkeypatch.setattr(interventions, "CHUNK", chunk)
    model, batch = random_model(), batch_of(7)
    logits, cache = model.run_with_cache(batch.tokens)
    clean = run(model, batch, record=[Z])
    torch.testing.assert_close(clean.evaluation.losses, Evaluation.of_logits(logits, batch.targets).losses)
    torch.testing.assert_close(clean.recorded[Z], cache[Z])
    values = clean.recorded[Z].roll(1, 0)
    edited = run(model, batch, {Z: replaced_by(values, [1])}, record=[Z])
    torch.testing.assert_close(edited.recorded[Z][:, :, 1], values[:, :, 1])
    torch.testing.assert_close(edited.recorded[Z][:, :, 0], cache[Z][:, :, 0])
    expected = cache[Z].clone()
    expected[:, :, 1] = values[:, :, 1]
    logits = model.run_with_hooks(batch.tokens, fwd_hooks=[(Z, lambda old, hook: expected)])
    torch.testing.assert_close(edited.evaluation.losses, Evaluation.of_logits(logits, batch.targets).losses)


def test_substitutes():
    values = torch.tensor([[[1.0, 2.0]], [[3.0, 5.0]], [[8.0, 2.0]]])
    assert substituted(values, "zero").eq(0).all() and substituted(values, "zero").shape == values.shape
    assert substituted(values, "mean").tolist() == [[[4.0, 3.0]]] * 3
    assert substituted(values, "resample").tolist() == [[[3.0, 5.0]], [[8.0, 2.0]], [[1.0, 2.0]]]


def test_lost_is_the_fall_where_the_mask_holds():
    mask = torch.tensor([[True, False, True], [False, False, True]])
    part = lost(torch.tensor([[3.0, 9.0, 1.0], [0.0, 0.0, 2.0]]), torch.tensor([[1.0, 0.0, 2.0], [5.0, 5.0, 1.0]]), mask)
    assert part.sums.tolist() == [1.0, 1.0] and part.counts.tolist() == [2.0, 1.0]


def test_an_unknown_hook_is_an_error_and_an_edit_that_fails_leaves_no_hook():
    model, batch = random_model(), batch_of(2)
    with pytest.raises(UsageError, match="unknown hook"):
        run(model, batch, record=["blocks.1.attn.hook_zz"])

    def fails(value, rows):
        raise RuntimeError("on purpose")

    before = model(batch.tokens)
    with pytest.raises(RuntimeError, match="on purpose"):
        run(model, batch, {Z: fails})
    assert not any(point.fwd_hooks for point in model.hook_points())
    assert torch.equal(model(batch.tokens), before)


def test_values_in_place_are_not_changed():
    """An edit of some heads works on a copy: the recorded tensor of another pass stays what it was."""
    model, batch = random_model(), batch_of(3)
    clean = run(model, batch, record=[Z])
    kept = clean.recorded[Z].clone()
    run(model, batch, {Z: replaced_by(torch.zeros_like(kept), [0])})
    assert torch.equal(clean.recorded[Z], kept)
