"""The sequences of AMICL: object, label, object, label, ..., a query object, and an empty slot for its label
(Burns et al., arXiv 2412.15113).

Other data come in as vectors of one's own, or as a function of one's own:

    mine = functools.partial(draw, class_vectors=images, label_vectors=names)     # [n_classes, d] each
    sweep("a", [1.0, 2.0], config, draw=mine)

    def mine(config, trials, generator): return Sequences(tokens, labels)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.amicl.config import AmiclConfig
from workbench.errors import UsageError


@dataclass(frozen=True)
class Sequences:
    """Sequences and their right answers. Raises UsageError where they do not fit each other."""

    tokens: Float[np.ndarray, "batch pos d_model"]
    """object, label, ..., query object, empty slot (which should be zero)"""
    labels: Float[np.ndarray, "batch d_model"]
    """the label of the query's class, as it stands in the sequence"""

    def __post_init__(self) -> None:
        shape, labels = np.shape(self.tokens), np.shape(self.labels)
        if len(shape) != 3 or shape[1] < 4 or shape[1] % 2:
            raise UsageError(f"tokens must be [trials, an even number of at least 4, d], got {list(shape)}")
        if labels != (shape[0], shape[2]):
            raise UsageError(f"labels must be {[shape[0], shape[2]]}, one for each sequence of tokens {list(shape)}, got {list(labels)}")
        for name, vectors in (("tokens", self.tokens), ("labels", self.labels)):
            if not np.issubdtype(np.asarray(vectors).dtype, np.floating) or not np.isfinite(vectors).all():
                raise UsageError(f"{name} must be an array of finite floating-point numbers")
        if missing := int((~self.answered.any(axis=1)).sum()):
            raise UsageError(
                f"the right label must stand in its sequence, number for number (and of one dtype); in {missing} of {shape[0]} it does not"
            )

    @property
    def answered(self) -> Bool[np.ndarray, "batch pair"]:
        """The pairs of the context whose label is the right answer."""
        return (self.tokens[:, 1:-2:2] == self.labels[:, None]).all(axis=2)


Draw = Callable[[AmiclConfig, int, np.random.Generator], Sequences]
"""a function (config, trials, generator) that draws sequences of `config.n_tokens` tokens of `config.d` numbers; it must not depend on
how the model is set"""


def draw(
    config: AmiclConfig,
    trials: int,
    generator: np.random.Generator,
    *,
    class_vectors: Float[np.ndarray, "n_classes d_model"] | None = None,
    label_vectors: Float[np.ndarray, "n_classes d_model"] | None = None,
) -> Sequences:
    """Draw `trials` sequences, in single precision.

    n/2 - 1 classes are drawn with replacement; the query is of the class of one of these pairs, each as likely. An object is
    (class + eps g) / sqrt(1 + eps^2) with g ~ N(0, 1/d^2) per coordinate (the standard deviation is 1/d, as in the paper's
    code), anew for each object, the query among them. Labels have no noise. Class and label vectors are N(0, 1/d) per
    coordinate, anew for each sequence, unless they are given: then every sequence has these.

    Raises UsageError where vectors that are given are not [n_classes, d].
    """
    pairs = config.n_pairs
    ids = generator.integers(config.n_classes, size=(trials, pairs))
    asked = generator.integers(pairs, size=trials)
    each = np.arange(trials)[:, None]
    classes, labels = (
        _pair_vectors(config, ids, generator) if given is None else _checked(name, given, config)[ids]
        for name, given in (("class_vectors", class_vectors), ("label_vectors", label_vectors))
    )
    tokens = np.zeros((trials, config.n_tokens, config.d), dtype=np.float32)
    # The query is one more object of the class of the pair that is asked for.
    tokens[:, :-1:2] = np.concatenate([classes, classes[each, asked[:, None]]], axis=1)
    noise = generator.standard_normal((trials, pairs + 1, config.d), dtype=np.float32)
    tokens[:, ::2] += noise * np.float32(config.eps / config.d)
    tokens[:, ::2] /= np.float32(np.sqrt(1 + config.eps**2))
    tokens[:, 1:-2:2] = labels
    return Sequences(tokens, tokens[np.arange(trials), 2 * asked + 1])


def _pair_vectors(
    config: AmiclConfig, ids: Int[np.ndarray, "batch pair"], generator: np.random.Generator
) -> Float[np.ndarray, "batch pair d_model"]:
    """A new random vector for each class that occurs in a sequence. What does not occur is not drawn: it changes nothing."""
    trials, pairs = ids.shape
    if pairs < config.n_classes:
        # Each pair brings a vector, and pairs of one class take that of the first.
        ids = (ids[:, :, None] == ids[:, None, :]).argmax(axis=2)
    vectors = generator.standard_normal((trials, min(pairs, config.n_classes), config.d), dtype=np.float32)
    vectors /= np.float32(np.sqrt(config.d))
    return vectors[np.arange(trials)[:, None], ids]


def _checked(name: str, vectors: np.ndarray, config: AmiclConfig) -> np.ndarray:
    if np.shape(vectors) != (config.n_classes, config.d):
        raise UsageError(f"{name} must be [n_classes, d] = {[config.n_classes, config.d]}, got {list(np.shape(vectors))}")
    return np.asarray(vectors)
