"""Trigger bigrams: a bigram language in which some tokens are followed by whatever the sequence says they are
(Bietti et al., arXiv 2306.00802, section 3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from workbench.config import TriggerBigramConfig
from workbench.errors import ConfigError, UsageError, unknown_name
from workbench.tasks import language
from workbench.tasks.alias import UNITS, AliasTable, quantised
from workbench.tasks.base import Batch, Split

REFERENCE_SEQUENCES = 1024


class TriggerBigram:
    """In each sequence, k triggers q_1 .. q_k are chosen and each is given an output o_i. Then z_0 ~ pi_u, and
    z_(t+1) = o_i where z_t = q_i, otherwise z_(t+1) ~ pi_b(. | z_t).

    - triggers "fixed": the k most frequent tokens; "random": drawn from pi_u without replacement; both among the tokens
      that the language lets be triggers (of the language "facts", the subjects).
    - outputs "uniform" over the allowed tokens, "bigram": pi_b(. | q_i) restricted to them, or "followers": uniform over
      those of them that pi_b(. | q_i) gives any weight (the last two uniform over all, where pi_b gives them none). All
      tokens are allowed, except the trigger itself with `no_repeat`, and except that `ood_fraction` keeps a share of the
      vocabulary for the outputs of the split "ood": training outputs are never among these tokens, out-of-distribution
      outputs always. Bigram draws may be any token in both.

    The annotation "count" [batch, pos], which describes the step from t to t+1, is 0 where the next token is a
    bigram draw, otherwise the number of occurrences of this trigger so far (1 = first). `answered` is count >= 2,
    `unanswerable` is count == 0.
    """

    def __init__(self, config: TriggerBigramConfig) -> None:
        """Raises ConfigError where the configuration leaves a trigger no output, and what `language.load` raises."""
        self.config = config
        self.language = language.load(config)
        weights = self.language.trigger_weights()
        eligible = int((weights > 0).sum())
        if eligible < config.n_triggers:
            can = "ever occur" if self.language.eligible is None else "can be triggers"
            raise ConfigError(f"task: n_triggers={config.n_triggers}, but only {eligible} tokens of this language {can}; lower n_triggers")
        self.fixed_triggers = np.argsort(-weights, kind="stable")[: config.n_triggers]
        self.held_out = _held_out(config)
        self._unigram = AliasTable.of(self.language.unigram[None])
        self._bigram = AliasTable.of(self.language.bigram)
        splits: tuple[Split, ...] = ("train", "ood") if config.ood_fraction > 0 else ("train",)
        self._outputs = {split: AliasTable.of(self.output_probabilities(split)) for split in splits}

    def sample(self, batch_size: int, rng: np.random.Generator, split: Split = "train") -> Batch:
        """Draw sequences of seq_len tokens (and one more, as the last target). `split` "ood" has the held-out outputs;
        raises UsageError for it where ood_fraction is 0."""
        triggers, outputs = self.design(batch_size, rng, split)
        tokens = self._walk(triggers, outputs, rng)
        count = _occurrences(tokens[:, :-1], triggers)
        return Batch(
            tokens=torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])),
            targets=torch.from_numpy(np.ascontiguousarray(tokens[:, 1:])),
            answered=torch.from_numpy(count >= 2),
            unanswerable=torch.from_numpy(count == 0),
            annotations={"count": torch.from_numpy(count)},
        )

    def design(
        self, batch_size: int, rng: np.random.Generator, split: Split = "train"
    ) -> tuple[Int[np.ndarray, "batch k"], Int[np.ndarray, "batch k"]]:
        """Triggers and their outputs for each sequence: what `sample` draws first, so that a generator in the same
        state gives the design of its batch. Raises UsageError as `sample` does."""
        if split not in self._outputs:
            if split == "ood":
                raise UsageError("the split 'ood' needs held-out outputs: set task.ood_fraction (published: 0.25), got 0")
            raise unknown_name("split", str(split), ("train", "ood"))
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        if self.config.triggers == "fixed":
            triggers = np.tile(self.fixed_triggers, (batch_size, 1))
        else:
            triggers = self._random_triggers(batch_size, rng)
        return triggers, self._outputs[split].draw(triggers, rng)

    def output_probabilities(self, split: Split = "train") -> Float[np.ndarray, "d_vocab d_vocab"]:
        """The distribution of the output (column) of each possible trigger (row) in a split, in [0, 1]."""
        allowed = self.held_out if split == "ood" else ~self.held_out
        permitted = np.tile(allowed, (self.config.d_vocab, 1))
        if self.config.no_repeat:
            np.fill_diagonal(permitted, False)
        possible = self.fixed_triggers if self.config.triggers == "fixed" else np.flatnonzero(self.language.trigger_weights())
        for trigger in possible:
            if not permitted[trigger].any():
                name = self.language.strings[trigger]
                raise ConfigError(f"task: no_repeat leaves the trigger {name!r} no output in the split {split!r}; change ood_fraction")
        # Rows of tokens that are never triggers may be empty; any distribution does for them.
        permitted[~permitted.any(1)] = True
        follows = {"uniform": 1.0, "bigram": self.language.bigram, "followers": self.language.bigram > 0}
        weights = permitted * follows[self.config.outputs]
        return quantised(np.where(weights.sum(1, keepdims=True) > 0, weights, permitted.astype(np.float64)))

    def describe(self) -> str:
        """One paragraph: what the sequences are."""
        config = self.config
        sources = {
            "synthetic": "a synthetic bigram language",
            "prose": "the character bigrams of the standard library's prose",
            "facts": f"plain facts, each a subject, an object ({language.TRUE_SHARE:.0%} of the time the true one) and a full stop,",
        }
        source = sources.get(config.language, f"the character bigrams of {config.language}")
        kind = "tokens" if self.language.eligible is None else "subjects"
        choice = f"always the most frequent {kind}"
        if config.triggers == "random":
            choice = "drawn anew " + ("from the unigram distribution" if self.language.eligible is None else f"from the {kind}")
        drawn = {
            "uniform": "uniformly",
            "bigram": "from the trigger's bigram",
            "followers": "uniformly from the tokens that can follow the trigger",
        }[config.outputs]
        held = int(self.held_out.sum())
        return (
            f"Sequences of {config.seq_len} tokens from {source} over {config.d_vocab} tokens. "
            f"In each, {config.n_triggers} trigger tokens ({choice}) are always followed by an output token drawn {drawn} "
            f"for that sequence{', never the trigger itself' if config.no_repeat else ''}; every other step is a bigram draw. "
            + (f"{held} tokens are outputs only in the split 'ood'. " if held else "")
            + "From a trigger's second occurrence on, the context answers."
        )

    def to_strings(self, tokens: Iterable[int]) -> list[str]:
        """Each token as its word or character (white space in quotes), or t0, t1, ... in a large synthetic vocabulary."""
        return [self.language.strings[token] for token in tokens]

    def fingerprint(self) -> str:
        """sha256 of the configuration and of the language's tables. The text's path is left out, since the tables
        stand for it: the same text elsewhere has the same fingerprint, an edited one in its place another."""
        config = {name: value for name, value in self.config.to_dict().items() if name != "language"}
        digest = hashlib.sha256(json.dumps([config, self.language.strings], sort_keys=True).encode())
        for table in (self.language.unigram, self.language.bigram):
            digest.update((table * UNITS).astype("<u8").tobytes())
        if self.language.eligible is not None:
            digest.update(self.language.eligible.tobytes())
        return digest.hexdigest()

    def references(self) -> dict[str, float]:
        """bigram_loss, in nats: sum over tokens v of w(v) H(pi_b(. | v)). The entropies H are exact; the weights w are
        the relative frequencies of v at the positions with count 0 in 1024 training sequences of fixed seed. It is
        the loss at these positions of a predictor that knows the language and which tokens are triggers; with random
        triggers nobody knows before the second occurrence, so there it is a lower bound."""
        batch = self.sample(REFERENCE_SEQUENCES, np.random.default_rng(0))
        current = batch.tokens[batch.unanswerable].numpy()
        if not len(current):
            return {}
        weights = np.bincount(current, minlength=self.config.d_vocab) / len(current)
        return {"bigram_loss": float(weights @ self.language.entropies())}

    def _random_triggers(self, batch_size: int, rng: np.random.Generator) -> Int[np.ndarray, "batch k"]:
        """k tokens a sequence from pi_u (of those that may be triggers) without replacement: one after another, each from what
        is left. The sums are exact (multiples of 2**-32), so no rounding can pick a token of weight zero."""
        weights = np.tile(self.language.trigger_weights(), (batch_size, 1))
        triggers = np.empty((batch_size, self.config.n_triggers), dtype=np.int64)
        for slot in range(self.config.n_triggers):
            cumulative = weights.cumsum(1)
            point = rng.random((batch_size, 1)) * cumulative[:, -1:]
            triggers[:, slot] = (cumulative <= point).sum(1)
            np.put_along_axis(weights, triggers[:, slot : slot + 1], 0.0, 1)
        return triggers

    def _walk(
        self, triggers: Int[np.ndarray, "batch k"], outputs: Int[np.ndarray, "batch k"], rng: np.random.Generator
    ) -> Int[np.ndarray, "batch pos_and_target"]:
        """z_0 .. z_seq_len. The loop is over positions; all chances are drawn before it."""
        batch_size, steps, d_vocab = len(triggers), self.config.seq_len, self.config.d_vocab
        forced = np.full((batch_size, d_vocab), -1, dtype=np.int64)
        np.put_along_axis(forced, triggers, outputs, 1)
        forced = forced.ravel()
        row = np.arange(batch_size) * d_vocab
        tokens = np.empty((steps + 1, batch_size), dtype=np.int64)
        tokens[0] = self._unigram.draw(np.zeros(batch_size, dtype=np.int64), rng)
        bins, coins = self._bigram.chances(rng, (steps, batch_size))
        for t in range(steps):
            output = forced.take(row + tokens[t])
            tokens[t + 1] = np.where(output >= 0, output, self._bigram.pick(tokens[t], bins[t], coins[t]))
        return tokens.T


def _held_out(config: TriggerBigramConfig) -> Bool[np.ndarray, " d_vocab"]:
    """The tokens kept out of training outputs: round(ood_fraction * d_vocab) of them, at least one and not all."""
    mask = np.zeros(config.d_vocab, dtype=bool)
    if config.ood_fraction > 0:
        size = min(max(1, round(config.ood_fraction * config.d_vocab)), config.d_vocab - 1)
        # The language's own draws come from default_rng(language_seed); the second number keeps the two independent.
        mask[np.random.default_rng([config.language_seed, 1]).permutation(config.d_vocab)[:size]] = True
    return mask


def _occurrences(tokens: Int[np.ndarray, "batch pos"], triggers: Int[np.ndarray, "batch k"]) -> Int[np.ndarray, "batch pos"]:
    """How often the trigger at each position has occurred up to and including it; 0 at other tokens. The triggers of
    a sequence differ, so at most one term of the sum is not zero."""
    count = np.zeros(tokens.shape, dtype=np.int64)
    for trigger in triggers.T:
        hit = tokens == trigger[:, None]
        count += hit.cumsum(1, dtype=np.int64) * hit
    return count
