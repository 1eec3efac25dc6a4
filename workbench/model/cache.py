"""The activation cache, which also knows the streams' names and refuses decompositions that would be wrong."""

from __future__ import annotations

from typing import Any, cast

import transformer_lens
from torch import Tensor

from workbench.config import ModelConfig
from workbench.errors import UsageError
from workbench.model.attention import STREAM_LETTER

STREAM_NAMES = {f"{letter}_{kind}" for letter in STREAM_LETTER.values() for kind in ("stream", "used")}


class MissingActivation(UsageError, KeyError):
    """The cache holds no activation of that name. A KeyError too, which TransformerLens's tools catch."""

    __str__ = Exception.__str__


class ActivationCache(transformer_lens.ActivationCache):
    """TransformerLens's ActivationCache; `cache["v_stream", 1]` and `cache["v_used", 1]` name the stream hooks.

    A component's share of what a norm passes on (logit_attrs, apply_ln=True) is refused with UsageError while that
    norm has a learned scale and shift: TransformerLens ignores both, and its answer would be wrong without a word.
    """

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, tuple) and len(key) == 2 and key[0] in STREAM_NAMES:
            name, layer = key
            key = f"blocks.{layer if layer >= 0 else self.model.cfg.n_layers + layer}.attn.hook_{name}"
        try:
            return super().__getitem__(key)
        except KeyError as missing:
            name = missing.args[0]
            raise MissingActivation(f"the cache holds no {name}{_why_missing(str(name), cast(Any, self.model).config)}") from None

    def apply_ln_to_stack(
        self, residual_stack: Tensor, layer: int | None = None, mlp_input: bool = False, *args: Any, **kwargs: Any
    ) -> Tensor:
        """As in TransformerLens. Raises UsageError where the norm has a learned scale or shift."""
        if not kwargs.get("recompute_ln"):
            self._refuse_learned_norm(layer, mlp_input)
        return super().apply_ln_to_stack(residual_stack, layer, mlp_input, *args, **kwargs)

    def stack_neuron_results(self, layer: int, *args: Any, apply_ln: bool = False, mlp_input: bool = False, **kwargs: Any) -> Any:
        """As in TransformerLens. Raises UsageError where apply_ln meets a learned scale or shift."""
        if apply_ln:
            self._refuse_learned_norm(layer, mlp_input)
        return super().stack_neuron_results(layer, *args, apply_ln=apply_ln, mlp_input=mlp_input, **kwargs)

    def _refuse_learned_norm(self, layer: int | None, mlp_input: bool) -> None:
        final = layer is None or layer in (-1, self.model.cfg.n_layers)
        name = "ln_final" if final else f"blocks.{layer}.ln{2 if mlp_input else 1}"
        norm = cast(Any, self.model).get_submodule(name)
        if any(hasattr(norm, part) and (getattr(norm, part) != neutral).any() for part, neutral in (("w", 1.0), ("b", 0.0))):
            raise UsageError(f"this decomposition ignores the learned scale and shift of {name}; use model.fold_layer_norm() first")


def _why_missing(name: str, config: ModelConfig) -> str:
    if name.endswith(("_stream", "_used")):
        return "; only layers that receive a stream have it"
    if config.attn_only and name.endswith(("resid_mid", "mlp_out", "mlp.hook_pre", "mlp.hook_post")):
        return "; the model is attention-only"
    if config.parallel_attn_mlp and name.endswith("resid_mid"):
        return "; attention and MLP run in parallel"
    return ""
