"""Residual attention streams: what the wire carries, where it ends, and what an edit on it changes."""

import itertools

import pytest
import torch

from tests.model.test_attention import assert_equals_reference
from tests.reference_model import random_model, random_tokens
from workbench.config import ModelConfig
from workbench.errors import ConfigError, UsageError
from workbench.model import HookedTransformer

LETTER = {"query": "q", "key": "k", "value": "v"}
SOURCES = ("previous", "accumulated", "first")
ALL = list(itertools.product(LETTER, SOURCES))


def run(model, tokens, edits=None):
    """(logits, cache) with some hooks' values replaced: {name: function of the value}."""
    fwd_hooks = [(name, lambda value, hook, edit=edit: edit(value)) for name, edit in (edits or {}).items()]
    with torch.no_grad(), model.hooks(fwd_hooks):
        return model.run_with_cache(tokens)


def shifted(value):
    return value + torch.arange(value.numel(), dtype=value.dtype).sin().view_as(value)


@pytest.mark.parametrize(("stream", "source"), ALL)
@pytest.mark.parametrize("positions", ["standard", "relative", "rotary"])
def test_every_stream_equals_the_loops(stream, source, positions):
    model = random_model(stream=stream, stream_source=source, positional_embedding_type=positions, n_layers=3, attn_only=False)
    assert_equals_reference(model, random_tokens())


@pytest.mark.parametrize(("stream", "source"), ALL)
def test_the_hooks_hold_what_they_are_called(stream, source):
    p = LETTER[stream]
    model = random_model(stream=stream, stream_source=source, n_layers=5)
    _, cache = run(model, random_tokens())
    for layer in range(5):
        a = model.blocks[layer].attn
        read = model.blocks[layer].ln1(cache["resid_pre", layer])
        own = torch.einsum("bpm,hmd->bphd", read, a.get_parameter(f"W_{p.upper()}"))
        own = own + a.get_parameter(f"b_{p.upper()}")
        torch.testing.assert_close(cache[p, layer], own)
        values = cache["v_used", layer] if stream == "value" and layer else cache["v", layer]
        torch.testing.assert_close(cache["z", layer], torch.einsum("bhts,bshd->bthd", cache["pattern", layer], values))
        if layer:
            source_value = {
                "previous": cache[p, layer - 1],
                "first": cache[p, 0],
                "accumulated": sum(cache[p, below] for below in range(layer)),
            }[source]
            torch.testing.assert_close(cache[f"{p}_stream", layer], source_value)
            torch.testing.assert_close(cache[f"{p}_used", layer], cache[p, layer] + cache[f"{p}_stream", layer])
    expected = {f"blocks.{layer}.attn.hook_{p}_{kind}" for layer in range(1, 5) for kind in ("stream", "used")}
    assert {name for name in model.hook_dict if name.endswith(("_stream", "_used"))} == expected
    assert {name for name in cache if name.endswith(("_stream", "_used"))} == expected
    assert not any(name.endswith(("_stream", "_used")) for name in random_model().hook_dict)


@pytest.mark.parametrize("stream", LETTER)
def test_the_sources_coincide_in_two_layers_and_differ_in_three(stream):
    for n_layers, differ in ((2, False), (3, True)):
        models = [random_model(stream=stream, stream_source=source, n_layers=n_layers) for source in SOURCES]
        logits = [model(random_tokens()) for model in models]
        for one, two in itertools.combinations(logits, 2):
            assert ((one - two).abs().max() > 1e-3) if differ else torch.equal(one, two)


@pytest.mark.parametrize("stream", LETTER)
def test_a_stream_changes_the_model_and_stops_at_the_first_layer(stream):
    plain, streamed = run(random_model(), random_tokens()), run(random_model(stream=stream), random_tokens())
    assert (plain[0] - streamed[0]).abs().max() > 1e-3
    assert torch.equal(plain[1]["resid_post", 0], streamed[1]["resid_post", 0])


def hold_attention(cache, n_layers):
    """Edits that hold every layer's attention output, so that only the wire can carry anything on."""
    return {f"blocks.{layer}.hook_attn_out": lambda value, layer=layer: cache["attn_out", layer] for layer in range(n_layers)}


@pytest.mark.parametrize("stream", LETTER)
def test_an_edit_of_the_first_layers_projection_travels(stream):
    p = LETTER[stream]
    for source in SOURCES:
        model = random_model(stream=stream, stream_source=source, n_layers=4)
        _, before = run(model, random_tokens())
        held = hold_attention(before, 4)
        _, after = run(model, random_tokens(), {f"blocks.0.attn.hook_{p}": shifted} | held)
        changed = {layer for layer in (1, 2, 3) if not torch.equal(before[f"{p}_stream", layer], after[f"{p}_stream", layer])}
        assert changed == ({1} if source == "previous" else {1, 2, 3})
        torch.testing.assert_close(after[f"{p}_stream", 1], shifted(before[p, 0]))
        torch.testing.assert_close(after[p, 1], before[p, 1])


@pytest.mark.parametrize("stream", LETTER)
def test_an_edit_on_the_wire_cuts_it_into_that_layer(stream):
    p = LETTER[stream]
    for source in SOURCES:
        model = random_model(stream=stream, stream_source=source, n_layers=4)
        _, before = run(model, random_tokens())
        held = hold_attention(before, 4)
        _, after = run(model, random_tokens(), {f"blocks.1.attn.hook_{p}_stream": torch.zeros_like} | held)
        assert torch.equal(after[f"{p}_used", 1], before[p, 1])
        changed = {layer for layer in (2, 3) if not torch.equal(after[f"{p}_stream", layer], before[f"{p}_stream", layer])}
        assert changed == ({2, 3} if source == "accumulated" else set())
        if source == "accumulated":
            torch.testing.assert_close(after[f"{p}_stream", 3], before[p, 1] + before[p, 2])


@pytest.mark.parametrize("source", SOURCES)
def test_cutting_every_wire_leaves_the_plain_model(source):
    plain = random_model()
    for stream, p in LETTER.items():
        model = random_model(stream=stream, stream_source=source)
        model.load_weights(plain.state_dict())
        cut = {f"blocks.{layer}.attn.hook_{p}_stream": torch.zeros_like for layer in (1, 2)}
        logits, _ = run(model, random_tokens(), cut)
        torch.testing.assert_close(logits, plain(random_tokens()))


@pytest.mark.parametrize("stream", ["query", "key"])
def test_query_and_key_streams_join_before_the_rotation(stream):
    from workbench.model.positions import rotate

    p = LETTER[stream]
    model = random_model(stream=stream, positional_embedding_type="rotary")
    _, cache = run(model, random_tokens())
    for layer in (1, 2):
        torch.testing.assert_close(cache[f"rot_{p}", layer], rotate(cache[p, layer] + cache[p, layer - 1], model.config.rotary_base))
    # The scores then depend on positions through their difference only: the wire adds no absolute position.
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(1, 1, 2, 4, dtype=torch.float64, generator=generator).expand(1, 11, 2, 4) for _ in range(2))
    scores = torch.einsum("bphd,bshd->bhps", rotate(q, 100.0), rotate(k, 100.0))[0, 0]
    for offset in range(4):
        torch.testing.assert_close(scores.diagonal(-offset), scores[offset, 0].expand(11 - offset), rtol=1e-5, atol=1e-5)


def test_gradients_flow_along_the_wire():
    """With attention's output held constant below, the only way from layer 0's W_V to the logits is the wire."""
    model = random_model(stream="value", n_layers=2)
    _, cache = run(model, random_tokens())
    with model.hooks([("blocks.0.hook_attn_out", lambda value, hook: cache["attn_out", 0])]):
        model(random_tokens(), "loss").backward()
    assert model.blocks[0].attn.W_V.grad.abs().max() > 1e-6
    assert model.blocks[0].attn.W_Q.grad is None or model.blocks[0].attn.W_Q.grad.abs().max() == 0


@pytest.mark.parametrize("mix", [{}, {"stream_mix": "learned"}, {"stream_init": (0.5, -0.25)}, {"stream_permute_heads": "fixed"}])
@pytest.mark.parametrize("source", SOURCES)
def test_the_second_OV_circuits(source, mix):
    expected = {"previous": {1: [0], 2: [1], 3: [2]}, "first": {1: [0], 2: [0], 3: [0]}, "accumulated": {1: [0], 2: [0, 1], 3: [0, 1, 2]}}
    model = random_model(stream="value", stream_source=source, n_layers=4, n_heads=3, normalization_type="LNPre", attn_bias=False, **mix)
    _, cache = run(model, random_tokens())
    for layer in (1, 2, 3):
        circuits = model.streamed_OV(layer)
        assert list(circuits) == expected[source][layer]
        if not mix:
            for below, circuit in circuits.items():
                product = model.blocks[below].attn.W_V @ model.blocks[layer].attn.W_O
                torch.testing.assert_close(circuit.AB, product)
        # Together with the own circuit they write all of what attention writes.
        written = 0
        for below, circuit in (circuits | {layer: model.own_OV(layer)}).items():
            read = cache[f"blocks.{below}.ln1.hook_normalized"]
            written = written + torch.einsum("bhts,bsm,hmn->btn", cache["pattern", layer], read, circuit.AB)
        torch.testing.assert_close(written, cache["attn_out", layer])
    torch.testing.assert_close(model.own_OV(0).AB, model.OV.AB[0])
    assert torch.equal(random_model(stream="key", **mix).own_OV(1).AB, random_model(stream="key", **mix).OV.AB[1])


def test_value_biases_travel_beside_the_second_circuits():
    model = random_model(stream="value", n_layers=2, normalization_type="LNPre")
    _, cache = run(model, random_tokens())
    written = model.blocks[1].attn.b_O
    for below, circuit in (model.streamed_OV(1) | {1: model.own_OV(1)}).items():
        read = cache[f"blocks.{below}.ln1.hook_normalized"]
        written = written + torch.einsum("bhts,bsm,hmn->btn", cache["pattern", 1], read, circuit.AB)
        written = written + torch.einsum("hd,hdn->n", model.blocks[below].attn.b_V, model.blocks[1].attn.W_O)
    torch.testing.assert_close(written, cache["attn_out", 1])


MIXES = [
    {"stream_mix": "learned"},
    {"stream_init": (0.5, -0.25)},
    {"stream_permute_heads": "fixed"},
    {"stream_permute_heads": "by-position"},
    {"stream_permute_heads": "by-position", "stream_mix": "learned", "stream_detach": True},
]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("stream", "source"), ALL)
def test_every_mix_and_control_equals_the_loops(stream, source, mix):
    assert_equals_reference(random_model(stream=stream, stream_source=source, n_heads=3, d_model=7, **mix), random_tokens())


@pytest.mark.parametrize("stream", LETTER)
def test_mixes_at_their_special_values(stream):
    plain, added = random_model(), random_model(stream=stream)
    for mix, same in (((1.0, 0.0), plain), ((1.0, 1.0), added)):
        fixed = random_model(stream=stream, stream_init=mix)
        torch.testing.assert_close(fixed(random_tokens()), same(random_tokens()))
        config = fixed.config.replace(stream_mix="learned")
        learned = HookedTransformer(config).double()
        learned.load_state_dict(fixed.state_dict(), strict=False)
        torch.testing.assert_close(learned(random_tokens()), same(random_tokens()))
    names = {name for name, _ in random_model(stream=stream, stream_mix="learned").named_parameters() if "stream" in name}
    assert names == {f"blocks.{layer}.attn.stream_{part}" for layer in (1, 2) for part in ("own", "in")}


def test_the_mix_adds_no_draw_to_the_initial_weights():
    plain = dict(HookedTransformer(ModelConfig(seed=3)).named_parameters())
    learned = HookedTransformer(ModelConfig(seed=3, stream="value", stream_mix="learned", stream_init=(0.5, 2.0)))
    for name, value in learned.named_parameters():
        assert torch.equal(value, plain[name]) if name in plain else value.item() == (0.5 if name.endswith("own") else 2.0)


def test_a_fixed_permutation_is_a_relabelling_of_the_first_layers_heads_and_a_scramble_is_none():
    """So a model trained with a fixed permutation differs from the plain stream by its initial weights alone."""
    for control, equal in (("fixed", True), ("by-position", False)):
        permuted = random_model(stream="value", n_layers=2, n_heads=3, stream_permute_heads=control)
        plain = random_model(stream="value", n_layers=2, n_heads=3)
        relabelled = permuted.state_dict()
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
            relabelled[f"blocks.0.attn.{name}"] = relabelled[f"blocks.0.attn.{name}"].roll(-1, dims=0)
        plain.load_weights(relabelled)
        difference = (plain(random_tokens()) - permuted(random_tokens())).abs().max()
        assert difference < 1e-12 if equal else difference > 1e-3


@pytest.mark.parametrize("stream", LETTER)
def test_a_detached_source_changes_gradients_and_nothing_else(stream):
    p = LETTER[stream]
    gradients = {}
    for detach in (False, True):
        model = random_model(stream=stream, n_layers=2, stream_detach=detach)
        _, cache = run(model, random_tokens())
        with model.hooks([("blocks.0.hook_attn_out", lambda value, hook, cache=cache: cache["attn_out", 0])]):
            logits = model(random_tokens())
        torch.testing.assert_close(logits, random_model(stream=stream, n_layers=2)(random_tokens()))
        logits.square().mean().backward()
        gradients[detach] = model.blocks[0].attn.get_parameter(f"W_{p.upper()}").grad
    assert gradients[False].abs().max() > 1e-6
    assert gradients[True] is None or gradients[True].abs().max() == 0


def test_streamed_OV_is_refused_where_nothing_arrives():
    with pytest.raises(UsageError, match=r"no value stream arrives in layer 0 \(stream='value', n_layers=3\)"):
        random_model(stream="value").streamed_OV(0)
    with pytest.raises(UsageError, match="differs from position to position"):
        random_model(stream="value", stream_permute_heads="by-position").streamed_OV(1)
    for stream in ("none", "query"):
        with pytest.raises(UsageError, match=f"no value stream arrives in layer 1 \\(stream='{stream}'"):
            random_model(stream=stream).streamed_OV(1)


def test_a_stream_needs_two_layers():
    with pytest.raises(ConfigError, match="needs at least two layers"):
        ModelConfig(n_layers=1, stream="value")
