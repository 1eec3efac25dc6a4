"""Initial weights, frozen and identity weights, and what a classic HookedTransformer state dict tells of its model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from workbench.config import ModelConfig
from workbench.errors import CheckpointError, ConfigError
from workbench.model.positions import rotary_angles

EMBEDDINGS = ("embed.W_E", "pos_embed.W_pos", "unembed.W_U")


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig) -> None:
    """Draw every weight matrix from N(0, initializer_range²), and the vectors of relative positions; embeddings from
    N(0, embed_std²); biases stay zero. The relu layers of a classifier start at N(0, 2 / d_model), and their biases at
    N(0, 1 / d_model) (Reddy, arXiv 2312.03002).

    Parameters are drawn in a fixed order from one CPU generator, so that variants of one seed start from equal
    weights: the stream adds no parameter. Then identity weights are set, and what is frozen stops training.
    """
    generator = torch.Generator().manual_seed(config.seed)
    std = 0.8 / config.d_model**0.5 if config.initializer_range == -1.0 else config.initializer_range
    for name, parameter in model.named_parameters():
        if name.rsplit(".", 1)[-1].startswith(("W_", "rel_pos")):
            scale = config.embed_std if name in EMBEDDINGS and config.embed_std is not None else std
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        elif name.startswith("readout."):
            variance = 2 if name.endswith(".W") else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (variance / config.d_model) ** 0.5)
    for name, parameter in _matching(model, "identity", config.identity):
        if name.rsplit(".", 1)[-1] not in ("W_Q", "W_K", "W_V", "W_O"):
            raise ConfigError(f"model.identity: only attention matrices can be the identity, got {name}")
        parameter.copy_(torch.eye(config.d_model).expand_as(parameter))
        parameter.requires_grad_(False)
    for _, parameter in _matching(model, "frozen", config.frozen):
        parameter.requires_grad_(False)


def _matching(model: nn.Module, field: str, patterns: tuple[str, ...]) -> list[tuple[str, nn.Parameter]]:
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise ConfigError(f"model.{field}: no parameter matches {pattern!r} (parameters are named as in blocks.0.attn.W_Q)")
    return [(name, value) for name, value in parameters.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]


def clean_state_dict(state_dict: Mapping[str, Any], config: ModelConfig) -> dict[str, Tensor]:
    """The tensors of a state dict that this model holds, without the classic model's buffers.

    Raises CheckpointError where the classic rotary tables differ from ours (other base, pairing or partial rotation),
    or where tied embeddings are not tied.
    """
    kept: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        last = name.rsplit(".", 1)[-1]
        if last in ("mask", "IGNORE", "rotary_sin", "rotary_cos"):
            if last == "rotary_sin":
                _check_rotary(name, value, config)
            continue
        kept[name] = value
    tied = config.tie_word_embeddings and "embed.W_E" in kept
    if tied and "unembed.W_U" in kept and not torch.equal(kept.pop("unembed.W_U"), kept["embed.W_E"].T):
        raise CheckpointError("tie_word_embeddings is true, but unembed.W_U is not the transpose of embed.W_E")
    return kept


def _check_rotary(name: str, sin: Tensor, config: ModelConfig) -> None:
    if config.positional_embedding_type != "rotary":
        raise CheckpointError(f"{name}: the weights belong to rotary positions, the model has {config.positional_embedding_type!r}")
    ours = rotary_angles(len(sin), config.head_width, config.rotary_base)[0]
    if sin.shape != ours.shape or not torch.allclose(sin.float(), ours, atol=1e-4):
        raise CheckpointError(
            f"{name}: rotary positions of another kind (partial, adjacent pairs, or a base other than {config.rotary_base:g})"
        )


def check_state_dict(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, naming the first difference, unless names and shapes are those expected."""
    for name, value in expected.items():
        if name not in state_dict:
            raise CheckpointError(f"the state dict lacks {name}, which this architecture has")
        if not isinstance(state_dict[name], Tensor):
            raise CheckpointError(f"{name} is no tensor but {type(state_dict[name]).__name__}")
        if tuple(state_dict[name].shape) != tuple(value.shape):
            raise CheckpointError(f"{name} has shape {tuple(state_dict[name].shape)}, this architecture expects {tuple(value.shape)}")
    for name in state_dict:
        if name not in expected:
            raise CheckpointError(f"the state dict has {name}, which this architecture lacks")


def infer_config(state_dict: Mapping[str, Tensor], **known: Any) -> ModelConfig:
    """The configuration of a classic HookedTransformer state dict: shapes tell the sizes, `known` tells the rest.

    Raises ConfigError, naming the fields, where neither says them. Fields that leave no trace in a state dict and have
    a usual value (parallel_attn_mlp, attn_scale, eps, rotary_base, dropout, stream) keep their defaults unless passed.
    """
    d_vocab, d_model = _shape(state_dict, "embed.W_E", 2)
    n_heads, _, d_head = _shape(state_dict, "blocks.0.attn.W_Q", 3)
    layers = [re.match(r"blocks\.(\d+)\.", name) for name in state_dict]
    fields: dict[str, Any] = {
        "n_layers": 1 + max(int(layer[1]) for layer in layers if layer),
        "d_vocab": d_vocab,
        "d_model": d_model,
        "n_heads": n_heads,
        "d_head": d_head,
        "attn_only": "blocks.0.mlp.W_in" not in state_dict,
    }
    if "readout.0.W" in state_dict:
        fields["readout"] = "classifier"
    if "unembed.W_U" in state_dict:
        fields["tie_word_embeddings"] = False
    if "pos_embed.W_pos" in state_dict:
        fields |= {"positional_embedding_type": "standard", "n_ctx": _shape(state_dict, "pos_embed.W_pos", 2)[0]}
    elif "blocks.0.attn.rotary_sin" in state_dict:
        fields |= {"positional_embedding_type": "rotary", "n_ctx": _shape(state_dict, "blocks.0.attn.rotary_sin", 2)[0]}
    if "blocks.0.ln1.w" in state_dict:
        fields["normalization_type"] = "LN" if "blocks.0.ln1.b" in state_dict else "RMS"
    if not fields["attn_only"]:
        fields["d_mlp"] = _shape(state_dict, "blocks.0.mlp.W_in", 2)[1]
    needed = ["normalization_type", "positional_embedding_type", "n_ctx", "tie_word_embeddings"]
    needed += [] if fields["attn_only"] else ["act_fn"]
    missing = [name for name in needed if name not in fields and name not in known]
    if missing:
        raise ConfigError(f"model: a state dict does not tell {', '.join(missing)}; pass it (for example {missing[0]}=...)")
    return ModelConfig.from_dict({**fields, **known})


def _shape(state_dict: Mapping[str, Tensor], name: str, n_axes: int) -> tuple[int, ...]:
    if name not in state_dict:
        raise CheckpointError(f"not a HookedTransformer state dict: it lacks {name}")
    shape = tuple(getattr(state_dict[name], "shape", ()))
    if len(shape) != n_axes:
        raise CheckpointError(f"{name} has shape {shape}, expected {n_axes} axes")
    return shape
