"""Direct contributions: they sum to the centred logit; slow loops; TransformerLens; hand-built models whose answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.hand_built import D_VOCAB, bag_of_tokens, induction, positional
from tests.reference_model import random_model, random_tokens, reference
from workbench import HookedTransformer, ModelConfig
from workbench.analysis import attribution
from workbench.analysis.data import AnalysisData
from workbench.config import RepeatedTokensConfig
from workbench.evaluation import evaluate
from workbench.tasks import make_task
from workbench.tasks.base import Batch

TASK = make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=16, placement="non-periodic", distinct=True))
NORMS = ["LN", "LNPre", "RMS", "RMSPre", None]
MLPS = [{"attn_only": True}, {"attn_only": False}, {"attn_only": False, "parallel_attn_mlp": True}]
STREAMS = ["none", "query", "key", "value"]
SOURCES = ["previous", "accumulated", "first"]
MIXES = [{}, {"stream_mix": "learned"}, {"stream_init": (0.5, -0.25)}]
PERMUTATIONS = ["none", "fixed", "by-position"]
CENTRED = 3.0 - 3.0 / D_VOCAB
"""the centred logit of a token whose logit is 3, all others 0"""
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@torch.no_grad()
def contributions(model: HookedTransformer, tokens: Tensor, targets: Tensor):
    """(contributions, centred logits of the targets, cache)"""
    logits, cache = model.run_with_cache(tokens, names_filter=attribution.needed(model.config))
    centred = logits.gather(2, targets[:, :, None])[:, :, 0] - logits.mean(dim=-1)
    return attribution.direct_contributions(model, cache, targets), centred, cache


def data_for(model: HookedTransformer, sequences: int = 24, task=TASK) -> AnalysisData:
    return AnalysisData.draw(model.config, task, sequences=sequences)


def rows_of(model: HookedTransformer, data: AnalysisData | None = None):
    """(metric, layer, head, part) -> value, of the rows of contributions"""
    rows = [row for row in attribution.measure(model, data or data_for(model)) if row["metric"].startswith("direct")]
    table = {tuple(row.get(place) for place in ("metric", "layer", "head", "part")): row["value"] for row in rows}
    assert len(table) == len(rows) and all(row["sample"].estimate().value.item() == row["value"] for row in rows)
    return table


def assert_exact(model: HookedTransformer, tolerance=CLOSE):
    """Every sum that must hold, on random tokens."""
    tokens, targets = random_tokens(3, 5), random_tokens(3, 5, seed=2)
    parts, centred, cache = contributions(model, tokens, targets)
    torch.testing.assert_close(parts.total(), centred, **tolerance)
    assert set(parts.own) == set(parts.streamed) == ({1, 2} if model.config.stream == "value" else set())
    for layer in parts.own:
        torch.testing.assert_close(parts.own[layer] + parts.streamed[layer], parts.heads[layer], **tolerance)
        assert parts.streamed[layer].abs().max() > 1e-3
    for layer in range(3):
        direction = attribution.logit_direction(model, cache, targets)
        by_source = attribution.contributions_by_source(model, cache, layer, direction)
        torch.testing.assert_close(by_source.sum(dim=-1).transpose(1, 2), parts.heads[layer], **tolerance)


@pytest.mark.parametrize(("norm", "mlp", "stream"), list(itertools.product(NORMS, MLPS, STREAMS)))
def test_contributions_sum_to_the_centred_logit(norm, mlp, stream):
    assert_exact(random_model(normalization_type=norm, stream=stream, n_heads=3, **mlp))


@pytest.mark.parametrize(("source", "mix", "permuted"), list(itertools.product(SOURCES, MIXES, PERMUTATIONS)))
def test_every_value_stream_is_split_exactly(source, mix, permuted):
    assert_exact(random_model(stream="value", stream_source=source, stream_permute_heads=permuted, n_heads=3, **mix))


@pytest.mark.parametrize("positions", ["standard", "sinusoidal", "relative", "rotary", "none"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_kind_of_position_and_tied_embeddings(positions, tied):
    model = random_model(positional_embedding_type=positions, tie_word_embeddings=tied, attn_only=False)
    assert_exact(model)
    parts, _, _ = contributions(model, random_tokens(), random_tokens(seed=2))
    assert (parts.pos_embed is None) == (positions in ("relative", "rotary", "none"))


def test_in_single_precision():
    torch.manual_seed(0)
    model = HookedTransformer(ModelConfig(stream="value", n_layers=2, attn_only=False)).eval()
    tokens = random_tokens(8, 64, 65)
    parts, centred, _ = contributions(model, tokens, tokens.roll(-1, 1))
    assert parts.total().dtype == torch.float32
    torch.testing.assert_close(parts.total(), centred, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("norm", "mlp"), list(itertools.product(NORMS, MLPS)))
def test_each_component_against_a_loop(norm, mlp):
    """A component's vector through the norm with the scale of the pass, then through the unembedding, written forwards."""
    mix = {"stream": "value", "stream_init": (0.5, -0.25)}
    model = random_model(normalization_type=norm, **mlp, **mix)
    with torch.no_grad():
        for parameter in model.parameters() if norm is None else ():
            parameter.mul_(0.5)  # without a norm the loop's plain softmax would overflow
    tokens, targets = random_tokens(2, 5), random_tokens(2, 5, seed=2)
    parts, _, _ = contributions(model, tokens, targets)
    fields = model.config.to_dict()
    _, acts = reference(model.state_dict(), tokens, **fields)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    acts = {name: value.numpy() for name, value in acts.items()}

    def share(vector, b, t, shift=False):
        if norm in ("LN", "LNPre"):
            vector = vector - vector.mean()
        if norm is not None:
            vector = vector / acts["ln_final.hook_scale"][b, t]
        if norm in ("LN", "RMS"):
            vector = vector * state["ln_final.w"]
        if shift:
            vector = vector + state.get("ln_final.b", 0.0)
        logits = vector @ state["unembed.W_U"] + (state["unembed.b_U"] if shift else 0.0)
        return logits[targets[b, t]] - logits.mean()

    for b, t in itertools.product(range(2), range(5)):
        expected = {
            "embed": share(acts["hook_embed"][b, t], b, t),
            "pos_embed": share(acts["hook_pos_embed"][b, t], b, t),
            "bias": share(sum(state[f"blocks.{layer}.attn.b_O"] for layer in range(3)), b, t, shift=True),
        }
        for name, value in expected.items():
            assert getattr(parts, name)[b, t].item() == pytest.approx(value, abs=1e-9), name
        for layer in range(3):
            attn = f"blocks.{layer}.attn"
            if not model.config.attn_only:
                assert parts.mlp[layer][b, t].item() == pytest.approx(share(acts[f"blocks.{layer}.hook_mlp_out"][b, t], b, t), abs=1e-9)
            for head in range(2):
                pattern = acts[f"{attn}.hook_pattern"][b, head, t]
                output = state[f"{attn}.W_O"][head]
                whole = share(acts[f"{attn}.hook_z"][b, t, head] @ output, b, t)
                assert parts.heads[layer][b, t, head].item() == pytest.approx(whole, abs=1e-9)
                if layer == 0:
                    continue
                own = sum(pattern[s] * 0.5 * acts[f"{attn}.hook_v"][b, s, head] for s in range(t + 1)) @ output
                streamed = sum(pattern[s] * acts[f"{attn}.hook_v_stream"][b, s, head] for s in range(t + 1)) @ output
                assert parts.own[layer][b, t, head].item() == pytest.approx(share(own, b, t), abs=1e-9)
                assert parts.streamed[layer][b, t, head].item() == pytest.approx(share(streamed, b, t), abs=1e-9)


@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_as_transformer_lens_on_the_folded_model(norm):
    model = random_model(normalization_type=norm, n_heads=3)
    tokens, targets = random_tokens(), random_tokens(seed=2)
    parts, _, _ = contributions(model, tokens, targets)
    folded = model.fold_layer_norm()
    with torch.no_grad():
        _, cache = folded.run_with_cache(tokens)
        of_tokens = torch.stack([cache.logit_attrs(cache.stack_head_results(), token) for token in range(7)])
    centred = of_tokens - of_tokens.mean(dim=0)
    for layer, head, b, t in itertools.product(range(3), range(3), range(2), range(5)):
        theirs = centred[targets[b, t], 3 * layer + head, b, t].item()
        assert parts.heads[layer][b, t, head].item() == pytest.approx(theirs, abs=1e-5)


def test_sources_against_a_loop():
    model = random_model(stream="value", n_ctx=11)
    tokens, targets = random_tokens(3, 11, 4), random_tokens(3, 11, seed=2)
    answered = torch.rand(3, 11, generator=torch.Generator().manual_seed(0)) < 0.5
    _, _, cache = contributions(model, tokens, targets)
    with torch.no_grad():
        direction = attribution.logit_direction(model, cache, targets)
        by_source = attribution.contributions_by_source(model, cache, 1, direction)
    found = attribution.direct_logit_by_source(by_source, tokens, answered)
    for b, head in itertools.product(range(3), range(2)):
        expected = dict.fromkeys(attribution.SOURCES, 0.0)
        z = tokens[b].tolist()
        for t in range(11):
            for s in range(t + 1) if answered[b, t] else ():
                follows = any(z[r] == z[t] and r + 1 == s for r in range(t))
                kind = "answer" if follows else "same" if z[s] == z[t] else "other"
                value = cache["pattern", 1][b, head, t, s] * (cache["v_used", 1][b, s, head] @ model.blocks[1].attn.W_O[head])
                expected[kind] += (value @ direction[b, t]).item()
        np.testing.assert_allclose(found.sums[b, head].tolist(), list(expected.values()), atol=1e-9)
    assert found.counts.tolist() == answered.sum(dim=1).tolist()


def test_a_source_of_both_kinds_is_an_answer():
    kinds = attribution.source_kinds(torch.tensor([[5, 5, 7, 5]]))
    named = [[attribution.SOURCES[int(kind.float().argmax())] for kind in row[: t + 1]] for t, row in enumerate(kinds[0])]
    assert named == [["same"], ["same", "answer"], ["other", "other", "same"], ["same", "answer", "answer", "same"]]
    assert (kinds.sum(dim=-1)[0] == torch.ones(4, 4).tril()).all()


@pytest.mark.parametrize(("copying", "own"), [("own", 1.0), ("stream", 0.0), ("both", 0.5)])
def test_the_induction_head_writes_the_logit_and_by_the_way_that_it_copies(copying, own):
    table = rows_of(induction("value", copying))
    assert table["direct_logit_attribution", 1, 0, None] == pytest.approx(CENTRED, abs=1e-4)
    assert table["direct_logit_attribution", 1, 0, "own"] == pytest.approx(own * CENTRED, abs=1e-4)
    assert table["direct_logit_attribution", 1, 0, "streamed"] == pytest.approx((1 - own) * CENTRED, abs=1e-4)
    assert table["direct_logit_by_source", 1, 0, "answer"] == pytest.approx(CENTRED, abs=1e-4)
    others = {key: value for key, value in table.items() if key[1:3] != (1, 0) or key[3] in ("same", "other")}
    assert len(others) == 3 + 3 * (1 + 3) + 2 + 2 and all(value == pytest.approx(0.0, abs=1e-4) for value in others.values())


def test_heads_that_do_not_match_have_little_from_the_answer():
    assert rows_of(induction())["direct_logit_by_source", 1, 0, "answer"] > 2.7
    for model in (bag_of_tokens(), positional(5)):
        table = rows_of(model)
        assert table["direct_logit_by_source", 1, 0, "answer"] < 1.0
        assert all(table["direct_logit_by_source", 1, 1, part] == 0.0 for part in attribution.SOURCES)


@pytest.mark.parametrize("stream", ["none", "value"])
def test_rows_are_the_means_over_answered_positions_of_the_scored_half(stream):
    """More sequences than a forward pass takes."""
    model = random_model(stream=stream, attn_only=False, d_vocab=D_VOCAB, n_ctx=16)
    data = data_for(model, 140)
    table = rows_of(model, data)
    batch = data.scoring
    parts, centred, _ = contributions(model, batch.tokens, batch.targets)
    head_rows = [value for key, value in table.items() if key[0] == "direct_logit_attribution" and key[3] not in ("own", "streamed")]
    assert len(head_rows) == 6 + 3 + 3
    assert sum(head_rows) == pytest.approx(centred[batch.answered].mean().item(), abs=1e-5)
    for layer, head in itertools.product(range(3), range(2)):
        whole = table["direct_logit_attribution", layer, head, None]
        assert whole == pytest.approx(parts.heads[layer][..., head][batch.answered].mean().item(), abs=1e-5)
        assert sum(table["direct_logit_by_source", layer, head, part] for part in attribution.SOURCES) == pytest.approx(whole, abs=1e-5)
        assert (("direct_logit_attribution", layer, head, "own") in table) == (stream == "value" and layer > 0)
        if stream == "value" and layer > 0:
            for part, values in (("own", parts.own), ("streamed", parts.streamed)):
                expected = values[layer][..., head][batch.answered].mean().item()
                assert table["direct_logit_attribution", layer, head, part] == pytest.approx(expected, abs=1e-5)
    for layer in range(3):
        assert table["direct_logit_attribution", layer, None, "mlp"] == pytest.approx(
            parts.mlp[layer][batch.answered].mean().item(), abs=1e-5
        )


def test_no_rows_where_nothing_is_answered_and_none_for_missing_parts():
    model = random_model(d_vocab=D_VOCAB, n_ctx=16, positional_embedding_type="none")
    data = data_for(model)
    assert {key[3] for key in rows_of(model, data)} == {None, "embed", "bias", *attribution.SOURCES}
    batch = data.batches[data.own]
    nothing = Batch(batch.tokens, batch.targets, torch.zeros_like(batch.answered), batch.unanswerable)
    silent = AnalysisData(data.tasks, data.batches | {data.own: nothing})
    rows = list(attribution.measure(model, silent))
    assert {row["metric"] for row in rows} == {"loss_by_position"} and not any(np.isnan(row["value"]) for row in rows)


def test_the_model_is_left_as_it_was():
    model = random_model(stream="value", d_vocab=D_VOCAB, n_ctx=16)
    data = data_for(model)
    before = evaluate(model, data.scoring)
    state = torch.get_rng_state()
    list(attribution.measure(model, data))
    assert torch.equal(evaluate(model, data.scoring).losses, before.losses)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not hook.fwd_hooks for hook in model.hook_dict.values())
