"""The model: queries, keys, scores and answers (Burns et al., arXiv 2412.15113). Every function takes all sequences at once.

q_t = k_t = (a x_(t-1) + x_t) / (a + 1)      x_(-1) = 0
k_(n-1)   = a random vector                  the empty slot must not match itself
v_t       = x_t
answer    = v at argmax_s sim(k_s, q_(n-1)), or sum_s softmax_s(beta sim) v_s
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from workbench.amicl.config import AmiclConfig
from workbench.amicl.data import Sequences

Tokens = Float[np.ndarray, "batch pos d_model"]
Answers = Float[np.ndarray, "batch d_model"]
Queries = Float[np.ndarray, "batch dst d_model"]
Keys = Float[np.ndarray, "batch src d_model"]
Scores = Float[np.ndarray, "batch dst src"]


def queries(tokens: Tokens, a: float) -> Tokens:
    """(a x_(t-1) + x_t) / (a + 1) at every position; nothing stands before the first."""
    remembered = tokens.copy()
    remembered[:, 1:] += np.asarray(a, dtype=tokens.dtype) * tokens[:, :-1]
    remembered /= np.asarray(a + 1, dtype=tokens.dtype)
    return remembered


def keys(queries: Tokens, empty: Answers) -> Tokens:
    """The queries, with the vectors `empty` as the key of the last position."""
    own = queries.copy()
    own[:, -1] = empty
    return own


def empty_keys(config: AmiclConfig, trials: int, generator: np.random.Generator) -> Answers:
    """Keys of the empty slot: N(0, 1/d) per coordinate, anew for each sequence."""
    return generator.standard_normal((trials, config.d), dtype=np.float32) / np.float32(np.sqrt(config.d))


def dot(queries: Queries, keys: Keys) -> Scores:
    """The dot product of each query with each key."""
    return queries @ keys.swapaxes(1, 2)


def pearson(queries: Queries, keys: Keys) -> Scores:
    """Pearson's correlation over the coordinates, in [-1, 1]. That of a constant vector, such as the zero query of a = 0, is 0/0
    and defined to be 0."""
    return np.clip(_standardised(queries) @ _standardised(keys).swapaxes(1, 2), -1, 1)


def manhattan(queries: Queries, keys: Keys) -> Scores:
    """Minus the sum of absolute differences."""
    # One query at a time, so that no array is larger than the keys.
    return -np.stack([np.abs(keys - query[:, None]).sum(axis=2) for query in queries.swapaxes(0, 1)], axis=1)


def euclidean(queries: Queries, keys: Keys) -> Scores:
    """Minus the Euclidean distance."""
    return -np.stack([np.linalg.norm(keys - query[:, None], axis=2) for query in queries.swapaxes(0, 1)], axis=1)


SIMILARITIES: dict[str, Callable[[Queries, Keys], Scores]] = {
    "dot": dot,
    "pearson": pearson,
    "manhattan": manhattan,
    "euclidean": euclidean,
}
"""name -> function"""


def scores(config: AmiclConfig, tokens: Tokens, empty: Answers) -> Scores:
    """How alike every query is to every key. There is no causal mask."""
    own = queries(tokens, config.a)
    return SIMILARITIES[config.similarity](own, keys(own, empty))


def softmax(scores: Scores, beta: float) -> Scores:
    """exp(beta score) over the keys, normalised for each query."""
    weights = np.exp(np.asarray(beta, dtype=scores.dtype) * (scores - scores.max(axis=2, keepdims=True)))
    return weights / weights.sum(axis=2, keepdims=True)


def answers(config: AmiclConfig, tokens: Tokens, empty: Answers) -> Answers:
    """What the last position answers. Of keys that score the same, argmax takes the first."""
    own = queries(tokens, config.a)
    scored = SIMILARITIES[config.similarity](own[:, -1:], keys(own, empty))
    if config.answer == "softmax":
        return (softmax(scored, config.beta) @ tokens)[:, 0]
    return tokens[np.arange(len(tokens)), scored[:, 0].argmax(axis=1)]


def nearest_token(answers: Answers, tokens: Tokens) -> Answers:
    """The token of the sequence, the empty slot left out, that has the largest cosine with the answer.

    A softmax answers with a mixture, which is never exactly a label. All tokens are candidates, objects among them, because all
    of them are for argmax: at a large beta both answers are the same. The cosine is taken because the mixture is short; by distance
    the shortest token would win.
    """
    candidates = tokens[:, :-1]
    lengths = np.linalg.norm(candidates, axis=2)
    cosines = (candidates @ answers[:, :, None])[:, :, 0] / np.where(lengths > 0, lengths, 1)
    return candidates[np.arange(len(tokens)), cosines.argmax(axis=1)]


def right(config: AmiclConfig, sequences: Sequences, empty: Answers) -> Bool[np.ndarray, " batch"]:
    """Whether each answer is exactly the label of the query's class; for softmax, whether the token nearest to it is."""
    said = answers(config, sequences.tokens, empty)
    if config.answer == "softmax":
        said = nearest_token(said, sequences.tokens)
    return (said == sequences.labels).all(axis=1)


def _standardised(vectors: Float[np.ndarray, "batch pos d_model"]) -> Float[np.ndarray, "batch pos d_model"]:
    """Centred and of length one; zero where constant."""
    constant = (vectors == vectors[:, :, :1]).all(axis=2, keepdims=True)
    centred = vectors - vectors.mean(axis=2, keepdims=True)
    lengths = np.linalg.norm(centred, axis=2, keepdims=True)
    return np.where(constant, 0, centred / np.where(constant, 1, lengths))
