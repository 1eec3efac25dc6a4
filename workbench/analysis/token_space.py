"""Weights as tokens meet them: what heads read, write and pass on, with the norms taken into the matrices.

A norm does three things: it centres (LN and LNPre only), divides by a scale, and applies a learned scale and shift. Centring
and the learned scale are linear and are taken into the matrices exactly. What the shift adds is a bias, and biases are no part
of a circuit. The divisor is a positive number that differs from position to position, and is left out: argmaxes and signs
do not depend on it, but where an own projection and one that arrives along a wire are added, each has its own divisor, and
the sum here is the one with equal divisors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix

from workbench.errors import UsageError
from workbench.model import HookedTransformer
from workbench.model.attention import STREAM_LETTER
from workbench.model.wire import HeadMatrices, Letter, arriving_weights, exchanges

LETTERS = {"q": "W_Q", "k": "W_K", "v": "W_V"}


@dataclass(frozen=True)
class TokenSpace:
    """The matrices of a model whose norms have no learned scale and shift, centred where the norms centre.

    Then nothing reads the mean of the residual stream's coordinates, so every matrix is centred at each end that meets the
    residual stream: a change of the weights that changes no logit changes no circuit here.
    """

    model: HookedTransformer
    """an equal model without learned scales and shifts in its norms"""
    W_E: Float[Tensor, "d_vocab d_model"]
    W_pos: Float[Tensor, "n_ctx d_model"] | None
    """None where positions are not added to the embedding"""
    W_U: Float[Tensor, "d_model d_vocab"]

    @property
    def centred(self) -> bool:
        """Whether the norms centre."""
        return self.model.config.normalization_type in ("LN", "LNPre")

    @property
    def dimensions(self) -> int:
        """The dimensions of the residual stream that anything reads: d_model, or one less where norms centre."""
        return self.model.config.d_model - self.centred

    def receives(self, letter: Letter, layer: int) -> bool:
        """Whether a stream of queries, keys or values (q, k, v) arrives in a layer."""
        return self.model.blocks[layer].attn.receives == letter

    @property
    def one_matrix(self) -> bool:
        """Whether one matrix a head describes what arrives: not where heads are permuted by position."""
        return self.model.config.stream_permute_heads != "by-position"

    def own(self, letter: Letter, layer: int) -> HeadMatrices:
        """W_Q, W_K or W_V (q, k, v) as attention uses it: times the mixing scalar a where that stream arrives."""
        attn = self.model.blocks[layer].attn
        weight = _centre(getattr(attn, LETTERS[letter]).transpose(-1, -2), self.centred).transpose(-1, -2)
        return attn.mix[0] * weight if self.receives(letter, layer) else weight

    def arriving(self, letter: Letter, layer: int) -> dict[int, HeadMatrices]:
        """Source layer -> the matrix whose projection arrives in `layer`, by the receiving head, with its mixing scalars.
        Empty where no such stream arrives. Raises UsageError where heads are permuted by position."""
        found = arriving_weights(self.model, letter, layer)
        return {source: _centre(weight.transpose(-1, -2), self.centred).transpose(-1, -2) for source, weight in found.items()}

    def used(self, letter: Letter, layer: int) -> HeadMatrices | None:
        """The matrix of what attention uses of a token's embedding: own plus all that arrives, each of which reads the same
        embedding. None where heads are permuted by position."""
        own = self.own(letter, layer)
        if self.receives(letter, layer) and not self.one_matrix:
            return None
        return own + sum(self.arriving(letter, layer).values())

    def source_head(self, source: int, layer: int, head: int) -> int:
        """The head of the source layer whose projection arrives in `head` of `layer`."""
        return (head + exchanges(self.model.config, source, layer)) % self.model.config.n_heads

    def W_O(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """What a layer's heads write."""
        return _centre(self.model.blocks[layer].attn.W_O, self.centred)

    def own_OV(self, layer: int) -> FactoredMatrix:
        """The OV circuit of a layer's own values, a W_V W_O, [head, d_model, d_model]."""
        return FactoredMatrix(self.own("v", layer), self.W_O(layer))

    def streamed_OV(self, layer: int) -> dict[int, FactoredMatrix]:
        """Source layer -> OV circuit of the values that arrive from there, [head, d_model, d_model].

        Each reads the residual stream before its own source layer, so in general they cannot be added; what they make of a
        token's embedding, which all of them read, can. Raises UsageError where no value stream arrives, and where heads are
        permuted by position.
        """
        if not self.receives("v", layer):
            raise UsageError(f"no value stream arrives in layer {layer} (stream={self.model.config.stream!r})")
        return {source: FactoredMatrix(weight, self.W_O(layer)) for source, weight in self.arriving("v", layer).items()}

    def OV_parts(self, layer: int) -> dict[str, FactoredMatrix]:
        """part -> OV circuit on a token's embedding, [head, d_model, d_model]: "own", and where a value stream arrives that
        one matrix a head describes, "streamed" (all sources added) and "total"."""
        return {part: FactoredMatrix(weight, self.W_O(layer)) for part, weight in self._parts("v", layer).items()}

    def QK(self, layer: int) -> FactoredMatrix:
        """W_Q W_K^T of a layer's own queries and keys, [head, d_model, d_model]."""
        return FactoredMatrix(self.own("q", layer), self.own("k", layer).transpose(-1, -2))

    def QK_parts(self, layer: int) -> dict[str, FactoredMatrix]:
        """part -> QK circuit on tokens' embeddings, [head, d_model, d_model]: "own", and where a query or key stream arrives
        that one matrix a head describes, "streamed" (the arriving projection in place of the own) and "total".

        With rotary positions, all are those at distance 0.
        """
        letter = STREAM_LETTER.get(self.model.config.stream)
        if letter == "k":
            return {part: FactoredMatrix(self.own("q", layer), k.transpose(-1, -2)) for part, k in self._parts("k", layer).items()}
        return {part: FactoredMatrix(q, self.own("k", layer).transpose(-1, -2)) for part, q in self._parts("q", layer).items()}

    def OV_tokens(self, layer: int) -> dict[str, FactoredMatrix]:
        """part -> W_E W_OV W_U, [head, d_vocab, d_vocab]: what attending to a token (row) adds to each token's logit (column).
        `.AB` is the whole matrix."""
        return {part: FactoredMatrix(self.W_E @ OV.A, OV.B @ self.W_U) for part, OV in self.OV_parts(layer).items()}

    def QK_tokens(self, layer: int) -> dict[str, FactoredMatrix]:
        """part -> W_E W_QK W_E^T, [head, d_vocab, d_vocab]: the score of each token as a key (column) from a token as a query (row),
        before the divisor. `.AB` is the whole matrix."""
        return {part: FactoredMatrix(self.W_E @ QK.A, QK.B @ self.W_E.T) for part, QK in self.QK_parts(layer).items()}

    def _parts(self, letter: Letter, layer: int) -> dict[str, HeadMatrices]:
        own = self.own(letter, layer)
        if not self.receives(letter, layer) or not self.one_matrix:
            return {"own": own}
        streamed = torch.stack(list(self.arriving(letter, layer).values())).sum(dim=0)
        return {"own": own, "streamed": streamed, "total": own + streamed}


def token_space(model: HookedTransformer) -> TokenSpace:
    """The matrices of a model, with the learned scales of its norms folded in and centred where they centre."""
    config = model.config
    folded = model.fold_layer_norm() if config.normalization_type in ("LN", "RMS") else model
    centred = config.normalization_type in ("LN", "LNPre")
    added = config.positional_embedding_type in ("standard", "sinusoidal")
    return TokenSpace(
        model=folded,
        W_E=_centre(folded.W_E, centred),
        W_pos=_centre(folded.W_pos, centred) if added else None,
        W_U=_centre(folded.W_U.T, centred).T,
    )


def _centre(rows: Float[Tensor, "*rows d_model"], centred: bool) -> Float[Tensor, "*rows d_model"]:
    """Vectors of the residual stream without their mean, where norms centre."""
    return rows - rows.mean(dim=-1, keepdim=True) if centred else rows
