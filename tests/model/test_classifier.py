"""The two-layer model of in-context classification (Reddy; Burns et al.) against its equations, written out in plain torch."""

import math

import pytest
import torch

from workbench.config import ModelConfig
from workbench.errors import CheckpointError, ConfigError, UsageError
from workbench.model import HookedTransformer

PUBLISHED = {
    "n_layers": 2, "n_heads": 1, "normalization_type": None, "positional_embedding_type": "none", "attn_only": True, "attn_bias": False,
    "attn_scale": 1.0, "unembed_bias": False, "readout": "classifier", "identity": ("blocks.*.attn.W_O",), "frozen": ("embed.W_E",),
}  # fmt: skip


def model_of(**fields) -> HookedTransformer:
    """D = 13 of d_model = 23, 7 labels, in double precision."""
    sizes = {"d_model": 23, "d_vocab": 7, "n_ctx": 11, "initializer_range": 13**-0.5, "embed_std": 23**-0.5}
    return HookedTransformer(ModelConfig(**{**PUBLISHED, **sizes, **fields})).double().eval()


def inputs_of(batch=3, pos=5, width=23, seed=0):
    return torch.randn(batch, pos, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published_forward(weights, x, stream):
    """One sequence [pos, d_model], vector by vector. `weights` are named as in a state dict."""
    arriving = None
    for layer in range(2):
        projected = {}
        for letter in ("Q", "K", "V"):
            projected[letter] = [vector @ weights[f"blocks.{layer}.attn.W_{letter}"][0] for vector in x]
        own = {letter: list(vectors) for letter, vectors in projected.items()}
        if stream != "none" and layer == 1:
            letter = stream[0].upper()
            projected[letter] = [mine + theirs for mine, theirs in zip(projected[letter], arriving[letter], strict=True)]
        arriving = own
        rows = []
        for t, query in enumerate(projected["Q"]):
            weight = [math.exp(float(query @ projected["K"][s])) for s in range(t + 1)]
            rows.append(x[t] + sum(w / sum(weight) * projected["V"][s] for s, w in enumerate(weight)))
        x = rows
    logits = []
    for h in x:
        for layer in range(3):
            h = torch.clamp(h @ weights[f"readout.{layer}.W"] + weights[f"readout.{layer}.b"].item(), min=0)
        logits.append(h @ weights["unembed.W_U"])
    return torch.stack(logits)


@pytest.mark.parametrize("stream", ["none", "query", "key", "value"])
def test_equals_the_published_equations(stream):
    model, x = model_of(stream=stream, seed=3), inputs_of()
    expected = torch.stack([published_forward(model.state_dict(), sequence, stream) for sequence in x])
    found = model(inputs_embeds=x)
    assert found.shape == (3, 5, 7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    if stream != "none":
        other = torch.stack([published_forward(model.state_dict(), sequence, "none") for sequence in x])
        assert (found - other).abs().max() > 1e-2
    # In the arithmetic of training, too.
    torch.testing.assert_close(model.float()(inputs_embeds=x.float()).double(), expected, atol=1e-3, rtol=1e-3)


def test_initial_weights():
    model = model_of(d_model=151, initializer_range=17**-0.5, embed_std=151**-0.5)
    for name, values in model.state_dict().items():
        if name.endswith("W_O"):
            assert torch.equal(values[0], torch.eye(151, dtype=torch.float64))
            continue
        variance = {"W_Q": 1 / 17, "W_K": 1 / 17, "W_V": 1 / 17, "W": 2 / 151, "W_U": 1 / 151, "W_E": 1 / 151}.get(name.rsplit(".", 1)[-1])
        if variance is not None:
            assert abs(values.var().item() / variance - 1) < 5 * math.sqrt(2 / values.numel()), name
    biases = torch.stack([model_of(seed=seed).readout[layer].b for seed in range(101) for layer in range(3)]).detach()
    assert biases.ndim == 1 and abs(biases.var().item() * 23 - 1) < 5 * math.sqrt(2 / 303)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    per_layer = {f"blocks.{layer}.attn.W_{letter}" for layer in (0, 1) for letter in "QKV"}
    assert trained == per_layer | {f"readout.{layer}.{part}" for layer in range(3) for part in "Wb"} | {"unembed.W_U"}


def test_variants_start_from_equal_weights_and_other_models_are_as_they_were():
    plain, stream = model_of(seed=5).state_dict(), model_of(seed=5, stream="value").state_dict()
    assert plain.keys() == stream.keys() and all(torch.equal(plain[name], stream[name]) for name in plain)
    assert not any("readout" in name for name in HookedTransformer(ModelConfig(d_model=8)).state_dict())
    assert not any("readout" in name for name in HookedTransformer(ModelConfig(d_model=8)).hook_dict)


def test_hooks_in_the_readout():
    model, x = model_of(stream="value"), inputs_of()
    logits, cache = model.run_with_cache(inputs_embeds=x)
    assert cache["v_stream", 1].shape == (3, 5, 1, 23) and torch.equal(cache["hook_embed"], x)
    for layer in range(3):
        pre, post = cache[f"readout.{layer}.hook_pre"], cache[f"readout.{layer}.hook_post"]
        assert pre.shape == (3, 5, 23) and torch.equal(post, pre.clamp(min=0)) and (pre < 0).any()
    assert torch.equal(cache["unembed.hook_in"], cache["readout.2.hook_post"])
    torch.testing.assert_close(cache["readout.0.hook_pre"], cache["resid_post", 1] @ model.readout[0].W + model.readout[0].b)
    edited = model.run_with_hooks(inputs_embeds=x, fwd_hooks=[("readout.1.hook_post", lambda value, hook: torch.zeros_like(value))])
    b = model.readout[2].b.clamp(min=0)
    torch.testing.assert_close(edited, (b * torch.ones(23, dtype=torch.float64) @ model.unembed.W_U).expand_as(edited))
    assert torch.equal(model(inputs_embeds=x), logits)


def test_from_a_state_dict():
    model, x = model_of(stream="key", seed=2), inputs_of()
    again = HookedTransformer.from_state_dict(model.state_dict(), model.config).double()
    assert torch.equal(again(inputs_embeds=x), model(inputs_embeds=x))
    known = {
        name: value
        for name, value in model.config.to_dict().items()
        if name in PUBLISHED and name not in ("n_layers", "n_heads", "readout")
    }
    inferred = HookedTransformer.from_state_dict(model.state_dict(), **known, n_ctx=11, stream="key", tie_word_embeddings=False).double()
    assert inferred.config.readout == "classifier"
    assert torch.equal(inferred(inputs_embeds=x), model(inputs_embeds=x))
    with pytest.raises(CheckpointError, match=r"the state dict has readout\.0\.W, which this architecture lacks"):
        HookedTransformer.from_state_dict(model.state_dict(), model.config.replace(readout="unembed"))


def test_what_does_not_fit():
    with pytest.raises(ConfigError, match="tie_word_embeddings needs readout='unembed'"):
        model_of(tie_word_embeddings=True)
    with pytest.raises(UsageError, match="vectors of d_model=23, got 19"):
        model_of()(inputs_embeds=inputs_of(width=19))
    with pytest.raises(UsageError, match="cannot fold the final norm into a classifier"):
        model_of(normalization_type="LN").fold_layer_norm()
    with pytest.raises(ConfigError, match="readout: expected one of unembed, classifier"):
        model_of(readout="linear")
    assert torch.equal(model_of().fold_layer_norm()(inputs_embeds=inputs_of()), model_of()(inputs_embeds=inputs_of()))
