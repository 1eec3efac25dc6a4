"""The activation cache, which also knows the streams' names and refuses decompositions that would be wrong."""

from __future__ import annotations

from typing import Any

import transformer_lens
from torch import Tensor, nn

from workbench.errors import UsageError
from workbench.model.attention import STREAM_LETTER

STREAM_NAMES = {f"{letter}_{kind}" for letter in STREAM_LETTER.values() for kind in ("stream", "used")}


class ActivationCache(transformer_lens.ActivationCache):
    """TransformerLens's ActivationCache; `cache["v_stream", 1]` and `cache["v_used", 1]` name the stream hooks."""

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, tuple) and len(key) == 2 and key[0] in STREAM_NAMES:
            name, layer = key
            full_name = f"blocks.{layer % self.model.cfg.n_layers}.attn.hook_{name}"
            if full_name not in self.cache_dict:
                raise UsageError(f"the cache holds no {full_name}; only layers that receive a stream have it")
            return self.cache_dict[full_name]
        return super().__getitem__(key)

    def logit_attrs(self, *args: Any, **kwargs: Any) -> Tensor:
        """As in TransformerLens. Raises UsageError unless the final norm's scale and shift are the identity:
        logit_attrs ignores them, and its answer would be wrong without a word."""
        norm: nn.Module = self.model.ln_final
        changed = [name for name, neutral in (("w", 1.0), ("b", 0.0)) if hasattr(norm, name) and (getattr(norm, name) != neutral).any()]
        if changed:
            raise UsageError("logit_attrs ignores the final norm's learned scale and shift; use model.fold_layer_norm() first")
        return super().logit_attrs(*args, **kwargs)
