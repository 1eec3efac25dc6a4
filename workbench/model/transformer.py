"""HookedTransformer: a small transformer with TransformerLens's classic names and residual attention streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.HookedRootModule import HookedRootModule
from transformer_lens.hook_points import HookPoint

from workbench.axes import Logits, Mask, Resid, Tokens
from workbench.config import ModelConfig
from workbench.errors import UsageError
from workbench.model.block import TransformerBlock
from workbench.model.cache import ActivationCache
from workbench.model.components import Embed, Unembed, make_norm
from workbench.model.lens import LensInterface, derive_cfg
from workbench.model.loss import next_token_loss
from workbench.model.positions import PosEmbed
from workbench.model.weights import check_state_dict, clean_state_dict, infer_config, initialise

NamesFilter = str | list[str] | tuple[str, ...] | Callable[[str], bool] | None

# Activations whose position axis is third from the end; everywhere else it is the second.
_HEAD_VECTORS = ("_q", "_k", "_v", "_z", "_result", "_stream", "_used", "_q_input", "_k_input", "_v_input", "_attn_in")


class HookedTransformer(LensInterface, HookedRootModule):
    """A decoder-only transformer in which every intermediate tensor passes a hook.

    Names, shapes and cache keys are those of TransformerLens's classic HookedTransformer. `config` is the frozen
    ModelConfig that is saved; `cfg` is TransformerLens's mutable view of it, for that library's tools, never saved.
    Layers that receive a stream also have `attn.hook_{q,k,v}_stream` (what arrives along the wire) and
    `attn.hook_{q,k,v}_used` (what attention uses), both [batch, pos, head, d_head].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.cfg = derive_cfg(config)
        self.embed = Embed(config)
        self.hook_embed = HookPoint()
        if config.positional_embedding_type in ("standard", "sinusoidal"):
            self.pos_embed = PosEmbed(config)
            self.hook_pos_embed = HookPoint()
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(config, self.cfg, layer) for layer in range(config.n_layers))
        self.ln_final = make_norm(config)
        self.unembed = Unembed(config, self.embed)
        initialise(self, config)
        self.setup()

    def forward(
        self,
        tokens: Tokens | None = None,
        return_type: Literal["logits", "loss", "both"] | None = "logits",
        *,
        inputs_embeds: Resid | None = None,
        targets: Tokens | None = None,
        loss_mask: Mask | None = None,
        loss_per_token: bool = False,
    ) -> Any:
        """Run the model on tokens [batch, pos] (or [pos]), or on `inputs_embeds` [batch, pos, d_model] in their place.

        return_type "logits" gives [batch, pos, d_vocab]; "loss" the mean cross-entropy in nats (or [batch, pos] with
        `loss_per_token`); "both" a pair; None nothing. Targets default to the tokens shifted by one; `loss_mask`
        chooses positions. Raises UsageError for a sequence longer than learned positions allow.
        """
        logits = self.unembed(self.ln_final(self._residual(self._embedded(tokens, inputs_embeds))))
        if return_type is None or return_type == "logits":
            return None if return_type is None else logits
        if return_type not in ("loss", "both"):
            raise UsageError(f"return_type must be logits, loss, both or None, got {return_type!r}")
        loss = next_token_loss(logits, tokens, targets, loss_mask, per_token=loss_per_token)
        return loss if return_type == "loss" else (logits, loss)

    def _embedded(self, tokens: Tensor | None, inputs_embeds: Tensor | None) -> Resid:
        if (tokens is None) == (inputs_embeds is None):
            raise UsageError("give either tokens or inputs_embeds")
        if tokens is not None:
            if tokens.is_floating_point():
                raise UsageError(f"tokens must be integers, got {tokens.dtype}; continuous inputs go to inputs_embeds")
            inputs_embeds = self.embed(tokens if tokens.ndim == 2 else tokens[None])
        resid = self.hook_embed(inputs_embeds)
        if self.config.positional_embedding_type in ("standard", "sinusoidal"):
            resid = resid + self.hook_pos_embed(self.pos_embed(resid.shape[1]).expand_as(resid))
        return self.dropout(resid)

    def _residual(self, resid: Resid) -> Resid:
        source = None
        for block in self.blocks:
            resid, source = block(resid, source)
        return resid

    def run_with_cache(
        self, *args: Any, names_filter: NamesFilter = None, return_cache_object: bool = True, pos_slice: Any = None, **kwargs: Any
    ) -> tuple[Any, Any]:
        """The output and an ActivationCache (or a dict) of the activations that `names_filter` names: a name, a list
        or tuple of names, a function of the name, or None for all. `pos_slice` keeps some positions."""
        if isinstance(names_filter, tuple):
            names_filter = list(names_filter)
        remove_batch_dim = kwargs.pop("remove_batch_dim", False)
        output, activations = super().run_with_cache(*args, names_filter=names_filter, **kwargs)
        if pos_slice is not None:
            activations = {name: _sliced(name, value, pos_slice) for name, value in activations.items()}
        if not return_cache_object:
            return output, activations
        cache = ActivationCache(activations, self)
        return output, cache.remove_batch_dim(1) if remove_batch_dim else cache

    def streamed_OV(self, layer: int) -> dict[int, Any]:
        """The second OV circuits of `layer` through a value stream: source layer -> FactoredMatrix
        [head, d_model, d_model] of W_V[source] W_O[layer], each reading the residual stream *before the source layer*
        (papers.md section 1). Raises UsageError where no value stream arrives."""
        if self.config.stream != "value" or not 0 < layer < self.config.n_layers:
            raise UsageError(f"no value stream arrives in layer {layer} (stream={self.config.stream!r}, n_layers={self.config.n_layers})")
        sources = {"previous": [layer - 1], "first": [0], "accumulated": list(range(layer))}[self.config.stream_source]
        return {source: self.factored(self.blocks[source].attn.W_V, self.blocks[layer].attn.W_O) for source in sources}

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], config: ModelConfig | None = None, **fields: Any) -> Self:
        """A model with the weights of a classic HookedTransformer's state dict (or of one of ours).

        Without `config`, sizes are read off the shapes, and `fields` says what shapes cannot tell (act_fn,
        normalization_type "LNPre", ...). Raises CheckpointError where names or shapes do not fit, ConfigError where
        something is not told.
        """
        model = cls(infer_config(state_dict, **fields) if config is None else config)
        model.load_weights(state_dict)
        return model

    def load_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        """Replace all weights. Raises CheckpointError, before anything changes, where names or shapes do not fit."""
        kept = clean_state_dict(state_dict, self.config)
        check_state_dict(kept, self.state_dict())
        self.load_state_dict(kept)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Every move (to, cuda, double) ends here; the tools read the device and dtype off cfg.
        super()._apply(fn, recurse)
        self.cfg.device, self.cfg.dtype = str(self.embed.W_E.device), self.embed.W_E.dtype
        return self


def _sliced(name: str, value: Tensor, pos_slice: Any) -> Float[Tensor, "..."]:
    from transformer_lens.utilities import Slice

    dim = -3 if name.endswith(_HEAD_VECTORS) else -2
    return Slice.unwrap(pos_slice).apply(value, dim=dim) if value.ndim >= -dim else value
