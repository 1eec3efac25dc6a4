"""What the wire carries: the split is exact, cuts and paths give known answers on hand-built models, and a model without a
wire has nothing to cut."""

import itertools

import pytest
import torch

from tests.hand_built import D_VOCAB, induction
from tests.reference_model import random_model, random_tokens
from workbench.analysis import stream, stream_split
from workbench.analysis.data import AnalysisData
from workbench.analysis.interventions import run
from workbench.config import RepeatedTokensConfig
from workbench.errors import UsageError
from workbench.evaluation import Evaluation
from workbench.tasks import make_task
from workbench.tasks.base import Batch

TASK = make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=16, placement="non-periodic", distinct=True))
LETTER = {"query": "q", "key": "k", "value": "v"}
MIXES = [{}, {"stream_mix": "learned"}, {"stream_init": (0.5, -0.25)}, {"stream_permute_heads": "by-position"}]


def data_for(model, sequences=24):
    return AnalysisData.draw(model.config, TASK, sequences=sequences)


def rows_of(model, data=None):
    """(metric, layer, head, source layer, part, intervention) -> row"""
    rows = list(stream.measure(model, data or data_for(model)))
    places = ("metric", "layer", "head", "source_layer", "part", "intervention")
    table = {tuple(row.get(place) for place in places): row for row in rows}
    assert len(table) == len(rows) and {row["task"] for row in rows} == {TASK.config.name}
    return table


def random_batch(n=5):
    tokens = random_tokens(n, 5)
    answered = torch.tensor([[False, True, False, True, True]]).expand(n, -1)
    return Batch(tokens, tokens.roll(-1, 1), answered, ~answered)


def value(table, metric, layer=None, head=None, source=None, part=None, how=None):
    return table[metric, layer, head, source, part, how]["value"]


# The split.


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("source", ["previous", "accumulated", "first"])
def test_own_and_streamed_values_write_the_attention_output(source, mix):
    model = random_model(stream="value", stream_source=source, n_heads=3, **mix)
    _, cache = model.run_with_cache(random_tokens())
    for layer in (1, 2):
        own, streamed = stream_split.split_values(model, layer, cache["pattern", layer], cache["v", layer], cache["v_stream", layer])
        attn = model.blocks[layer].attn
        torch.testing.assert_close(own.sum(2) + streamed.sum(2) + attn.b_O, cache["attn_out", layer])
        whole = torch.einsum("bphd,hdm->bphm", cache["z", layer], attn.W_O)
        torch.testing.assert_close(own + streamed, whole)
        # Without what arrives, the rest is the own part: an edit on the wire says the same.
        zeroed = run(model, random_batch(), {f"blocks.{layer}.attn.hook_v_stream": lambda v, rows: 0 * v}, [f"blocks.{layer}.attn.hook_z"])
        z = zeroed.recorded[f"blocks.{layer}.attn.hook_z"]
        _, clean = model.run_with_cache(random_batch().tokens)
        own, _ = stream_split.split_values(model, layer, clean["pattern", layer], clean["v", layer], clean["v_stream", layer])
        torch.testing.assert_close(torch.einsum("bphd,hdm->bphm", z, attn.W_O), own)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("letter", "positions"), list(itertools.product(["query", "key"], ["standard", "relative", "rotary"])))
def test_own_and_streamed_scores_are_the_scores(letter, positions, mix):
    model = random_model(stream=letter, positional_embedding_type=positions, **mix)
    _, cache = model.run_with_cache(random_tokens())
    p, other = LETTER[letter], "k" if letter == "query" else "q"
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    for layer in (1, 2):
        parts = stream_split.split_scores(model, layer, cache[p, layer], cache[f"{p}_stream", layer], cache[other, layer])
        torch.testing.assert_close((parts[0] + parts[1])[..., seen], cache["attn_scores", layer][..., seen], rtol=1e-5, atol=1e-5)
        assert parts[1].abs().max() > 1e-3


def test_shares_are_what_their_formulas_say():
    own, streamed = torch.randn(2, 3, 5, 2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    inputs = stream_split.streamed_input_share(own, streamed).estimate().value
    outputs = stream_split.streamed_output_share(own, streamed).estimate().value
    for head in range(2):
        o, s = own[:, :, head], streamed[:, :, head]
        top = bottom = along = total = 0.0
        for b, t, i in itertools.product(range(3), range(5), range(7)):
            top += s[b, t, i].item() ** 2
            bottom += o[b, t, i].item() ** 2 + s[b, t, i].item() ** 2
            along += s[b, t, i].item() * (o[b, t, i] + s[b, t, i]).item()
            total += (o[b, t, i] + s[b, t, i]).item() ** 2
        assert inputs[head].item() == pytest.approx(top / bottom) and outputs[head].item() == pytest.approx(along / total)
    reverse = stream_split.streamed_output_share(streamed, own).estimate().value
    torch.testing.assert_close(outputs + reverse, torch.ones(2))


def test_the_score_contrast_against_loops():
    tokens = torch.tensor([[5, 7, 5, 3, 5], [1, 1, 1, 2, 3]])
    answered = torch.tensor([[False, True, True, True, True], [True, True, True, False, True]])
    scores = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = stream_split.score_contrast(scores, tokens, answered).estimate().value
    for head in range(3):
        contrasts = []
        for b, t in itertools.product(range(2), range(5)):
            after = [s for s in range(1, t + 1) if tokens[b, s - 1] == tokens[b, t] and s - 1 < t]
            others = [s for s in range(t + 1) if s not in after]
            if answered[b, t] and after and others:
                row = scores[b, head, t]
                contrasts.append(sum(row[s] for s in after) / len(after) - sum(row[s] for s in others) / len(others))
        assert len(contrasts) == 4  # (0, 2), (0, 4), (1, 1), (1, 2)
        assert found[head].item() == pytest.approx((sum(contrasts) / len(contrasts)).item())


# Models whose answers are known.


def test_a_wire_that_does_the_copying():
    table = rows_of(induction("value", "stream"))
    assert value(table, "streamed_input_share", 1, 0) == 1 and value(table, "streamed_output_share", 1, 0) == 1
    data = data_for(induction())
    batch = data.scoring
    zeros = (batch.targets == 0) & batch.answered  # all logits are 0 without copying: token 0 is the first choice
    left = zeros.sum().item() / batch.answered.sum().item()
    assert value(table, "cut_accuracy_loss", how="zero") == pytest.approx(1 - left)
    assert value(table, "cut_accuracy_share", how="zero") == pytest.approx(1 - left)
    # Head 0 should receive what the idle head 1 does: nothing.
    assert value(table, "cut_accuracy_loss", how="permuted") == pytest.approx(1 - left)
    assert value(table, "cut_accuracy_loss", 1, 1, how="mean") == 0 == value(table, "cut_loss_increase", 1, 1, how="resample")
    assert value(table, "cut_accuracy_loss", 1, 0, how="resample") == value(table, "cut_accuracy_loss", how="resample") > 0.5
    right = 3.0 - torch.tensor([3.0, *[0.0] * (D_VOCAB - 1)]).logsumexp(0).item()
    assert value(table, "cut_loss_increase", how="zero") == pytest.approx(right + torch.tensor(float(D_VOCAB)).log().item(), rel=1e-5)


def test_a_wire_from_which_nothing_is_read():
    table = rows_of(induction("value", "own"))
    assert value(table, "streamed_input_share", 1, 0) == pytest.approx(0.5)  # values of equal norm, in other dimensions
    assert value(table, "streamed_output_share", 1, 0) == 0
    cuts = [row for key, row in table.items() if key[0].startswith("cut_")]
    assert cuts and all(row["value"] == 0 == row["ci_low"] == row["ci_high"] for row in cuts)
    for how in ("zero", "mean", "resample"):
        assert value(table, "path_accuracy_share", source=0, part="wire", how=how) == 0
        assert value(table, "path_loss_increase", source=0, part="residual", how=how) > 0.5
        assert value(table, "path_accuracy_share", source=0, part="interaction", how=how) == 0


def test_half_of_the_copying_by_the_wire():
    table = rows_of(induction("value", "both"))
    assert value(table, "streamed_output_share", 1, 0) == pytest.approx(0.5)
    # The other half still answers, with half the logit.
    assert value(table, "cut_accuracy_loss", how="zero") == 0
    losses = [torch.tensor([strength, *[0.0] * (D_VOCAB - 1)]).logsumexp(0).item() - strength for strength in (3.0, 1.5)]
    assert value(table, "cut_loss_increase", how="zero") == pytest.approx(losses[1] - losses[0], rel=1e-5)


@pytest.mark.parametrize("copying", ["stream", "both"])
def test_paths_are_told_apart(copying):
    """Source values feed the wire (copying) and the residual path (the previous token, on which the match rests)."""
    table = rows_of(induction("value", copying))
    data = data_for(induction())
    left = ((data.scoring.targets == 0) & data.scoring.answered).sum().item() / data.scoring.answered.sum().item()
    wire, residual, both = (value(table, "path_accuracy_share", source=0, part=part, how="zero") for part in ("wire", "residual", "both"))
    assert wire == pytest.approx(1 - left if copying == "stream" else 0)
    # Without the token before, the induction head attends evenly and copies a mixture.
    assert 0.3 < residual <= 1
    assert both == pytest.approx(1 - left if copying == "stream" else residual)
    assert value(table, "path_accuracy_share", source=0, part="interaction", how="zero") == pytest.approx(both - wire - residual)


# Against naive interventions.


@pytest.mark.parametrize("stream_kind", list(LETTER))
@pytest.mark.parametrize("source", ["previous", "accumulated", "first"])
def test_paths_by_hand(stream_kind, source):
    model, batch, p = random_model(stream=stream_kind, stream_source=source), random_batch(), LETTER[stream_kind]
    for layer in [0] if source == "first" else [0, 1]:
        _, clean = model.run_with_cache(batch.tokens)
        name, z = f"blocks.{layer}.attn.hook_{p}", f"blocks.{layer}.attn.hook_z"
        found = stream.path_effects(model, batch, run(model, batch, record=[name, z]), "resample", layer)
        edited = {name: clean[name][[1, 2, 3, 4, 0]]}

        def put(values):
            return [(key, lambda old, hook, new=new: new) for key, new in values.items()]

        with torch.no_grad(), model.hooks(put(edited)):
            both, changed = model.run_with_cache(batch.tokens)
        wire = model.run_with_hooks(batch.tokens, fwd_hooks=put(edited | {z: clean[z]}))
        residual = model.run_with_hooks(batch.tokens, fwd_hooks=put({z: changed[z]}))
        for path, logits in (("both", both), ("wire", wire), ("residual", residual)):
            torch.testing.assert_close(found[path].losses, Evaluation.of_logits(logits, batch.targets).losses)
        # Along the wire only, this layer's output stays as it was; along the residual stream only, what it hands on does.
        with torch.no_grad(), model.hooks(put({z: changed[z]})):
            _, held = model.run_with_cache(batch.tokens)
        if source != "accumulated":
            torch.testing.assert_close(held[f"{p}_stream", layer + 1], clean[f"{p}_stream", layer + 1])


@pytest.mark.parametrize("how", ["zero", "mean", "resample", "permuted"])
def test_cuts_by_hand(how):
    model, batch = random_model(stream="value", n_heads=3), random_batch()
    name = "blocks.2.attn.hook_v_stream"
    clean = run(model, batch, record=[name])
    arriving = clean.recorded[name]
    new = {
        "zero": arriving * 0,
        "mean": arriving.mean(0, keepdim=True).expand_as(arriving),
        "resample": arriving[[1, 2, 3, 4, 0]],
        "permuted": arriving[:, :, [1, 2, 0]],
    }[how]
    for heads in (None, [1]):
        expected = arriving.clone()
        expected[:, :, heads or slice(None)] = new[:, :, heads or slice(None)]
        logits = model.run_with_hooks(batch.tokens, fwd_hooks=[(name, lambda old, hook, expected=expected: expected)])
        found = stream.cut(model, batch, clean, how, [2], heads).evaluation
        torch.testing.assert_close(found.losses, Evaluation.of_logits(logits, batch.targets).losses)
        assert not torch.allclose(found.losses, clean.evaluation.losses)


def test_effects_against_loops():
    clean = Evaluation(torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]), torch.tensor([[True, True, False], [True, True, True]]))
    edited = Evaluation(torch.tensor([[1.5, 2.5, 2.0], [4.0, 1.0, 2.0]]), torch.tensor([[False, True, True], [False, True, False]]))
    answered = torch.tensor([[True, False, True], [True, True, False]])
    batch = Batch(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long), answered, ~answered)
    # Answered positions: (0, 0), (0, 2), (1, 0), (1, 1): right before 1, 0, 1, 1; after 0, 1, 0, 1.
    expected = {
        "cut_accuracy_loss": (3 - 2) / 4, "cut_accuracy_share": (3 - 2) / 3, "path_accuracy_share": (3 - 2) / 3,
        "cut_loss_increase": (0.5 - 1.0 + 3.0 + 0.0) / 4, "path_loss_increase": (0.5 - 1.0 + 3.0 + 0.0) / 4,
        "cut_bigram_increase": (0.5 + 1.0) / 2,
    }  # fmt: skip
    for name, number in expected.items():
        assert getattr(stream, name)(clean, edited, batch).estimate().value.item() == pytest.approx(number), name


def test_rows_of_every_layer_and_stream():
    for kind in LETTER:
        model = random_model(stream=kind, d_vocab=D_VOCAB, n_ctx=16, stream_mix="learned").float()
        table = rows_of(model, data_for(model, 8))
        for layer, head in itertools.product((1, 2), range(2)):
            assert 0 < value(table, "streamed_input_share", layer, head) < 1
            assert (("streamed_output_share", layer, head, None, None, None) in table) == (kind == "value")
            assert (("score_contrast", layer, head, None, "streamed", None) in table) == (kind != "value")
            assert ("cut_loss_increase", layer, head, None, None, "mean") in table
        assert ("cut_loss_increase", 1, None, None, None, "mean") in table
        assert ("path_loss_increase", None, None, 1, "wire", "mean") in table
        a = model.blocks[2].attn.stream_own.item()
        assert value(table, "stream_scale", 2, part="own") == pytest.approx(a)
    first = random_model(stream="value", stream_source="first", d_vocab=D_VOCAB, n_ctx=16).float()
    assert {key[3] for key in rows_of(first, data_for(first, 8))} == {None, 0}


def test_without_a_stream_there_is_nothing_to_cut():
    model, batch = induction(), data_for(induction()).scoring
    clean = run(model, batch)
    for call in (
        lambda: list(stream.measure(model, data_for(model))),
        lambda: stream.cut(model, batch, clean, "zero", [1]),
        lambda: stream.path_effects(model, batch, clean, "zero", 0),
    ):
        with pytest.raises(UsageError, match="stream='none'"):
            call()
