"""The wire of a residual attention stream, as weights: which layers and heads it joins, and what it carries between them."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from workbench.config import ModelConfig
from workbench.errors import UsageError

HeadMatrices = Float[Tensor, "head d_model d_head"]
Letter = Literal["q", "k", "v"]


def sources(config: ModelConfig, layer: int) -> list[int]:
    """The layers whose projections arrive in `layer`; none where no stream arrives."""
    if not config.receives_stream(layer):
        return []
    return {"accumulated": list(range(layer)), "first": [0], "previous": [layer - 1]}[config.stream_source]


def exchanges(config: ModelConfig, source: int, layer: int) -> int:
    """How often the heads are exchanged by one on the way: at every layer, where the stream accumulates. What arrives in head
    h comes from head h + exchanges, counted around."""
    if config.stream_permute_heads == "none":
        return 0
    return layer - source if config.stream_source == "accumulated" else 1


def arriving_weights(model: Any, letter: Letter, layer: int) -> dict[int, HeadMatrices]:
    """Source layer -> W_Q, W_K or W_V of what arrives in each head of `layer`, times the mixing scalars on the way. Empty where
    no stream of this letter arrives. Each reads the residual stream before its own source layer.

    Raises UsageError where heads are permuted by position: no one matrix then describes the wire.
    """
    config = model.config
    if model.blocks[layer].attn.receives != letter:
        return {}
    if config.stream_permute_heads == "by-position":
        raise UsageError("with heads permuted by position, what arrives has no one matrix: it differs from position to position")
    found = {}
    for source in sources(config, layer):
        scale = model.blocks[layer].attn.mix[1]
        if config.stream_source == "accumulated":
            for below in range(source + 1, layer):
                scale = scale * model.blocks[below].attn.mix[1]
            scale = scale * model.blocks[source].attn.mix[0] if source > 0 else scale
        weight = getattr(model.blocks[source].attn, f"W_{letter.upper()}")
        found[source] = scale * weight.roll(-exchanges(config, source, layer), dims=0)
    return found
