"""Caches, hooks, stacked weights and foldings: what the tools build on gives exact sums and equal functions."""

import inspect

import pytest
import torch
from transformer_lens.model_protocol import TransformerLensModelWithWeights

from tests.reference_model import random_model, random_tokens
from workbench.errors import UsageError
from workbench.model import ActivationCache, HookedTransformer

STREAMS = ("none", "query", "key", "value")
TOKENS = random_tokens()


def cached(model, tokens=TOKENS, **kwargs):
    with torch.no_grad():
        return model.run_with_cache(tokens, **kwargs)


def test_the_model_is_what_the_tools_take():
    model = random_model(stream="value")
    assert isinstance(model, TransformerLensModelWithWeights)
    members = {name for part in TransformerLensModelWithWeights.__mro__[:2] for name in vars(part) if not name.startswith("_")}
    assert {"cfg", "blocks", "ln_final", "run_with_cache", "tokens_to_residual_directions"} <= members
    for member in members:
        inspect.getattr_static(model, member)  # how Python 3.12 and beartype look, which sees no registered submodule


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("kind", ["attn_only", "after", "parallel"])
def test_decompositions_add_up(stream, kind):
    model = random_model(stream=stream, attn_only=kind == "attn_only", parallel_attn_mlp=kind == "parallel", normalization_type="LNPre")
    _, cache = cached(model)
    for layer in (1, 2, 3):
        resid = cache["resid_pre", layer] if layer < 3 else cache["resid_post", 2]
        torch.testing.assert_close(cache.accumulated_resid(layer)[-1], resid)
        torch.testing.assert_close(cache.decompose_resid(layer).sum(dim=0), resid)
        torch.testing.assert_close(cache.get_full_resid_decomposition(layer).sum(dim=0), resid)
        torch.testing.assert_close(cache.get_full_resid_decomposition(layer, expand_neurons=False).sum(dim=0), resid)
        heads, labels = cache.stack_head_results(layer, return_labels=True, incl_remainder=True)
        torch.testing.assert_close(heads.sum(dim=0), resid)
        assert labels == [*model.all_head_labels()[: 2 * layer], "remainder"]
        torch.testing.assert_close(heads[2 * layer - 1], cache["z", layer - 1][:, :, 1] @ model.W_O[layer - 1, 1])
    torch.testing.assert_close(cache.accumulated_resid(incl_mid=kind == "after")[0], cache["hook_embed"] + cache["hook_pos_embed"])


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_attributions_add_up_to_the_logit_once_the_norm_is_folded(stream, norm):
    learned = random_model(stream=stream, normalization_type=norm, attn_only=False)
    with pytest.raises(UsageError, match=r"ignores the learned scale and shift of ln_final; use model.fold_layer_norm\(\) first"):
        cached(learned)[1].logit_attrs(cached(learned)[1].decompose_resid(), 3)
    model = learned.fold_layer_norm()
    logits, cache = cached(model)
    for stack in (cache.decompose_resid(), cache.stack_head_results(incl_remainder=True), cache.get_full_resid_decomposition()):
        torch.testing.assert_close(cache.logit_attrs(stack, 3).sum(dim=0) + model.b_U[3], logits[..., 3])
        difference = cache.logit_attrs(stack, "3", incorrect_tokens="5").sum(dim=0)
        torch.testing.assert_close(difference + model.b_U[3] - model.b_U[5], logits[..., 3] - logits[..., 5])
    per_example = cache.logit_attrs(cache.decompose_resid(pos_slice=-1), torch.tensor([2, 6]), pos_slice=-1).sum(dim=0)
    torch.testing.assert_close(per_example + model.b_U[[2, 6]], logits[[0, 1], -1, [2, 6]])


def test_no_route_past_a_learned_norm():
    model = random_model(attn_only=False)
    _, cache = cached(model)
    routes = {
        "ln_final": [
            lambda: cache.decompose_resid(apply_ln=True),
            lambda: cache.stack_head_results(apply_ln=True),
            lambda: cache.get_full_resid_decomposition(apply_ln=True),
            lambda: cache.stack_neuron_results(3, apply_ln=True, project_output_onto=model.W_U),
            lambda: cache.apply_ln_to_stack(cache.decompose_resid(), layer=-1),
        ],
        "blocks.1.ln1": [lambda: cache.decompose_resid(1, apply_ln=True), lambda: cache.accumulated_resid(1, apply_ln=True)],
        "blocks.1.ln2": [lambda: cache.decompose_resid(1, mlp_input=True, apply_ln=True)],
    }
    for norm, calls in routes.items():
        for call in calls:
            with pytest.raises(UsageError, match=f"scale and shift of {norm};"):
                call()
    # The whole norm is applied here, so this is right without folding.
    lens = cache.accumulated_resid(apply_ln=True)[-1] @ model.W_U + model.b_U
    torch.testing.assert_close(lens, cache["unembed.hook_out"])


def test_keys_of_the_cache():
    model = random_model(stream="value", attn_only=False)
    _, cache = cached(model)
    assert isinstance(cache, ActivationCache)
    for key, name in {
        ("v_stream", 1): "blocks.1.attn.hook_v_stream",
        ("v_used", -1): "blocks.2.attn.hook_v_used",
        ("pattern", -3): "blocks.0.attn.hook_pattern",
        ("v_stream", 2, "attn"): "blocks.2.attn.hook_v_stream",
        "embed": "hook_embed",
    }.items():
        assert cache[key] is cache.cache_dict[name]
    for key, text in {
        ("v_stream", 0): "no blocks.0.attn.hook_v_stream; only layers that receive a stream",
        ("v_stream", 4): "no blocks.4.attn.hook_v_stream",
        ("k_used", 1): "no blocks.1.attn.hook_k_used; only layers",
        ("result", 1): "no blocks.1.attn.hook_result",
    }.items():
        with pytest.raises(UsageError, match=text):
            cache[key]
        with pytest.raises(KeyError):
            cache[key]
    with pytest.raises(UsageError, match=r"no blocks\.1\.hook_mlp_out; the model is attention-only"):
        cached(random_model())[1]["mlp_out", 1]


def test_one_sequence_without_its_batch_axis():
    model = random_model(stream="value", attn_only=False, normalization_type="LNPre")
    with_batch, (logits, without) = cached(model, TOKENS[:1])[1], cached(model, TOKENS[:1], remove_batch_dim=True)
    assert logits.shape == (1, 5, 7) and not without.has_batch_dim
    assert with_batch.keys() == without.keys() and all(torch.equal(without[name], with_batch[name][0]) for name in without)
    torch.testing.assert_close(without.decompose_resid().sum(dim=0), without["resid_post", -1])
    attributions = without.logit_attrs(without.decompose_resid(), 3, has_batch_dim=False)
    torch.testing.assert_close(attributions.sum(dim=0) + model.b_U[3], logits[0, :, 3])
    plain = cached(model, TOKENS[0], remove_batch_dim=True, return_cache_object=False)[1]
    assert type(plain) is dict and plain["blocks.0.hook_resid_pre"].shape == (5, 6)
    assert torch.equal(with_batch.remove_batch_dim()["v", 1], without["v", 1])
    with pytest.raises(UsageError, match="needs a batch of one sequence, got 2"):
        cached(model, remove_batch_dim=True)


def test_names_filters():
    model = random_model(stream="value")
    one, two = "blocks.1.attn.hook_v_stream", "blocks.0.attn.hook_pattern"
    patterns = {f"blocks.{layer}.attn.hook_pattern" for layer in range(3)}
    for names, kept in (
        (one, {one}),
        ([one, two], {one, two}),
        ((one, two), {one, two}),
        (lambda name: name.endswith("hook_pattern"), patterns),
        ([], set()),
    ):
        assert set(cached(model, names_filter=names)[1].keys()) == kept
    assert set(cached(model)[1].keys()) == {
        name for name in model.hook_dict if not name.endswith(("_input", "_in", "_result")) or name == "unembed.hook_in"
    }


@pytest.mark.parametrize(
    ("pos_slice", "kept"), [(-1, [4]), (2, [2]), ((1, 4), [1, 2, 3]), ([0, 3], [0, 3]), (None, [0, 1, 2, 3, 4])], ids=str
)
def test_position_slices(pos_slice, kept):
    """As in TransformerLens, a single position keeps its axis."""
    model = random_model(stream="value", attn_only=False)
    model.set_use_attn_result(True)
    whole, sliced = cached(model)[1], cached(model, pos_slice=pos_slice)[1]
    for name, value in whole.items():
        axis = 2 if name.endswith(("attn_scores", "pattern")) else 1
        assert torch.equal(sliced[name], value.index_select(axis, torch.tensor(kept))), name
    split = random_model(normalization_type="LN")
    split.set_use_split_qkv_input(True)
    assert cached(split, pos_slice=(1, 4))[1]["blocks.0.ln1.hook_scale"].shape == (2, 3, 2, 1)


def test_gradients_in_the_cache():
    model = random_model(stream="value")
    _, cache = model.run_with_cache(TOKENS, return_type="loss", incl_bwd=True, pos_slice=-2)
    name = "blocks.1.attn.hook_v_stream_grad"
    value = None

    def keep(activation, hook):
        nonlocal value
        value = activation.clone()  # the stream's own copy: without it, layer 0's use of its values would count too
        value.retain_grad()
        return value

    model.run_with_hooks(TOKENS, "loss", fwd_hooks=[(name.removesuffix("_grad"), keep)]).backward()
    torch.testing.assert_close(cache[name], value.grad[:, 3:4])


def test_hooks_leave_no_trace():
    model = random_model(stream="value", dropout=0.1)
    expected = model(TOKENS)

    def broken(value, hook):
        raise RuntimeError("inside a hook")

    for mode in (True, False):
        model.train(mode)
        for call in (
            lambda: model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.attn.hook_v_stream", broken)]),
            lambda: model.run_with_cache(torch.full((1, 3), 99)),
        ):
            with pytest.raises((RuntimeError, IndexError)):
                call()
        cached(model)
        assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_points())
        assert model.is_caching is False and model.context_level == 0 and model.training is mode
        assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(model(TOKENS), expected)


def test_run_with_hooks_edits_what_it_names():
    model = random_model(stream="value")
    logits = model.run_with_hooks(TOKENS, fwd_hooks=[(lambda name: name.endswith("hook_z"), lambda value, hook: value * 0)])
    heads_off = random_model(stream="value")
    with torch.no_grad():
        for block in heads_off.blocks:
            block.attn.W_O.zero_()
    torch.testing.assert_close(logits, heads_off(TOKENS))
    for name, text in {
        "blocks.0.attn.hook_v_stream": "unknown hook 'blocks.0.attn.hook_v_stream'; did you mean",
        "blocks.0.attn.hook_result": r"blocks.0.attn.hook_result is passed only after model.set_use_attn_result\(True\)",
        "blocks.0.hook_q_input": r"set_use_split_qkv_input\(True\)",
    }.items():
        with pytest.raises(UsageError, match=text):
            model.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda value, hook: value)])


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("norm", ["LN", "RMS"])
@pytest.mark.parametrize("tied", [False, True])
def test_folding_the_norms_changes_no_number(stream, norm, tied):
    model = random_model(
        stream=stream, stream_source="accumulated", normalization_type=norm, tie_word_embeddings=tied, attn_only=False, attn_bias=False,
        mlp_bias=False, unembed_bias=False, frozen=("ln_final.*", "*.W_K"),
    )  # fmt: skip
    folded = model.fold_layer_norm()
    (logits, cache), (same, folded_cache) = cached(model), cached(folded)
    torch.testing.assert_close(same, logits, rtol=1e-10, atol=1e-10)
    assert not any(name.split(".")[-2].startswith("ln") for name, _ in folded.named_parameters())
    streams = [name for name in cache if name.endswith(("_stream", "_used", "hook_q", "hook_k", "hook_v", "hook_pre"))]
    assert len(streams) == 12 + (0 if stream == "none" else 4)
    for name in streams:
        torch.testing.assert_close(folded_cache[name], cache[name])
    assert folded.config.normalization_type == f"{norm}Pre" and folded.W_E.dtype == torch.float64 and not folded.training
    assert all(parameter.requires_grad for parameter in folded.parameters())
    assert "ln_final.w" in model.state_dict() and torch.equal(model(TOKENS), logits)


def test_folding_where_nothing_is_to_fold_gives_a_copy():
    model = random_model(normalization_type=None)
    copy = model.fold_layer_norm()
    with torch.no_grad():
        copy.embed.W_E.zero_()
    assert not torch.equal(copy(TOKENS), model(TOKENS))


def test_folding_the_value_biases():
    for stream in ("none", "query", "key"):
        model = random_model(stream=stream)
        folded = model.fold_value_biases()
        torch.testing.assert_close(folded(TOKENS), model(TOKENS))
        assert (folded.b_V == 0).all() and (model.b_V != 0).any()
    with pytest.raises(UsageError, match="drop the share of b_V that reaches the next layer along the value stream"):
        random_model(stream="value").fold_value_biases()
    for stream in ("none", "value"):
        with pytest.raises(UsageError, match="refactor_factored_attn_matrices is not available: "):
            random_model(stream=stream).refactor_factored_attn_matrices()


def test_circuits_are_products_of_the_weights():
    model = random_model(n_layers=3, n_heads=2, attn_only=False)
    assert model.QK.shape == model.OV.shape == (3, 2, 6, 6)
    for layer, head in ((0, 0), (1, 1), (2, 0)):
        a = model.blocks[layer].attn
        torch.testing.assert_close(model.QK[layer, head].AB, a.W_Q[head] @ a.W_K[head].T)
        torch.testing.assert_close(model.OV[layer, head].AB, a.W_V[head] @ a.W_O[head])
    assert model.W_in.shape == (3, 6, 11) and torch.equal(model.b_out[2], model.blocks[2].mlp.b_out)
    with pytest.raises(AttributeError, match="W_in: the model is attention-only"):
        random_model().W_in  # noqa: B018


def test_moving_the_model_moves_cfg():
    model = HookedTransformer(random_model(stream="value").config)
    assert model.cfg.dtype == torch.float32 and model.cfg.device == "cpu"
    assert model.double() is model and model.cfg.dtype == torch.float64 == model.blocks[0].cfg.dtype
    assert model.to("meta").cfg.device == "meta"
