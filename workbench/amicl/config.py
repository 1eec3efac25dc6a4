"""What can be chosen about AMICL: the data and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from workbench.config_base import Config


@dataclass(frozen=True)
class AmiclConfig(Config):
    """Sizes of the data, and how the model remembers, compares and answers. The defaults are the published setting."""

    section: ClassVar[str] = "amicl"

    d: int = 100
    """dimension of a token, the paper's D"""
    n_classes: int = 512
    """classes that a sequence draws from, the paper's K"""
    n_tokens: int = 20
    """tokens of a sequence, with the query object and the empty slot; even, the paper's n"""
    eps: float = 0.1
    """how much objects of one class differ"""
    a: float = 2.0
    """strength of the memory of the token before"""
    similarity: Literal["dot", "pearson", "manhattan", "euclidean"] = "dot"
    """how alike a key and a query are; distances count negatively"""
    answer: Literal["argmax", "softmax"] = "argmax"
    """the value of the best key, or the mean of all values under the softmax of their scores"""
    beta: float = 1.0
    """inverse temperature of the softmax; the paper's is 1"""

    def check(self) -> None:
        """Raise ConfigError for sizes and strengths that cannot be."""
        for name in ("d", "n_classes"):
            self.require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        self.require(
            self.n_tokens >= 4 and self.n_tokens % 2 == 0,
            f"n_tokens must be even and at least 4 (one pair, the query and the empty slot), got {self.n_tokens}",
        )
        for name in ("eps", "a", "beta"):
            self.require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name):g}")

    @property
    def n_pairs(self) -> int:
        """Pairs of object and label in the context."""
        return self.n_tokens // 2 - 1


PAPER = AmiclConfig()
"""the published setting"""
