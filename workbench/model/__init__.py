"""The transformer, with TransformerLens's classic names and one attention path for every stream."""

from workbench.model.cache import ActivationCache
from workbench.model.transformer import HookedTransformer

__all__ = ["ActivationCache", "HookedTransformer"]
