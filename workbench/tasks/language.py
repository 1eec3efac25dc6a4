"""Bigram languages: which token follows which (Bietti et al., arXiv 2306.00802, section 3: pi_u and pi_b).

Four sources: made up (`synthetic`), counted in a text (`from_text`), counted in the standard library's own
documentation (`prose`), which is on every machine, and sentences of a few plain facts (`facts`).
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from workbench.config import TriggerBigramConfig
from workbench.errors import ConfigError, UsageError
from workbench.tasks.alias import quantised
from workbench.tasks.facts import RELATIONS, SEPARATOR, WORDS

VISIBLE = string.ascii_lowercase + string.ascii_uppercase + string.digits + string.punctuation
CHARACTERS_PER_TOKEN = 10
"""a text is long enough for bigrams when it has at least this many characters for each token of the vocabulary"""
TRUE_SHARE = 0.8
"""how often a subject of the language `facts` is followed by its true object"""


@dataclass(frozen=True, eq=False)
class Language:
    """How often each token occurs, and what follows it. Raises ConfigError where the tables are no probabilities.

    The tables are kept read-only and as multiples of 2**-32 (`quantised`): they are the same on every machine, and
    samplers draw from them exactly. A probability below 2**-33 is therefore zero.
    """

    unigram: Float[np.ndarray, " d_vocab"]
    """probability of each token, in [0, 1]"""
    bigram: Float[np.ndarray, "d_vocab d_vocab"]
    """probability of the next token (column) after the current one (row), in [0, 1]"""
    strings: tuple[str, ...]
    """how each token is written in figures and tables; all different"""
    eligible: Bool[np.ndarray, " d_vocab"] | None = None
    """the tokens that may be triggers; None: all"""

    def __post_init__(self) -> None:
        d_vocab = len(self.strings)
        if len(set(self.strings)) != d_vocab:
            raise ConfigError("language: two tokens have the same string")
        for name, shape in (("unigram", (d_vocab,)), ("bigram", (d_vocab, d_vocab))):
            table = np.asarray(getattr(self, name), dtype=np.float64)
            if table.shape != shape:
                raise ConfigError(f"language: {name} has the shape {table.shape}, but {d_vocab} tokens need {shape}")
            if not (np.isfinite(table).all() and (table >= 0).all()):
                raise ConfigError(f"language: {name} holds values that are negative or not finite")
            if np.abs(table.sum(-1) - 1).max() > 1e-6:
                raise ConfigError(f"language: {name} does not sum to one (off by {np.abs(table.sum(-1) - 1).max():.2g})")
            table = quantised(table)
            table.flags.writeable = False
            object.__setattr__(self, name, table)
        if self.eligible is not None and self.eligible.shape != (d_vocab,):
            raise ConfigError(f"language: eligible has the shape {self.eligible.shape}, but {d_vocab} tokens need {(d_vocab,)}")

    @property
    def d_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return len(self.strings)

    def trigger_weights(self) -> Float[np.ndarray, " d_vocab"]:
        """How often each token occurs, 0 for a token that may not be a trigger: triggers are drawn in these proportions."""
        return self.unigram if self.eligible is None else self.unigram * self.eligible

    def entropies(self) -> Float[np.ndarray, " d_vocab"]:
        """Entropy of the next token after each token, in nats, in [0, ln d_vocab]."""
        log = np.log(self.bigram, out=np.zeros_like(self.bigram), where=self.bigram > 0)
        return np.maximum(-(self.bigram * log).sum(-1), 0.0)


def synthetic(d_vocab: int, zipf_exponent: float = 1.0, concentration: float = 10.0, seed: int = 0) -> Language:
    """A made-up language. The token of id i has the base frequency b_i proportional to 1 / (i + 1) ** zipf_exponent,
    so ids are Zipf ranks; each row of the bigram matrix is drawn from Dirichlet(concentration * b); the unigram is
    the stationary distribution of that matrix, so that it is what a long sequence shows.

    A large concentration makes every row resemble b (the context tells nothing), a small one leaves each token few
    followers. Raises ConfigError where the values give no language with one stationary distribution.
    """
    if seed < 0:
        raise ConfigError(f"language: the seed must be at least 0, got {seed}")
    base = np.arange(1, d_vocab + 1, dtype=np.float64) ** -zipf_exponent
    rows = np.random.default_rng(seed).dirichlet(concentration * base / base.sum(), size=d_vocab)
    if not np.allclose(rows.sum(1), 1):
        raise ConfigError(f"language: concentration={concentration} is out of the range that can be drawn; use a value nearer to 10")
    bigram = quantised(rows)
    unigram = _stationary(bigram)
    if unigram is None:
        raise ConfigError(
            f"language: concentration={concentration} with zipf_exponent={zipf_exponent} gives a language that falls into parts; "
            "raise concentration"
        )
    return Language(unigram, bigram, token_names(d_vocab))


def facts(d_vocab: int, zipf_exponent: float = 1.0, true_share: float = TRUE_SHARE) -> Language:
    """Sentences of three words, subject object ".", over the relations of facts.py. After a subject comes its true object with
    probability `true_share`, and each other object of its relation with an equal share of the rest; after an object "."; after "."
    the r-th subject with a probability proportional to 1 / r ** zipf_exponent. Only subjects may be triggers. The unigram is the
    stationary distribution.

    Raises ConfigError where d_vocab is not the number of words, or true_share no probability.
    """
    if d_vocab != len(WORDS):
        raise ConfigError(f"language: facts has {len(WORDS)} words, but d_vocab={d_vocab}; set d_vocab to {len(WORDS)}")
    if not 0 <= true_share <= 1:
        raise ConfigError(f"language: true_share must lie in [0, 1], got {true_share}")
    ids = {word: token for token, word in enumerate(WORDS)}
    bigram, eligible = np.zeros((d_vocab, d_vocab)), np.zeros(d_vocab, dtype=bool)
    for relation in RELATIONS.values():
        for subject, true in relation.facts.items():
            for word in relation.facts.values():
                rest = (1 - true_share) / (len(relation.facts) - 1)
                bigram[ids[subject], ids[word]] = true_share if word == true else rest
            bigram[ids[true], ids[SEPARATOR]] = 1.0
            eligible[ids[subject]] = True
    rank = np.maximum(eligible.cumsum(), 1)
    bigram[ids[SEPARATOR]] = eligible * rank**-zipf_exponent / (eligible * rank**-zipf_exponent).sum()
    unigram = _stationary(quantised(bigram))
    assert unigram is not None  # from the separator every word is reached
    eligible.flags.writeable = False
    return Language(unigram, bigram, WORDS, eligible)


def from_text(text: str, d_vocab: int, where: str = "the text") -> Language:
    """The characters of a text. The d_vocab most frequent are kept (ties: the smaller code point) and the others
    dropped, which makes neighbours of what stood around them. Ids are in order of falling frequency.

    unigram and bigram are relative frequencies; after a character that is never followed by any (it ends the text)
    the next is a draw from the unigram. Raises ConfigError where the text has fewer than d_vocab different
    characters, or fewer than 10 * d_vocab characters in all; `where` names the text in errors.
    """
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    distinct, frequency = np.unique(points, return_counts=True)
    if len(distinct) < d_vocab:
        raise ConfigError(
            f"language: {where} has {len(distinct)} different characters, fewer than d_vocab={d_vocab}; lower d_vocab or give another text"
        )
    kept = distinct[np.argsort(-frequency, kind="stable")[:d_vocab]]
    by_point = np.argsort(kept)
    ids = by_point[np.searchsorted(kept[by_point], points[np.isin(points, kept)])]
    if len(ids) < CHARACTERS_PER_TOKEN * d_vocab:
        raise ConfigError(
            f"language: {where} has {len(ids)} characters of the vocabulary, but the bigrams of d_vocab={d_vocab} "
            f"need at least {CHARACTERS_PER_TOKEN * d_vocab}; lower d_vocab or give a longer text"
        )
    unigram = np.bincount(ids, minlength=d_vocab) / len(ids)
    pairs = np.bincount(ids[:-1] * d_vocab + ids[1:], minlength=d_vocab**2).reshape(d_vocab, d_vocab)
    followed = pairs.sum(1, keepdims=True)
    bigram = np.where(followed > 0, pairs / np.maximum(followed, 1), unigram)
    return Language(unigram, bigram, tuple(_shown(chr(point)) for point in kept))


def prose() -> str:
    """About 430,000 characters of English: the topics of Python's own help, in the order of their names, white space
    collapsed. It differs between versions of Python, so a run records the version (and the task's fingerprint).
    Raises UsageError on a Python installed without them."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UsageError("this Python comes without pydoc_data, the text of language='prose'; use synthetic or a text file") from error
    return " ".join(" ".join(topics[name] for name in sorted(topics)).split())


def read_text(path: str) -> str:
    """A text file in UTF-8, with any line endings. Raises UsageError where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"language: {path} is not UTF-8 text (byte {error.start}); convert it to UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"language: cannot read {path!r} ({reason}); expected synthetic, prose, facts or the path of a text file"
        ) from error


def load(config: TriggerBigramConfig) -> Language:
    """The language that a configuration names: synthetic, prose, facts, or the path of a text file."""
    if config.language == "synthetic":
        return synthetic(config.d_vocab, config.zipf_exponent, config.concentration, config.language_seed)
    if config.language == "prose":
        return from_text(prose(), config.d_vocab, where="the standard library's prose")
    if config.language == "facts":
        return facts(config.d_vocab, config.zipf_exponent)
    return from_text(read_text(config.language), config.d_vocab, where=config.language)


def token_names(d_vocab: int) -> tuple[str, ...]:
    """Names for tokens that have none: single visible characters (a-z, A-Z, 0-9, punctuation) for a vocabulary
    of at most 94, t0, t1, ... for a larger one."""
    return tuple(VISIBLE[:d_vocab]) if d_vocab <= len(VISIBLE) else tuple(f"t{token}" for token in range(d_vocab))


def _shown(character: str) -> str:
    """A character as a figure can show it: white space and control characters as Python writes them, in quotes."""
    return character if character.isprintable() and character != " " else repr(character)


def _stationary(bigram: Float[np.ndarray, "d_vocab d_vocab"]) -> Float[np.ndarray, " d_vocab"] | None:
    """The distribution pi with pi = pi @ bigram, or None where there is more than one.

    By the elimination of Grassmann, Taksar and Heyman (1985), which never subtracts: every entry has full relative
    precision even where the language nearly falls into parts, so rounding it gives the same table on every machine.
    """
    reaches = (bigram > 0) | np.eye(len(bigram), dtype=bool)
    for _ in range(len(bigram).bit_length()):
        reaches = reaches.astype(np.float32) @ reaches.astype(np.float32) > 0
    # pi is unique exactly when some tokens can be reached from every token; then only these have weight in it.
    lasting = np.flatnonzero(reaches.all(0))
    if not len(lasting):
        return None
    chain = bigram[np.ix_(lasting, lasting)]
    for last in range(len(chain) - 1, 0, -1):
        chain[:last, last] /= chain[last, :last].sum()
        chain[:last, :last] += np.outer(chain[:last, last], chain[last, :last])
    weights = np.ones(len(chain))
    for token in range(1, len(chain)):
        weights[token] = weights[:token] @ chain[:token, token]
    unigram = np.zeros(len(bigram))
    unigram[lasting] = weights / weights.sum()
    return unigram
