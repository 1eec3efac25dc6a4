"""TransformerLens's own tools on our model: right, or refused with the reason."""

import pytest
import torch
from transformer_lens import patching
from transformer_lens.head_detector import detect_head
from transformer_lens.tools.analysis import attribution_patch, direct_logit_attribution, get_act_patch_direct_path, logit_lens
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, Node

from tests.model.test_lens import cached
from tests.reference_model import random_model, random_tokens
from workbench.errors import UsageError

CLEAN, CORRUPTED = random_tokens(seed=1), random_tokens(seed=2)


def metric(logits):
    return logits[0, -1, 3] - logits[1, -1, 4]


def patched(model, name, select, clean_cache):
    """The metric of the corrupted run with part of one activation from the clean run, written by hand."""

    def replace(value, hook):
        value = value.clone()
        value[select] = clean_cache[name][select]
        return value

    with torch.no_grad():
        return metric(model.run_with_hooks(CORRUPTED, fwd_hooks=[(name, replace)])).item()


everything = slice(None)
SWEEPS = {
    # helper: (an index of its result, the hook, what is replaced)
    "resid_pre": ((1, 3), "blocks.1.hook_resid_pre", (everything, 3)),
    "attn_out": ((0, 2), "blocks.0.hook_attn_out", (everything, 2)),
    "attn_head_out_all_pos": ((1, 0), "blocks.1.attn.hook_z", (everything, everything, 0)),
    "attn_head_v_all_pos": ((0, 1), "blocks.0.attn.hook_v", (everything, everything, 1)),
    "attn_head_v_by_pos": ((0, 4, 1), "blocks.0.attn.hook_v", (everything, 4, 1)),
    "attn_head_pattern_all_pos": ((2, 1), "blocks.2.attn.hook_pattern", (everything, 1)),
}


@pytest.mark.parametrize("stream", ["none", "value"])
@pytest.mark.parametrize("helper", SWEEPS)
def test_patching_equals_a_hook_by_hand(helper, stream):
    index, name, select = SWEEPS[helper]
    model = random_model(stream=stream, stream_source="accumulated")
    _, clean_cache = cached(model, CLEAN)
    with torch.no_grad():
        result = getattr(patching, f"get_act_patch_{helper}")(model, CORRUPTED, clean_cache, metric)
        untouched = metric(model(CORRUPTED)).item()
    expected = patched(model, name, select, clean_cache)
    assert result[index].item() == pytest.approx(expected, rel=1e-5) and abs(expected - untouched) > 1e-4
    assert result.shape[0] == 3


def test_patching_what_an_attention_only_model_lacks():
    model = random_model()
    _, clean_cache = cached(model, CLEAN)
    for helper, missing in {"resid_mid": "hook_resid_mid", "mlp_out": "hook_mlp_out", "block_every": "hook_mlp_out"}.items():
        with pytest.raises(UsageError, match=f"the cache holds no blocks.0.{missing}; the model is attention-only"):
            getattr(patching, f"get_act_patch_{helper}")(model, CORRUPTED, clean_cache, metric)
    parallel = random_model(attn_only=False, parallel_attn_mlp=True)
    with pytest.raises(UsageError, match=r"no blocks\.0\.hook_resid_mid; attention and MLP run in parallel"):
        patching.get_act_patch_resid_mid(parallel, CORRUPTED, cached(parallel, CLEAN)[1], metric)


def test_patching_every_block_of_a_model_with_mlps():
    model = random_model(attn_only=False, stream="value")
    _, clean_cache = cached(model, CLEAN)
    with torch.no_grad():
        result = patching.get_act_patch_block_every(model, CORRUPTED, clean_cache, metric)
    assert result.shape == (3, 3, 5)
    assert result[2, 1, 4].item() == pytest.approx(patched(model, "blocks.1.hook_mlp_out", (everything, 4), clean_cache), rel=1e-5)


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_direct_paths_without_a_stream(component):
    model = random_model()
    (_, clean), (_, corrupted) = cached(model, CLEAN), cached(model, CORRUPTED)
    with torch.no_grad():
        result = get_act_patch_direct_path(model, CORRUPTED, clean, corrupted, metric, 0, 1, component, verbose=False)
    # By hand: head L0H1's change is added to what one projection of head L2H0 reads.
    written = (clean["z", 0] - corrupted["z", 0])[:, :, 1] @ model.W_O[0, 1]
    read = model.blocks[2].ln1(corrupted["resid_pre", 2] + written)
    weight, bias = (model.blocks[2].attn.get_parameter(f"{letter}_{component.upper()}")[0] for letter in "Wb")

    def replace(value, hook):
        value = value.clone()
        value[:, :, 0] = read @ weight + bias
        return value

    with torch.no_grad():
        expected = metric(model.run_with_hooks(CORRUPTED, fwd_hooks=[(f"blocks.2.attn.hook_{component}", replace)])).item()
        assert result[2, 0].item() == pytest.approx(expected, rel=1e-5) and abs(expected - metric(model(CORRUPTED)).item()) > 1e-5
    assert not model.cfg.use_split_qkv_input


@pytest.mark.parametrize("stream", ["query", "key", "value"])
def test_direct_paths_are_refused_with_a_stream(stream):
    model = random_model(stream=stream, attn_only=False)
    (_, clean), (_, corrupted) = cached(model, CLEAN), cached(model, CORRUPTED)
    hook = f"hook_{stream[0]}"
    with pytest.raises(UsageError, match=f"misses the wire of stream='{stream}'; patch {hook} or {hook}_stream instead"):
        get_act_patch_direct_path(model, CORRUPTED, clean, corrupted, metric, 0, 1, verbose=False)
    with pytest.raises(UsageError, match="misses the wire"):
        attribution_patch(model, CLEAN[:1], CORRUPTED[:1], lambda logits: logits[0, -1, 3], EdgeAttributionConfig(granularity="edge"))
    assert not (model.cfg.use_split_qkv_input or model.cfg.use_attn_result or model.cfg.use_hook_mlp_in)


def test_split_inputs_compute_the_same_model():
    model = random_model(attn_only=False)
    expected = model(CLEAN)
    for switch, other in (("use_attn_in", "use_split_qkv_input"), ("use_split_qkv_input", "use_attn_in")):
        getattr(model, f"set_{switch}")(True)
        torch.testing.assert_close(model(CLEAN), expected)
        with pytest.raises(UsageError, match="exclude each other"):
            getattr(model, f"set_{other}")(True)
        getattr(model, f"set_{switch}")(False)
    model.set_use_hook_mlp_in(True)
    model.set_use_attn_result(True)
    logits, cache = cached(model, CLEAN)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(cache["blocks.1.hook_mlp_in"], cache["resid_mid", 1])
    torch.testing.assert_close(cache["result", 1].sum(dim=2) + model.blocks[1].attn.b_O, cache["attn_out", 1])
    with pytest.raises(UsageError, match="hook_mlp_in needs MLPs"):
        random_model().set_use_hook_mlp_in(True)


def test_attribution_patching_is_the_first_order_effect():
    """Its node scores follow the gradient, which knows the wire too."""
    model = random_model(attn_only=False, stream="value")
    score = attribution_patch(model, CLEAN, CORRUPTED, lambda logits: logits[0, -1, 3], EdgeAttributionConfig())
    _, clean = cached(model, CLEAN)
    total = 0.0
    for one in range(2):
        embedded = model.embed(CORRUPTED[one : one + 1]).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs_embeds=embedded)[0, -1, 3], embedded)
        total += ((clean["hook_embed"][one] - embedded[0]) * gradient[0])[1].sum().item() / 2
    assert score.node_scores[Node("embed", position=1)] == pytest.approx(total, rel=1e-5)


def test_attribution_patching_refuses_what_it_cannot_see():
    def target(logits):
        return logits[0, -1, 3]

    edges = EdgeAttributionConfig(granularity="edge")
    with pytest.raises(ValueError, match=r"requires hook points missing from the cache: blocks\.0\.hook_mlp_out"):
        attribution_patch(random_model(), CLEAN, CORRUPTED, target, EdgeAttributionConfig())
    with pytest.raises(UsageError, match="hook_mlp_in needs MLPs"):
        attribution_patch(random_model(), CLEAN, CORRUPTED, target, edges)
    with pytest.raises(ValueError, match=r"requires hook points missing from the cache: blocks\.0\.attn\.hook_q_input"):
        attribution_patch(random_model(attn_only=False), CLEAN, CORRUPTED, target, edges)


@pytest.mark.parametrize("stream", ["none", "value"])
def test_direct_logit_attribution(stream):
    learned = random_model(stream=stream, attn_only=False)
    for unit in ("component", "layer", "head"):
        with pytest.raises(UsageError, match="fold_layer_norm"):
            direct_logit_attribution(learned, CLEAN, answer_tokens=3, unit=unit)
        with pytest.raises(UsageError, match="fold_layer_norm"):
            direct_logit_attribution(learned, cache=cached(learned, CLEAN)[1], answer_tokens=3, unit=unit)
    model = learned.fold_layer_norm()
    logits = model(CLEAN)[:, -1]
    for unit in ("component", "head"):
        parts = direct_logit_attribution(model, CLEAN, answer_tokens=3, incorrect_tokens=5, unit=unit).attribution
        torch.testing.assert_close(parts.sum(dim=0) + model.b_U[3] - model.b_U[5], logits[:, 3] - logits[:, 5])
    by_layer = direct_logit_attribution(model, CLEAN, answer_tokens=3, unit="layer")
    torch.testing.assert_close(by_layer.attribution[-1] + model.b_U[3], logits[:, 3])
    with pytest.raises(ValueError, match="evaluation mode"):
        direct_logit_attribution(model.train(), CLEAN, answer_tokens=3)


@pytest.mark.parametrize("norm", ["LN", "RMS", "LNPre", None])
@pytest.mark.parametrize("attn_only", [True, False])
def test_the_logit_lens_ends_at_the_logits(norm, attn_only):
    model = random_model(stream="value", normalization_type=norm, attn_only=attn_only)
    with torch.no_grad():
        lens = logit_lens(model, CLEAN, positions=None, return_type="logits")
        torch.testing.assert_close(lens.values[-1], model(CLEAN))
        first = model.unembed(model.ln_final(model.embed(CLEAN) + model.pos_embed(5)))
    torch.testing.assert_close(lens.values[0], first)
    with pytest.raises(ValueError, match="evaluation mode"):
        logit_lens(model.train(), CLEAN)


def test_detect_head_finds_what_is_there():
    """A head that attends to the previous position alone, by its weights: learned positions, one step back."""
    model = random_model(n_heads=1, d_model=11, d_head=11, normalization_type=None, n_layers=2, n_ctx=11).float()
    with torch.no_grad():
        model.embed.W_E.zero_()
        model.pos_embed.W_pos.copy_(torch.eye(11))
        model.blocks[0].attn.W_Q.copy_(100 * torch.eye(11)[None])
        model.blocks[0].attn.W_K.copy_(torch.eye(11).roll(1, dims=1)[None])
        for letter in "QK":
            getattr(model.blocks[0].attn, f"b_{letter}").zero_()
        score = detect_head(model, "3 1 4 1 5 2 6", "previous_token_head", error_measure="mul")
    assert score.shape == (2, 1)
    # The first position can only attend to itself, which detect_head counts against the head.
    assert score[0, 0].item() == pytest.approx(6 / 7, abs=1e-4) and score[1, 0] < 0.7


def test_tokens_are_ids():
    model = random_model()
    assert model.to_tokens("3 1 4").tolist() == [[3, 1, 4]] == model.to_tokens([3, 1, 4]).tolist()
    assert model.to_tokens(CLEAN).shape == (2, 5) and model.to_str_tokens("3 1") == ["3", "1"]
    for text in ("7", "x", "-1", ""):
        with pytest.raises(UsageError, match=r"is not a token id of this model \(0 to 6\)"):
            model.to_single_token(text)
    assert torch.equal(model.tokens_to_residual_directions("3"), model.W_U[:, 3])
    assert torch.equal(model.tokens_to_residual_directions(torch.tensor([3, 5])), model.W_U[:, [3, 5]].T)
