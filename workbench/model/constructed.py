"""Transformers whose weights are written down, not trained: the associative-memory transformer of Wang & Sato (arXiv 2412.11459,
section 3, after Bietti et al., arXiv 2306.00802).

Two layers of one head. Every weight matrix is a sum of outer products, each of which stores one association:

    layer 0  key    p_(t-1) -> p_t              strength b0: attention goes from t to t - 1
             value  w_E(v)  -> Phi w_E(v)       the token before is noted beside the own token
    layer 1  key    Phi w_E(q) -> w_E(q)        strength t1, for every trigger q: attention goes to what followed q
             value  w_E(v)  -> w_U(v)           strength t2: what is attended to is printed
    MLP      w_E(v) -> sum_u log pi_b(u | v) w_U(u)   strength t3: the bigrams of training

With orthonormal vectors the associations do not disturb each other, and the logits have a closed form
(analysis/hijack.py). With random vectors they nearly do not, the less the higher the dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.config import ModelConfig
from workbench.errors import UsageError
from workbench.model.transformer import HookedTransformer

SHARP = 400.0
"""what stands for an infinite strength: exp(-SHARP) is zero in float32 and below 1e-170 in float64"""
RAREST = 2.0**-33
"""probability that stands for zero in log pi_b: the smallest that a language can hold"""


@dataclass(frozen=True)
class Strengths:
    """How strongly each memory of the associative-memory transformer is stored."""

    b0: float = math.inf
    """layer 0: attention to the position before"""
    t1: float = math.inf
    """layer 1: attention to what followed the trigger"""
    t2: float = 1.0
    """layer 1: the logit of what is attended to"""
    t3: float = 1.0
    """MLP: weight of the bigrams' log-probabilities"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if math.isnan(value) or (math.isinf(value) and (name in ("t2", "t3") or value < 0)):
                raise UsageError(f"{name} must be a finite number{' or inf' if name in ('b0', 't1') else ''}, got {value}")
        if math.isinf(self.t1) and not math.isinf(self.b0):
            # Layer 0 then spreads a little of every token over all keys, and which of them an infinite strength finds the largest
            # says nothing about the mechanism.
            raise UsageError(f"t1=inf needs b0=inf, got b0={self.b0}; give t1 a finite strength")


@dataclass(frozen=True)
class Vectors:
    """The directions of the residual stream that the associations join, as rows."""

    tokens: Float[Tensor, "d_vocab d_model"]
    """w_E"""
    noted: Float[Tensor, "d_vocab d_model"]
    """Phi w_E"""
    positions: Float[Tensor, "n_ctx d_model"]
    """p"""
    outputs: Float[Tensor, "d_vocab d_model"]
    """w_U"""


def orthonormal(d_vocab: int, n_positions: int) -> Vectors:
    """Vectors that are unit vectors of one basis: exactly orthonormal, in 3 d_vocab + n_positions dimensions."""
    basis = torch.eye(3 * d_vocab + n_positions, dtype=torch.float64)
    tokens, noted, outputs, positions = basis.split([d_vocab, d_vocab, d_vocab, n_positions])
    return Vectors(tokens, noted, positions, outputs)


def near_orthonormal(d_vocab: int, n_positions: int, d_model: int, seed: int = 0) -> Vectors:
    """Vectors with independent entries N(0, 1/d_model): of length about 1, with products of about 1/sqrt(d_model)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Tensor:
        return torch.randn(n, d_model, generator=generator, dtype=torch.float64) / d_model**0.5

    return Vectors(draw(d_vocab), draw(d_vocab), draw(n_positions), draw(d_vocab))


def associative_memory(
    bigram: Float[np.ndarray, "d_vocab d_vocab"],
    n_ctx: int,
    strengths: Strengths = Strengths(),
    triggers: Sequence[int] | None = None,
    *,
    positions: str = "standard",
    stream: bool = False,
    d_model: int | None = None,
    seed: int = 0,
) -> HookedTransformer:
    """The associative-memory transformer of a bigram language, in float64, for sequences of up to n_ctx tokens.

    `triggers` are the tokens that layer 1 looks for (None: all). `positions` are absolute ("standard": one association for
    each position) or "relative" (one vector for the distance 1). With `stream`, values stream from layer 0 to layer 1 and do
    the copying, and layer 1's own value matrix is zero. `d_model` takes random near-orthonormal vectors of that dimension in
    place of exact ones.

    Raises UsageError for positions of another kind, and for triggers that are no tokens.
    """
    d_vocab = len(bigram)
    if positions not in ("standard", "relative"):
        raise UsageError(f"positions must be standard or relative, got {positions!r}")
    wanted = list(range(d_vocab)) if triggers is None else [int(trigger) for trigger in triggers]
    if any(not 0 <= trigger < d_vocab for trigger in wanted) or len(set(wanted)) < len(wanted):
        raise UsageError(f"triggers must be different tokens of 0 to {d_vocab - 1}, got {wanted}")
    n_positions = n_ctx if positions == "standard" else 0
    vectors = orthonormal(d_vocab, n_positions) if d_model is None else near_orthonormal(d_vocab, n_positions, d_model, seed)
    width = vectors.tokens.shape[1]
    model = HookedTransformer(
        ModelConfig(
            n_layers=2, n_heads=1, d_model=width, d_head=width, d_mlp=d_vocab, d_vocab=d_vocab, n_ctx=n_ctx, act_fn="linear",
            attn_only=False, normalization_type=None, attn_scale=1.0, positional_embedding_type=positions,
            max_distance=2 if positions == "relative" else None, stream="value" if stream else "none", seed=seed,
        )
    ).double()  # fmt: skip
    model.load_state_dict(memories(model, vectors, log_probabilities(bigram), strengths, wanted))
    return model.eval()


def log_probabilities(bigram: Float[np.ndarray, "d_vocab d_vocab"]) -> Float[Tensor, "d_vocab d_vocab"]:
    """log pi_b as the MLP stores it: what never occurs has the probability `RAREST`."""
    return torch.from_numpy(np.log(np.maximum(bigram, RAREST)))


def memories(
    model: HookedTransformer, at: Vectors, log_bigram: Float[Tensor, "d_vocab d_vocab"], strengths: Strengths, triggers: Sequence[int]
) -> dict[str, Tensor]:
    """The state dict of an associative-memory transformer: sums of outer products of `at`, differentiable in these vectors."""
    b0, t1 = min(strengths.b0, SHARP), min(strengths.t1, SHARP)
    wanted = list(triggers)
    state = {name: torch.zeros_like(parameter) for name, parameter in model.state_dict().items()}
    identity = torch.eye(model.config.d_model, dtype=at.tokens.dtype)
    first, second = ("blocks.0.attn.", "blocks.1.attn.")
    state["embed.W_E"] = at.tokens
    state["unembed.W_U"] = at.outputs.T
    if model.config.positional_embedding_type == "standard":
        state["pos_embed.W_pos"] = at.positions
        state[first + "W_Q"] = identity[None]
        state[first + "W_K"] = b0 * (at.positions[:-1].T @ at.positions[1:])[None]
    else:
        # The query is the same everywhere, and meets the vector of the distance 1 alone.
        state[first + "b_Q"][0, 0], state[first + "rel_pos"][0, 1, 0] = b0, 1.0
    state[first + "W_V"] = identity[None]
    state[first + "W_O"] = (at.tokens.T @ at.noted)[None]
    state[second + "W_Q"] = identity[None]
    state[second + "W_K"] = t1 * (at.noted[wanted].T @ at.tokens[wanted])[None]
    # With a stream, layer 0's values arrive: what the position read, before anything was noted.
    state[second + "W_V"] = (0.0 if model.config.stream == "value" else 1.0) * identity[None]
    state[second + "W_O"] = strengths.t2 * (at.tokens.T @ at.outputs)[None]
    state["blocks.1.mlp.W_in"] = at.tokens.T
    state["blocks.1.mlp.W_out"] = strengths.t3 * log_bigram @ at.outputs
    return state
