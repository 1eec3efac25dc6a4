"""State dicts of TransformerLens 3.9's HookedTransformer (golden/make_golden.py) load unchanged and compute the same."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.reference_model import random_model, random_tokens
from workbench.errors import CheckpointError, ConfigError
from workbench.model import HookedTransformer
from workbench.model.weights import infer_config

GOLDEN = Path(__file__).parent / "golden"
# What the file does not tell.
KNOWN = {
    "ln_mlp": {"act_fn": "gelu_new"},
    "lnpre_attn_only": {"normalization_type": "LNPre"},
    "rotary": {"act_fn": "silu"},
    "parallel": {"act_fn": "relu", "parallel_attn_mlp": True},
}


def golden(name):
    """(state dict, tokens, logits, cache in its order, the classic configuration)."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        meta = file.metadata()
    state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
    cache = {key: tensors[f"cache/{key}"] for key in json.loads(meta["cache"])}
    return state, tensors["tokens"], tensors["logits"], cache, json.loads(meta["fields"])


@pytest.mark.parametrize("name", KNOWN)
def test_same_logits_and_same_cache_in_the_same_order(name):
    state, tokens, logits, cache, _ = golden(name)
    model = HookedTransformer.from_state_dict(state, **KNOWN[name])
    with torch.no_grad():
        ours, our_cache = model.run_with_cache(tokens)
    torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
    assert list(our_cache.keys()) == list(cache)
    for key, value in cache.items():
        assert our_cache[key].shape == value.shape, key
        torch.testing.assert_close(our_cache[key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", KNOWN)
def test_the_configuration_is_read_off_the_shapes(name):
    state, _, _, _, fields = golden(name)
    config = infer_config(state, **KNOWN[name]).to_dict()
    fields.pop("rotary_dim", None)
    fields.pop("seed")
    assert {key: config[key] for key in fields} == fields


@pytest.mark.parametrize("name", KNOWN)
def test_names_and_shapes_are_the_classic_ones(name):
    state, *_ = golden(name)
    buffers = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
    assert any(key.endswith("attn.mask") for key in state) and any(key.endswith("attn.IGNORE") for key in state)
    ours = HookedTransformer.from_state_dict(state, **KNOWN[name]).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in state.items() if not key.endswith(buffers)
    }
    for key, value in ours.items():
        assert torch.equal(value, state[key]), key
    without_buffers = {key: value for key, value in state.items() if not key.endswith(buffers)}
    told = {"positional_embedding_type": "rotary", "n_ctx": 5} if name == "rotary" else {}
    HookedTransformer.from_state_dict(without_buffers, **KNOWN[name], **told)


def test_missing_extra_and_ill_shaped_tensors_are_named():
    state, *_ = golden("ln_mlp")

    def message(changes, removed=()):
        changed = {key: value for key, value in state.items() if key not in removed} | changes
        with pytest.raises(CheckpointError) as error:
            HookedTransformer.from_state_dict(changed, act_fn="gelu_new")
        text = str(error.value)
        assert len(text) < 130 and "\n" not in text
        return text

    assert message({}, ["blocks.1.attn.b_K"]) == "the state dict lacks blocks.1.attn.b_K, which this architecture has"
    assert message({}, ["embed.W_E"]) == "not a HookedTransformer state dict: it lacks embed.W_E"
    first_layer = [key for key in state if key.startswith("blocks.0.")]
    assert message({}, first_layer) == "not a HookedTransformer state dict: it lacks blocks.0.attn.W_Q"
    assert message({"blocks.0.attn.W_X": torch.zeros(2)}) == "the state dict has blocks.0.attn.W_X, which this architecture lacks"
    assert message({"blocks.1.attn.W_O": torch.zeros(2, 6, 3)}) == (
        "blocks.1.attn.W_O has shape (2, 6, 3), this architecture expects (2, 3, 6)"
    )
    assert message({"embed.W_E": torch.zeros(7)}) == "embed.W_E has shape (7,), expected 2 axes"
    assert message({"unembed.b_U": [0.0] * 7}) == "unembed.b_U is no tensor but list"


def test_what_shapes_cannot_tell_has_to_be_told():
    with pytest.raises(ConfigError, match=r"does not tell act_fn; pass it \(for example act_fn="):
        infer_config(golden("ln_mlp")[0])
    with pytest.raises(ConfigError, match="does not tell normalization_type"):
        infer_config(golden("lnpre_attn_only")[0])
    rotary = {key: value for key, value in golden("rotary")[0].items() if "rotary" not in key}
    with pytest.raises(ConfigError, match="does not tell positional_embedding_type, n_ctx"):
        infer_config(rotary, act_fn="silu")
    tied = {key: value for key, value in golden("ln_mlp")[0].items() if key != "unembed.W_U"}
    with pytest.raises(ConfigError, match="does not tell tie_word_embeddings"):
        infer_config(tied, act_fn="gelu_new")
    assert infer_config(tied, act_fn="gelu_new", tie_word_embeddings=True).tie_word_embeddings


def test_rotary_tables_of_another_kind_are_refused():
    state, *_ = golden("rotary")
    with pytest.raises(CheckpointError, match=r"rotary positions of another kind .* a base other than 500"):
        HookedTransformer.from_state_dict(state, act_fn="silu", rotary_base=500.0)
    adjacent = {key: value.view(5, 2, 2).transpose(1, 2).flatten(1) if "rotary" in key else value for key, value in state.items()}
    with pytest.raises(CheckpointError, match="rotary positions of another kind"):
        HookedTransformer.from_state_dict(adjacent, act_fn="silu")
    with pytest.raises(CheckpointError, match="belong to rotary positions, the model has 'none'"):
        HookedTransformer.from_state_dict(state, act_fn="silu", positional_embedding_type="none")


def test_tied_embeddings_must_be_tied():
    model = random_model(tie_word_embeddings=True)
    tied = model.state_dict() | {"unembed.W_U": model.W_E.T}
    other = random_model(seed=9, tie_word_embeddings=True)
    other.load_weights(tied)
    assert torch.equal(other(random_tokens()), model(random_tokens()))
    with pytest.raises(CheckpointError, match=r"unembed.W_U is not the transpose of embed.W_E"):
        other.load_weights(tied | {"unembed.W_U": model.W_E.T + 1})
    with pytest.raises(CheckpointError, match=r"lacks embed.W_E"):
        other.load_weights({key: value for key, value in tied.items() if key != "embed.W_E"})


def test_our_own_state_dict_comes_back():
    model = random_model(stream="value", stream_source="first", attn_only=False).float()
    again = HookedTransformer.from_state_dict(model.state_dict(), model.config).eval()
    assert torch.equal(again(random_tokens()), model(random_tokens()))
