"""HookedTransformer: a small transformer with TransformerLens's classic names and residual attention streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from workbench.axes import Mask, Resid, Tokens
from workbench.config import ModelConfig
from workbench.errors import UsageError, unknown_name
from workbench.model.block import TransformerBlock
from workbench.model.cache import ActivationCache
from workbench.model.components import Embed, Unembed, make_norm, make_readout
from workbench.model.lens import LensInterface, derive_cfg
from workbench.model.loss import next_token_loss, squared_error_loss
from workbench.model.positions import PosEmbed
from workbench.model.weights import check_state_dict, clean_state_dict, infer_config, initialise

NamesFilter = str | list[str] | tuple[str, ...] | Callable[[str], bool] | None

# Hooks that are passed only where a tool asked for them: the end of their names, and the flag in cfg.
_ON_REQUEST = {
    "hook_result": "use_attn_result",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}


class HookedTransformer(LensInterface, HookedRootModule):
    """A decoder-only transformer in which every intermediate tensor passes a hook.

    Names, shapes and cache keys are those of TransformerLens's classic HookedTransformer. `config` is the frozen
    ModelConfig that is saved; `cfg` is TransformerLens's mutable view of it, for that library's tools, never saved.
    Layers that receive a stream also have `attn.hook_{q,k,v}_stream` (what arrives along the wire) and
    `attn.hook_{q,k,v}_used` (what attention uses), both [batch, pos, head, d_head]. A classifier's relu layers have
    `readout.{i}.hook_{pre,post}` [batch, pos, d_model].
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
        # blocks and ln_final are read through properties (lens.py).
        self.blocks = nn.ModuleList(TransformerBlock(config, self.cfg, layer) for layer in range(config.n_layers))  # pyright: ignore
        self.ln_final = make_norm(config)  # pyright: ignore
        self.readout = make_readout(config)
        self.unembed = Unembed(config, self.embed)
        initialise(self, config)
        self.setup()
        # TransformerLens 4 looks for the split inputs inside attention; classic names have them beside it.
        for layer, block in enumerate(self.blocks):
            for letter in "qkv":
                self.mod_dict[f"blocks.{layer}.attn.hook_{letter}_input"] = getattr(block, f"hook_{letter}_input")

    def forward(
        self,
        tokens: Tokens | Int[Tensor, " pos"] | None = None,
        return_type: Literal["logits", "loss", "both"] | None = "logits",
        *,
        inputs_embeds: Resid | None = None,
        targets: Tokens | None = None,
        values: Float[Tensor, "batch pos"] | None = None,
        loss_mask: Mask | None = None,
        loss_per_token: bool = False,
    ) -> Any:
        """Run the model on tokens [batch, pos] (or [pos]), or on `inputs_embeds` [batch, pos, d_model] in their place.

        return_type "logits" gives [batch, pos, d_vocab]; "loss" the mean cross-entropy in nats (with `loss_per_token`
        one for each target); "both" a pair; None nothing. Targets [batch, pos] default to the tokens shifted by one,
        [batch, pos - 1]; with `values` the loss is the squared error of the one output; `loss_mask` chooses positions.
        Raises UsageError for a sequence longer than learned positions allow.
        """
        if isinstance(tokens, Tensor) and tokens.ndim == 1:
            tokens = tokens[None]
        logits = self.unembed(self.readout(self.ln_final(self._residual(self._embedded(tokens, inputs_embeds)))))
        if return_type is None or return_type == "logits":
            return None if return_type is None else logits
        if return_type not in ("loss", "both"):
            raise UsageError(f"return_type must be logits, loss, both or None, got {return_type!r}")
        if values is None:
            loss = next_token_loss(logits, tokens, targets, loss_mask, per_token=loss_per_token)
        else:
            loss = squared_error_loss(logits, values, loss_mask, per_token=loss_per_token)
        return loss if return_type == "loss" else (logits, loss)

    def _embedded(self, tokens: Tensor | None, inputs_embeds: Tensor | None) -> Resid:
        if (tokens is None) == (inputs_embeds is None):
            raise UsageError("give either tokens or inputs_embeds")
        if inputs_embeds is not None and inputs_embeds.shape[-1] != self.config.d_model:
            raise UsageError(f"inputs_embeds must be vectors of d_model={self.config.d_model}, got {inputs_embeds.shape[-1]}")
        if tokens is not None:
            if not isinstance(tokens, Tensor):
                raise UsageError(f"tokens must be a tensor of token ids, got {type(tokens).__name__}; model.to_tokens makes one")
            if tokens.is_floating_point():
                raise UsageError(f"tokens must be integers, got {tokens.dtype}; continuous inputs go to inputs_embeds")
            inputs_embeds = self.embed(tokens)
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
        self,
        *args: Any,
        names_filter: NamesFilter = None,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        pos_slice: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """The output and an ActivationCache (or a dict) of the activations that `names_filter` names: a name, a list
        or tuple of names, a function of the name, or None for all. `pos_slice` keeps some positions. Raises UsageError
        where `remove_batch_dim` meets more than one sequence."""
        if isinstance(names_filter, tuple):
            names_filter = list(names_filter)
        if remove_batch_dim:
            inputs = args[0] if args else next(kwargs[name] for name in ("tokens", "inputs_embeds") if name in kwargs)
            if inputs.ndim > 1 and len(inputs) != 1:
                raise UsageError(f"remove_batch_dim needs a batch of one sequence, got {len(inputs)}")
        output, activations = super().run_with_cache(*args, names_filter=names_filter, **kwargs)
        if pos_slice is not None:
            activations = {name: _sliced(name, value, pos_slice) for name, value in activations.items()}
        if remove_batch_dim:
            activations = {name: value[0] for name, value in activations.items()}
        return output, ActivationCache(activations, self, not remove_batch_dim) if return_cache_object else activations

    def hooks(self, fwd_hooks: Any = (), bwd_hooks: Any = (), *args: Any, **kwargs: Any) -> Any:
        """As in TransformerLens: a context in which hooks are attached. Raises UsageError for a name that there is not."""
        for name, _ in (*fwd_hooks, *bwd_hooks):
            if isinstance(name, str) and name not in self.mod_dict:
                raise unknown_name("hook", name, self.hook_dict)
        return super().hooks(list(fwd_hooks), list(bwd_hooks), *args, **kwargs)

    def run_with_hooks(self, *args: Any, fwd_hooks: Any = (), bwd_hooks: Any = (), **kwargs: Any) -> Any:
        """As in TransformerLens: one forward pass with hooks attached. Raises UsageError for a hook that would not run."""
        for name, _ in (*fwd_hooks, *bwd_hooks):
            flag = _ON_REQUEST.get(name.rsplit(".", 1)[-1]) if isinstance(name, str) else None
            if flag and not getattr(self.cfg, flag):
                raise UsageError(f"{name} is passed only after model.set_{flag}(True)")
        return super().run_with_hooks(*args, fwd_hooks=list(fwd_hooks), bwd_hooks=list(bwd_hooks), **kwargs)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], config: ModelConfig | None = None, **fields: Any) -> HookedTransformer:
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

    def _apply(self, fn: Any, recurse: bool = True) -> HookedTransformer:
        # Every move (to, cuda, double) ends here; the tools read the device and dtype off cfg.
        super()._apply(fn, recurse)
        self.cfg.device, self.cfg.dtype = str(self.embed.W_E.device), self.embed.W_E.dtype
        return self


def _sliced(name: str, value: Tensor, pos_slice: Any) -> Float[Tensor, ...]:
    from transformer_lens.utilities import Slice

    # Vectors of heads are [batch, pos, head, width]; scores and patterns [batch, head, dst, src]; all else [batch, pos, width].
    per_head = value.ndim == 4 and not name.removesuffix("_grad").endswith(("hook_attn_scores", "hook_pattern"))
    return Slice.unwrap(pos_slice).apply(value, dim=-3 if per_head else -2)
