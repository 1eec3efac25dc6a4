"""Activation patching: the pairs against a loop, TransformerLens's sweeps against ours, wires against path patching, and
hand-built circuits of which it is known what each activation restores."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
import transformer_lens.patching as lens
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tqdm.auto import tqdm

from tests.hand_built import bag_of_tokens, induction, positional
from tests.reference_model import random_model, random_tokens
from workbench import HookedTransformer, ModelConfig, RepeatedTokensConfig
from workbench.analysis.data import AnalysisData
from workbench.analysis.patching import (
    MOST_PAIRS,
    SWEEPS,
    activations,
    answer_logit,
    corrupted_pairs,
    hook_name,
    patch_heads,
    patching_recovery,
    patching_rows,
    sweep_heads,
)
from workbench.errors import UsageError
from workbench.tasks.base import Batch
from workbench.tasks.repeated_tokens import RepeatedTokens

BATCH, N_POS, D_VOCAB = 11, 7, 5
CLEAN, CORRUPTED = random_tokens(3, 5, 7), random_tokens(3, 5, 7, seed=2)
ANSWER, TRIGGER = "answer", "trigger"


def repeats(placement: Literal["equal", "non-periodic"] = "non-periodic", sequences: int = 67) -> AnalysisData:
    """Sequences on which a lookup is never ambiguous, for the hand-built models."""
    task = RepeatedTokens(RepeatedTokensConfig(d_vocab=13, seq_len=16, placement=placement, distinct=True))
    return AnalysisData.draw(ModelConfig(d_vocab=13, n_ctx=17), task, sequences=sequences)


def batch_of(tokens: torch.Tensor, answered: torch.Tensor, last: int = 0) -> Batch:
    targets = torch.cat([tokens[:, 1:], torch.full((len(tokens), 1), last)], dim=1)
    return Batch(tokens, targets, answered, ~answered)


def recovered(model: HookedTransformer, data: AnalysisData) -> dict[tuple[str, str], dict[str, float]]:
    """(corruption, activation) -> head -> what it restores."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in patching_rows(model, data):
        if row["metric"] == "patching_recovery":
            found.setdefault((row["intervention"], row["part"]), {})[f"L{row['layer']}H{row['head']}"] = row["value"]
    return found


def effects(model: HookedTransformer, data: AnalysisData) -> dict[str, dict]:
    return {row["intervention"]: row for row in patching_rows(model, data) if row["metric"] == "patching_effect"}


def naive_places(tokens: list[int], answered: list[bool]) -> tuple[int, list[int], list[int]] | None:
    """(t, positions of the earlier triggers, positions of the answers shown), or None where no context shows an answer."""
    if True not in answered:
        return None
    t = max(i for i in range(len(tokens)) if answered[i])
    earlier = [s for s in range(t) if tokens[s] == tokens[t]]
    shown = [s + 1 for s in earlier if tokens[s + 1] != tokens[t]]
    return (t, earlier, shown) if shown else None


@settings(deadline=None, max_examples=100)
@given(
    tokens=arrays(np.int64, (BATCH, N_POS), elements=st.integers(0, D_VOCAB - 1)),
    answered=arrays(np.bool_, (BATCH, N_POS)),
    last=st.integers(0, D_VOCAB - 1),
    seed=st.integers(0, 2**31),
    at_most=st.integers(1, BATCH),
)
def test_pairs_against_a_loop(tokens, answered, last, seed, at_most):
    batch = batch_of(torch.from_numpy(tokens), torch.from_numpy(answered), last)
    pairs = corrupted_pairs(batch, D_VOCAB, seed, at_most)
    expected = [(b, found) for b in range(BATCH) if (found := naive_places(tokens[b].tolist(), answered[b].tolist()))][:at_most]
    assert len(pairs) == len(pairs.answer) == len(expected)
    for i, (b, (t, earlier, shown)) in enumerate(expected):
        sequence, answer = tokens[b].tolist(), batch.targets[b, t].item()
        assert pairs.clean[i].tolist() == sequence
        assert (pairs.position[i], pairs.answer[i]) == (t, answer)
        for kind, places in ((ANSWER, shown), (TRIGGER, earlier)):
            foil = pairs.foil[kind][i].item()
            assert pairs.corrupted[kind][i].tolist() == [foil if s in places else sequence[s] for s in range(N_POS)]
            absent = set(range(D_VOCAB)) - {*sequence, answer}
            assert foil in (absent or set(range(D_VOCAB)) - {sequence[t], answer})


def test_the_other_token_is_uniform_and_drawn_for_itself():
    """q = 0, answer 1, 2 in the sequence: 3 to 6 are left, each a quarter of the time, whatever the other corruption got."""
    n = 4000
    tokens = torch.tensor([[0, 1, 2, 0]]).expand(n, -1)
    answered = torch.tensor([[False, False, False, True]]).expand(n, -1)
    pairs = corrupted_pairs(batch_of(tokens, answered, last=1), 7, at_most=n)
    both = pairs.foil[ANSWER] * 7 + pairs.foil[TRIGGER]
    counts = both.bincount(minlength=49).view(7, 7) / n
    assert counts[3:, 3:].sum() == pytest.approx(1.0)
    # Five standard deviations of a share of one in sixteen.
    assert (counts[3:, 3:] - 1 / 16).abs().max() < 5 * math.sqrt(1 / 16 * 15 / 16 / n)


def test_pairs_depend_on_the_seed_alone():
    batch = repeats().scoring
    before = torch.get_rng_state()
    first, second, other = corrupted_pairs(batch, 13), corrupted_pairs(batch, 13), corrupted_pairs(batch, 13, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for kind in (ANSWER, TRIGGER):
        assert torch.equal(first.corrupted[kind], second.corrupted[kind])
        assert not torch.equal(first.corrupted[kind], other.corrupted[kind])


def test_no_pair_where_there_is_no_other_token():
    answered = torch.tensor([[False, False, True]])
    batch = batch_of(torch.tensor([[0, 1, 0]]), answered, last=1)
    assert len(corrupted_pairs(batch, 2)) == 0
    assert corrupted_pairs(batch, 3).foil[ANSWER].tolist() == [2]


def test_the_logit_of_the_answer_against_a_loop():
    pairs = corrupted_pairs(repeats().scoring, 13)
    logits = torch.randn(len(pairs), 16, 13, generator=torch.Generator().manual_seed(0))
    found = answer_logit(logits, pairs).tolist()
    for b in range(len(pairs)):
        row = logits[b, int(pairs.position[b])].tolist()
        assert found[b] == pytest.approx(row[int(pairs.answer[b])] - sum(row) / 13, abs=1e-6)


@pytest.mark.parametrize("stream", ["none", "query", "key", "value"])
@pytest.mark.parametrize("part", SWEEPS)
def test_transformer_lens_agrees_with_our_sweep(stream, part):
    """Ours is what patches the wires: where both know an activation, they agree."""
    model = random_model(stream=stream, stream_source="accumulated" if stream != "none" else "previous")
    _, clean = model.run_with_cache(CLEAN)

    def quantity(logits):
        return logits[:, -1, 3] - logits[:, -2].mean(dim=1)

    with torch.no_grad():
        unpatched = quantity(model(CORRUPTED)).float()
    for layer in range(3):
        theirs, ours = (patch(model, CORRUPTED, clean, part, layer, quantity) for patch in (patch_heads, sweep_heads))
        assert theirs.shape == (3, 2)
        torch.testing.assert_close(theirs, ours.float())
        # A patch that did nothing would agree, too.
        assert (theirs - unpatched[:, None]).abs().max() > 1e-3


@pytest.mark.parametrize("source", ["previous", "accumulated", "first"])
@pytest.mark.parametrize(("stream", "letter"), [("query", "q"), ("key", "k"), ("value", "v")])
def test_used_is_own_and_streamed_together(stream, letter, source):
    model = random_model(stream=stream, stream_source=source, stream_mix="learned")
    _, clean = model.run_with_cache(CLEAN)
    # With the source `previous`, layer 1's own projection goes on to layer 2, and what it uses does not.
    for layer in (2,) if source == "previous" else (1, 2):
        for head in range(2):

            def patch(value, hook, head=head):
                value = value.clone()
                for b in range(3):
                    for t in range(5):
                        value[b, t, head] = clean[hook.name][b, t, head]
                return value

            hooks = [(hook_name(name, layer), patch) for name in (letter, f"{letter}_stream")]
            with torch.no_grad():
                expected = model.run_with_hooks(CORRUPTED, fwd_hooks=hooks)[:, -1, 3]
            found = patch_heads(model, CORRUPTED, clean, f"{letter}_used", layer, lambda logits: logits[:, -1, 3])[:, head]
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("stream", "letter"), [("query", "q"), ("key", "k"), ("value", "v")])
def test_the_wire_alone_is_the_sources_projection_with_its_output_held(stream, letter):
    """What arrives in layer 1 is layer 0's own projection: patching that, while layer 0's z stays as it was, is the same."""
    model = random_model(stream=stream, n_layers=2)
    _, clean = model.run_with_cache(CLEAN)
    _, spoilt = model.run_with_cache(CORRUPTED)
    found = patch_heads(model, CORRUPTED, clean, f"{letter}_stream", 1, lambda logits: logits[:, -1, 3])
    for head in range(2):
        projection = spoilt[letter, 0].clone()
        projection[:, :, head] = clean[letter, 0][:, :, head]
        hooks = [(hook_name(letter, 0), lambda value, hook, p=projection: p), (hook_name("z", 0), lambda value, hook: spoilt["z", 0])]
        with torch.no_grad():
            expected = model.run_with_hooks(CORRUPTED, fwd_hooks=hooks)[:, -1, 3]
        torch.testing.assert_close(found[:, head], expected)


def test_what_can_be_patched():
    assert activations(ModelConfig(), 1) == ("z", "q", "k", "v", "pattern")
    assert activations(ModelConfig(stream="key"), 0) == ("z", "q", "k", "v", "pattern")
    assert activations(ModelConfig(stream="key"), 1) == ("z", "q", "k", "v", "pattern", "k_used", "k_stream")


def test_recovery_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    clean, corrupted, patched = (torch.randn(*shape, generator=generator) for shape in ((7,), (7,), (7, 3)))
    estimate = patching_recovery(clean, corrupted, patched).estimate()
    for head in range(3):
        restored = [(patched[b, head] - corrupted[b]).item() for b in range(7)]
        fallen = [(clean[b] - corrupted[b]).item() for b in range(7)]
        value = sum(restored) / sum(fallen)
        spread = sum((a - value * b) ** 2 for a, b in zip(restored, fallen, strict=True)) / 6
        half = 1.959963984540054 * math.sqrt(7 * spread) / abs(sum(fallen))
        assert estimate.value[head].item() == pytest.approx(value, rel=1e-4)
        assert (estimate.ci_high[head] - estimate.value[head]).item() == pytest.approx(half, rel=1e-4)
        assert (estimate.value[head] - estimate.ci_low[head]).item() == pytest.approx(half, rel=1e-4)


@pytest.mark.parametrize(
    ("stream", "copying", "restores"),
    [
        ("none", "own", {ANSWER: {"L1H0": "z v"}, TRIGGER: {"L0H0": "z v", "L1H0": "z k pattern"}}),
        # The wire carries what L1H0 does not read.
        ("value", "own", {ANSWER: {"L1H0": "z v v_used"}, TRIGGER: {"L0H0": "z v", "L1H0": "z k pattern"}}),
        # L0H0's own v restores what L1H0 copies, because it travels along the wire; L1H0's own v is not what it uses.
        ("value", "stream", {ANSWER: {"L0H0": "v", "L1H0": "z v_used v_stream"}, TRIGGER: {"L0H0": "z v", "L1H0": "z k pattern"}}),
    ],
)
def test_what_an_induction_circuit_restores(stream, copying, restores):
    """Everything or nothing, and head 1 of each layer nothing."""
    model, data = induction(stream, copying), repeats()
    found = recovered(model, data)
    names = {(part, layer) for layer in (0, 1) for part in activations(model.config, layer)}
    assert set(found) == {(kind, part) for kind in (ANSWER, TRIGGER) for part, _ in names}
    for (kind, part), by_head in found.items():
        assert set(by_head) == {f"L{layer}H{head}" for name, layer in names if name == part for head in (0, 1)}
        for head, value in by_head.items():
            expected = float(part in restores[kind].get(head, "").split())
            assert value == pytest.approx(expected, abs=1e-5), (kind, part, head)
            if head.endswith("H1"):
                assert value == 0.0


def test_how_far_the_logit_of_an_induction_circuit_falls():
    """The answer has logit 3 where it is found. Spoilt, "answer" gives it 0; without a trigger, the head attends evenly to
    positions 1 to t, and the answer keeps its share of them. The mean logit is 3/13 throughout."""
    data = repeats()
    pairs = corrupted_pairs(data.scoring, 13)
    found = effects(induction(), data)
    assert found[ANSWER]["value"] == pytest.approx(3.0, abs=1e-6)
    falls = []
    for tokens, t, answer in zip(pairs.corrupted[TRIGGER].tolist(), pairs.position.tolist(), pairs.answer.tolist(), strict=True):
        falls.append(3 - 3 * tokens[1 : t + 1].count(answer) / t)
    assert found[TRIGGER]["value"] == pytest.approx(np.mean(falls), abs=1e-6)
    half = 1.959963984540054 * np.std(falls, ddof=1) / math.sqrt(len(falls))
    assert found[TRIGGER]["ci_low"] == pytest.approx(np.mean(falls) - half, abs=1e-5)
    assert found[TRIGGER]["n"] == len(pairs) == len(falls)


def test_a_bag_of_tokens_looks_for_nothing():
    """It notices how often the answer stands in the context, not after what: all of it is copied by L1H0's values."""
    data = repeats()
    found = recovered(bag_of_tokens(), data)
    assert effects(bag_of_tokens(), data)[TRIGGER]["value"] == pytest.approx(0.0, abs=1e-5)
    assert {kind for kind, _ in found} == {ANSWER}
    for (_, part), by_head in found.items():
        assert by_head["L1H0"] == pytest.approx(1.0 if part in ("z", "v") else 0.0, abs=1e-5)
        assert by_head["L0H0"] == by_head["L0H1"] == by_head["L1H1"] == 0.0


@pytest.mark.parametrize("layer", [0, 1])
def test_a_fixed_distance_looks_for_nothing(layer):
    """On equal repeats it is always right, and no part of it that says where to look restores anything."""
    data = repeats("equal")
    model = positional(7, layer)
    found = recovered(model, data)
    fallen = effects(model, data)
    assert fallen[ANSWER]["value"] == pytest.approx(3.0, abs=1e-6)
    assert fallen[TRIGGER]["value"] == pytest.approx(0.0, abs=1e-6)
    assert {kind for kind, _ in found} == {ANSWER}
    for (_, part), by_head in found.items():
        for head, value in by_head.items():
            assert value == (1.0 if head == f"L{layer}H0" and part in ("z", "v") else 0.0), (part, head)


def test_no_recovery_where_nothing_fell():
    """An untrained model does not read the answer."""
    data = repeats()
    model = HookedTransformer(ModelConfig(d_vocab=13, n_ctx=17, n_heads=2, d_model=14)).eval()
    assert [row["metric"] for row in patching_rows(model, data)] == ["patching_effect", "patching_effect"]


def test_rounding_is_no_fall():
    """The same sequence again and again: rounding then has no spread, and a fall of 1e-7 would count as sure."""
    data = repeats()
    batch = data.scoring
    falls = []
    for b in range(0, 30, 3):
        parts = (batch.tokens, batch.targets, batch.answered, batch.unanswerable)
        tokens, targets, answered, unanswerable = (part[b : b + 1].expand(4, -1) for part in parts)
        same = Batch(tokens, targets, answered, unanswerable)
        rows = list(patching_rows(bag_of_tokens(strength=2.7), AnalysisData(data.tasks, {data.own: same})))
        falls += [row for row in rows if row["metric"] == "patching_effect" and row["intervention"] == TRIGGER]
        assert not any(row["metric"] == "patching_recovery" and row["intervention"] == TRIGGER for row in rows)
    assert max(row["ci_low"] for row in falls) > 0


def test_no_rows_where_no_context_shows_an_answer():
    data = repeats()
    batch = data.batches[data.own]
    nothing = Batch(batch.tokens, batch.targets, torch.zeros_like(batch.answered), batch.unanswerable)
    assert list(patching_rows(induction(), AnalysisData(data.tasks, {data.own: nothing}))) == []


def test_at_most_so_many_pairs():
    assert {row["n"] for row in patching_rows(induction(), repeats(sequences=2 * MOST_PAIRS + 22))} == {MOST_PAIRS}


def test_sequences_and_their_sample_are_told():
    data = repeats()
    for row in patching_rows(induction(), data):
        assert row["task"] == data.own
        if row["metric"] == "patching_effect":
            assert row["sample"].estimate().value.item() == pytest.approx(row["value"])


def test_no_bars_no_hooks_and_no_random_state(capfd):
    before, model = torch.get_rng_state(), induction("value", "both")
    assert list(patching_rows(model, repeats()))
    assert capfd.readouterr() == ("", "")
    assert lens.tqdm is tqdm and torch.equal(torch.get_rng_state(), before)
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


def test_after_an_exception_the_bars_are_back():
    def broken(logits):
        raise ZeroDivisionError

    model = random_model()
    _, clean = model.run_with_cache(CLEAN)
    with pytest.raises(ZeroDivisionError):
        patch_heads(model, CORRUPTED, clean, "z", 0, broken)
    assert lens.tqdm is tqdm
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


def test_a_wire_that_there_is_not():
    model = random_model()
    _, clean = model.run_with_cache(CLEAN)
    with pytest.raises(UsageError, match="v_stream"):
        patch_heads(model, CORRUPTED, clean, "v_stream", 1, lambda logits: logits[:, -1, 3])
