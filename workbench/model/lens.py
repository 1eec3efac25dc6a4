"""What TransformerLens's tools expect of a model beyond its forward pass, and what they must not do to a stream.

With this, a HookedTransformer satisfies `transformer_lens.model_protocol.TransformerLensModelWithWeights`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import FactoredMatrix
from transformer_lens.config import TransformerBridgeConfig

from workbench.axes import Tokens
from workbench.config import ModelConfig
from workbench.errors import UsageError
from workbench.model.wire import arriving_weights

# Not typing.Self, which the runtime type check of the tests does not take in a single method.
Model = TypeVar("Model", bound="LensInterface")


def derive_cfg(config: ModelConfig) -> TransformerBridgeConfig:
    """TransformerLens's view of a configuration. Its tools read it and set flags in it; it is never saved."""
    cfg = TransformerBridgeConfig(
        d_model=config.d_model,
        d_head=config.head_width,
        n_layers=config.n_layers,
        n_ctx=config.n_ctx,
        n_heads=config.n_heads,
        d_vocab=config.d_vocab,
        d_vocab_out=config.d_vocab,
        d_mlp=config.mlp_width,
        act_fn=config.act_fn,
        eps=config.eps,
        attn_only=config.attn_only,
        attn_scale=config.score_divisor,
        parallel_attn_mlp=config.parallel_attn_mlp,
        normalization_type=config.normalization_type,
        positional_embedding_type=config.positional_embedding_type,
        tie_word_embeddings=config.tie_word_embeddings,
        rotary_base=config.rotary_base,
        seed=config.seed,
        model_name=f"workbench-{config.variant}",
        device="cpu",
    )
    cfg.default_prepend_bos = False
    return cfg


class LensInterface(nn.Module):
    """Stacked weights, token helpers, flags and foldings, by the names that TransformerLens's tools use."""

    config: ModelConfig
    cfg: TransformerBridgeConfig

    # Properties, because a runtime check of TransformerLens's protocol (from Python 3.12 on) sees no registered submodule.

    @property
    def blocks(self) -> Any:
        """The layers, a ModuleList of TransformerBlock."""
        return self._modules["blocks"]

    @property
    def ln_final(self) -> Any:
        """The norm before unembedding; the identity where there is none."""
        return self._modules["ln_final"]

    # Weights, stacked over layers where a layer has them.

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Token embedding."""
        return self.embed.W_E

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Position table, learned or sinusoidal."""
        return self.pos_embed.W_pos

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """Unembedding."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """Bias of the logits."""
        return self.unembed.b_U

    def __getattr__(self, name: str) -> Any:
        # W_Q ... b_O and W_in ... b_out: stacked over layers, [layer, ...], as in HookedTransformer.
        if name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"):
            return torch.stack([getattr(block.attn, name) for block in self.blocks])
        if name in ("W_in", "b_in", "W_out", "b_out"):
            if self.config.attn_only:
                raise AttributeError(f"{name}: the model is attention-only")
            return torch.stack([getattr(block.mlp, name) for block in self.blocks])
        return super().__getattr__(name)

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_K^T of every head, [layer, head, d_model, d_model] (Elhage et al.)."""
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-1, -2))

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of every head, [layer, head, d_model, d_model] (Elhage et al.). A value stream scales it (`own_OV`),
        and what arrives along it has its own circuit (`streamed_OV`)."""
        return FactoredMatrix(self.W_V, self.W_O)

    def streamed_OV(self, layer: int) -> dict[int, FactoredMatrix]:
        """The second OV circuits of `layer` through a value stream: source layer -> b W_V[source]
        W_O[layer], [head, d_model, d_model], each reading the residual stream *before the source layer*. b is what the
        mixing scalars on the way multiply to (1 for plain addition); with permuted heads, W_V is the head's that arrives.

        Raises UsageError where no value stream arrives, and where heads are permuted by position: no one matrix then
        describes the wire.
        """
        if self.config.stream != "value" or not 0 < layer < self.config.n_layers:
            raise UsageError(f"no value stream arrives in layer {layer} (stream={self.config.stream!r}, n_layers={self.config.n_layers})")
        W_O = self.blocks[layer].attn.W_O
        return {source: self.factored(W_V, W_O) for source, W_V in arriving_weights(self, "v", layer).items()}

    def own_OV(self, layer: int) -> FactoredMatrix:
        """The OV circuit a W_V W_O of a layer's own values, [head, d_model, d_model], as attention uses it: a is the
        stream's mixing scalar (1 for plain addition, and where no value stream arrives)."""
        attn = self.blocks[layer].attn
        scale = attn.mix[0] if attn.receives == "v" else 1.0
        return self.factored(scale * attn.W_V, attn.W_O)

    @staticmethod
    def factored(left: Tensor, right: Tensor) -> FactoredMatrix:
        """The product of two matrices, kept as its factors."""
        return FactoredMatrix(left, right)

    def all_head_labels(self) -> list[str]:
        """L0H0, L0H1, ..."""
        return [f"L{layer}H{head}" for layer in range(self.config.n_layers) for head in range(self.config.n_heads)]

    # Tokens. These models are trained on token ids; a string of ids stands in where a tool insists on text.

    def to_tokens(self, input: str | Tensor | Iterable[int], prepend_bos: bool | None = None, **_: Any) -> Tokens:
        """Token ids [batch, pos] from ids, or from text that lists ids ("3 14 15"). Raises UsageError for other text."""
        if isinstance(input, str):
            input = [self.to_single_token(word) for word in input.split()]
        tokens = torch.as_tensor(input, dtype=torch.long, device=self.cfg.device)
        return tokens if tokens.ndim == 2 else tokens[None]

    def to_single_token(self, string: str) -> int:
        """The token id that `string` spells. Raises UsageError for anything but a number below d_vocab."""
        if not string.strip().isdecimal() or int(string) >= self.config.d_vocab:
            raise UsageError(f"{string!r} is not a token id of this model (0 to {self.config.d_vocab - 1}); it has no tokenizer")
        return int(string)

    def to_str_tokens(self, input: str | Tensor | Iterable[int], **_: Any) -> list[str]:
        """Each token id as text."""
        return [str(token) for token in self.to_tokens(input)[0].tolist()]

    def tokens_to_residual_directions(self, tokens: Any) -> Tensor:
        """The columns of W_U that belong to the tokens, [..., d_model]."""
        ids = self.to_tokens(tokens)[0] if isinstance(tokens, str) else torch.as_tensor(tokens, device=self.cfg.device)
        directions = self.W_U.T[ids.long()]
        return directions[0] if isinstance(tokens, str) and len(ids) == 1 else directions

    def accumulated_bias(self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> Float[Tensor, " d_model"]:
        """Sum of the output biases written before layer `layer` (with mlp_input: before its MLP)."""
        total = torch.zeros(self.config.d_model, device=self.cfg.device, dtype=self.W_E.dtype)
        for index in range(layer):
            total = total + self.blocks[index].attn.b_O
            if include_mlp_biases and not self.config.attn_only:
                total = total + self.blocks[index].mlp.b_out
        return total + self.blocks[layer].attn.b_O if mlp_input else total

    # Flags that TransformerLens's tools set.

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Compute every head's own output, in attn.hook_result [batch, pos, head, d_model]."""
        self.cfg.use_attn_result = use_attn_result

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Give every head its own copy of the residual stream, in hook_attn_in."""
        self._refuse_with_stream(use_attn_in)
        self._refuse_both(use_attn_in, "use_split_qkv_input")
        self.cfg.use_attn_in = use_attn_in

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Give every head its own copies for query, key and value, in hook_{q,k,v}_input (for path patching)."""
        self._refuse_with_stream(use_split_qkv_input)
        self._refuse_both(use_split_qkv_input, "use_attn_in")
        self.cfg.use_split_qkv_input = use_split_qkv_input

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Let an MLP's input be hooked before its norm, in hook_mlp_in. Raises UsageError in an attention-only model."""
        if use_hook_mlp_in and self.config.attn_only:
            raise UsageError("hook_mlp_in needs MLPs; this model is attention-only")
        self.cfg.use_hook_mlp_in = use_hook_mlp_in

    def _refuse_with_stream(self, wanted: bool) -> None:
        if wanted and self.config.stream != "none":
            raise UsageError(
                f"per-head inputs serve path patching along the residual stream, which misses the wire of stream={self.config.stream!r}; "
                f"patch hook_{self.config.stream[0]} or hook_{self.config.stream[0]}_stream instead"
            )

    def _refuse_both(self, wanted: bool, other: str) -> None:
        if wanted and getattr(self.cfg, other):
            raise UsageError(f"use_attn_in and use_split_qkv_input exclude each other; call set_{other}(False) first")

    # Foldings that leave the function unchanged. Each returns a new model.

    def fold_layer_norm(self: Model) -> Model:
        """A model of equal logits whose norms have no learned scale and shift (LN -> LNPre, RMS -> RMSPre).

        The scale and shift move into the matrices that read the norm. Own projections keep their values, so every
        stream does too. No weight of the new model is frozen. Returns a copy where there is nothing to fold.
        Raises UsageError for a classifier behind such a norm.
        """
        kind = self.config.normalization_type
        if kind not in ("LN", "RMS"):
            return copy.deepcopy(self)
        if self.config.readout == "classifier":
            raise UsageError("fold_layer_norm cannot fold the final norm into a classifier, whose layers have one bias number each")
        weights = {name: value.clone() for name, value in self.state_dict().items()}
        for layer in range(self.config.n_layers):
            attn = f"blocks.{layer}.attn"
            _fold(weights, f"blocks.{layer}.ln1", [(f"{attn}.W_{letter}", f"{attn}.b_{letter}") for letter in "QKV"])
            if not self.config.attn_only:
                _fold(weights, f"blocks.{layer}.ln2", [(f"blocks.{layer}.mlp.W_in", f"blocks.{layer}.mlp.b_in")])
        weights["unembed.W_U"] = self.W_U.detach().clone()
        _fold(weights, "ln_final", [("unembed.W_U", "unembed.b_U")])
        config = self.config.replace(
            normalization_type=f"{kind}Pre",
            tie_word_embeddings=False,
            attn_bias=True,
            mlp_bias=True,
            unembed_bias=True,
            frozen=(),
            identity=(),
        )
        folded = type(self)(config).to(self.cfg.device, self.W_E.dtype)
        folded.load_weights(weights)
        return folded.train(self.training)

    def fold_value_biases(self: Model) -> Model:
        """A model of equal logits in which b_O has taken in the value biases. Raises UsageError with a value stream:
        b_V[l-1] also reaches layer l along the wire, and its share there would be lost."""
        if self.config.stream == "value":
            raise UsageError("fold_value_biases would drop the share of b_V that reaches the next layer along the value stream")
        folded = copy.deepcopy(self)
        with torch.no_grad():
            for block in folded.blocks:
                block.attn.b_O += torch.einsum("hd,hdm->m", block.attn.b_V, block.attn.W_O)
                block.attn.b_V.zero_()
        return folded

    def refactor_factored_attn_matrices(self) -> NoReturn:
        """Refused with a stream, which ties the bases of heads in neighbouring layers; not offered otherwise."""
        reason = "a stream ties the head bases of neighbouring layers" if self.config.stream != "none" else "no tool here needs it"
        raise UsageError(f"refactor_factored_attn_matrices is not available: {reason}")


def _fold(weights: dict[str, Tensor], norm: str, readers: list[tuple[str, str]]) -> None:
    """Move a norm's scale and shift into the matrices [..., d_model, out] and biases [..., out] that read it."""
    scale, shift = weights.pop(f"{norm}.w"), weights.pop(f"{norm}.b", None)
    for matrix, bias in readers:
        if shift is not None:
            weights[bias] = weights[bias] + torch.einsum("m,...mo->...o", shift, weights[matrix])
        weights[matrix] = weights[matrix] * scale[:, None]
