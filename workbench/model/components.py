"""The parts of a transformer beside attention: embedding, norm, MLP, the layers of a classifier, unembedding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from workbench.axes import Logits, Resid, Tokens
from workbench.config import ModelConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "linear": lambda x: x,
}


class Embed(nn.Module):
    """Token embedding: a row of W_E [d_vocab, d_model] for each token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(config.d_vocab, config.d_model))

    def forward(self, tokens: Tokens) -> Resid:
        return F.embedding(tokens, self.W_E)


class Norm(nn.Module):
    """LayerNorm (`LN`), RMSNorm (`RMS`), or either without learned scale and shift (`LNPre`, `RMSPre`).

    As in HookedTransformer, `hook_scale` holds the divisor and `hook_normalized` the result before the learned scale and shift.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.centred = config.normalization_type in ("LN", "LNPre")
        if config.normalization_type in ("LN", "RMS"):
            self.w = nn.Parameter(torch.ones(config.d_model))
        if config.normalization_type == "LN":
            self.b = nn.Parameter(torch.zeros(config.d_model))
        self.hook_scale, self.hook_normalized = HookPoint(), HookPoint()

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        if self.centred:
            x = x - x.mean(dim=-1, keepdim=True)
        x = self.hook_normalized(x / self.hook_scale((x.pow(2).mean(dim=-1, keepdim=True) + self.eps).sqrt()))
        if hasattr(self, "w"):
            x = x * self.w
        if hasattr(self, "b"):
            x = x + self.b
        return x


def make_norm(config: ModelConfig) -> nn.Module:
    """The norm of a configuration; the identity where there is none."""
    return nn.Identity() if config.normalization_type is None else Norm(config)


class MLP(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.empty(config.d_model, config.mlp_width))
        self.b_in = nn.Parameter(torch.zeros(config.mlp_width), requires_grad=config.mlp_bias)
        self.W_out = nn.Parameter(torch.empty(config.mlp_width, config.d_model))
        self.b_out = nn.Parameter(torch.zeros(config.d_model), requires_grad=config.mlp_bias)
        self.activation = ACTIVATIONS[config.act_fn]
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    def forward(self, x: Resid) -> Resid:
        pre = self.hook_pre(F.linear(x, self.W_in.T, self.b_in))
        return F.linear(self.hook_post(self.activation(pre)), self.W_out.T, self.b_out)


CLASSIFIER_LAYERS = 3


class ReluLayer(nn.Module):
    """One layer of a classifier, relu(x W + b): W is [d_model, d_model], b one number for the whole layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(config.d_model, config.d_model))
        self.b = nn.Parameter(torch.empty(()))
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    def forward(self, x: Resid) -> Resid:
        return self.hook_post(F.relu(self.hook_pre(F.linear(x, self.W.T) + self.b)))


def make_readout(config: ModelConfig) -> nn.Sequential:
    """What lies between the final norm and the unembedding: nothing, or a classifier's relu layers (Reddy, arXiv 2312.03002)."""
    return nn.Sequential(*(ReluLayer(config) for _ in range(CLASSIFIER_LAYERS if config.readout == "classifier" else 0)))


class Unembed(nn.Module):
    """Residual stream to logits, through W_U [d_model, d_vocab] and b_U. Tied: W_U is the transpose of W_E."""

    def __init__(self, config: ModelConfig, embed: Embed) -> None:
        super().__init__()
        # In a tuple, so that the embedding is not registered a second time as a part of this module.
        self._tied_to = (embed,) if config.tie_word_embeddings else ()
        if not config.tie_word_embeddings:
            self.register_parameter("W_U", nn.Parameter(torch.empty(config.d_model, config.d_vocab)))
        self.b_U = nn.Parameter(torch.zeros(config.d_vocab), requires_grad=config.unembed_bias)
        self.hook_in, self.hook_out = HookPoint(), HookPoint()

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if name == "W_U" and self._tied_to:
            return self._tied_to[0].W_E.T
        return super().__getattr__(name)

    def forward(self, resid: Resid) -> Logits:
        return self.hook_out(F.linear(self.hook_in(resid), cast(Tensor, self.W_U).T, self.b_U))
