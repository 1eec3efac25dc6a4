"""Prompts in which the context says one thing and the bigrams of training another (Wang & Sato, arXiv 2412.11459).

A prompt ends with a trigger q. Earlier in it q was followed n_context times by c, the context's token, and n_prior times by g, which
the bigrams prefer; everything between is a walk through the bigram language that never meets q. The last pair ends `distance`
tokens before the end. Every prompt carries its whole design.

In a language with a beat (of three, where every sentence is subject, object, full stop) the trigger can only stand every third
token, and prompts keep to that: they read like the language.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.axes import Tokens
from workbench.errors import UsageError

PAIR = 2
"""tokens of a pair: the trigger and what follows it"""


@dataclass(frozen=True)
class Design:
    """One cell of the grid. Lengths are in tokens."""

    trigger: int
    context: int
    """c, which followed the trigger n_context times"""
    prior: int
    """g, which the bigrams prefer"""
    n_context: int = 1
    n_prior: int = 0
    distance: int = 8
    """from the end of the last pair to the trigger at the end: so many tokens stand between"""

    @property
    def length(self) -> int:
        """The fewest tokens that the prompt can have in a language without a beat."""
        return self.shortest(1)

    def shortest(self, beat: int) -> int:
        """The fewest tokens that the prompt can have in a language with this beat."""
        pairs = self.n_context + self.n_prior
        return max(PAIR, beat) * (pairs - 1) + PAIR + self.distance + 1 if pairs else 1

    def check(self, bigram: Float[np.ndarray, "d_vocab d_vocab"], length: int, n_ctx: int | None = None) -> None:
        """Raise UsageError, with the reason, for a prompt that cannot be."""
        d_vocab = len(bigram)
        for name in ("trigger", "context", "prior"):
            if not 0 <= getattr(self, name) < d_vocab:
                raise UsageError(f"{name} must be a token of 0 to {d_vocab - 1}, got {getattr(self, name)}")
        for name in ("context", "prior"):
            if getattr(self, name) == self.trigger:
                raise UsageError(f"the {name} token must differ from the trigger, got {self.trigger} for both: it would be a trigger again")
            if bigram[self.trigger, getattr(self, name)] <= 0:
                raise UsageError(
                    f"token {getattr(self, name)} never follows the trigger {self.trigger} in the language: its log-odds are infinite"
                )
        if self.context == self.prior:
            raise UsageError(f"context and prior must be two tokens, got {self.context} for both")
        for name in ("n_context", "n_prior", "distance"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be at least 0, got {getattr(self, name)}")
        beat, _ = beat_of(bigram, self.trigger)
        if (self.n_context or self.n_prior) and self.distance != in_time(self.distance, beat):
            raise UsageError(
                f"in this language the trigger can only stand every {beat} tokens: the distance must be {in_time(beat, beat)} more than "
                f"a multiple of {beat}, got {self.distance}"
            )
        shortest = self.shortest(beat)
        if length < shortest:
            pairs = f"{self.n_context + self.n_prior} pairs, a distance of {self.distance} and the trigger"
            raise UsageError(f"{pairs} need {shortest} tokens, but the prompt has {length}")
        if n_ctx is not None and length > n_ctx:
            raise UsageError(f"a prompt of {length} tokens is longer than the model's n_ctx={n_ctx}")


@dataclass(frozen=True)
class Prompts:
    """Prompts of one length with their designs, [prompt]."""

    tokens: Tokens
    design: dict[str, Int[Tensor, " prompt"]]
    """by the fields of Design"""
    log_odds: Float[Tensor, " prompt"]
    """log(pi_b(g | q) / pi_b(c | q))"""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> Prompts:
        """Some of the prompts."""
        return Prompts(self.tokens[rows], {name: values[rows] for name, values in self.design.items()}, self.log_odds[rows])


def hijack_prompts(
    designs: Sequence[Design], bigram: Float[np.ndarray, "d_vocab d_vocab"], length: int, rng: np.random.Generator, n_ctx: int | None = None
) -> Prompts:
    """One prompt of `length` tokens for each design. The last pair stands `distance` before the end, the others at random places
    before it; which of the pairs are q c and which q g is random.

    Raises UsageError for a design that cannot be (Design.check), and for none at all.
    """
    if not designs:
        raise UsageError("there is no design; give at least one")
    for design in designs:
        design.check(bigram, length, n_ctx)
    columns = {field.name: np.array([getattr(design, field.name) for design in designs]) for field in fields(Design)}
    beat, classes = beat_of(bigram, designs[0].trigger)
    forced = _forced(columns, length, rng, beat)
    tokens = _walk(forced, columns["trigger"], bigram, rng, beat, classes)
    odds = np.log(bigram[columns["trigger"], columns["prior"]] / bigram[columns["trigger"], columns["context"]])
    return Prompts(torch.from_numpy(tokens), {name: torch.from_numpy(values) for name, values in columns.items()}, torch.from_numpy(odds))


def grid(
    bigram: Float[np.ndarray, "d_vocab d_vocab"],
    triggers: Sequence[int],
    log_odds: Sequence[float] = (-2.0, 0.0, 2.0, 4.0),
    n_context: Sequence[int] = (0, 1, 2, 4),
    n_prior: Sequence[int] = (0, 1),
    distance: Sequence[int] = (2, 8, 24),
) -> list[Design]:
    """Every combination, with a pair (c, g) for each trigger and each wanted log-odds: one of the two is the token that follows the
    trigger most often (g, where the bigrams prefer it; c, for log-odds below 0), the other makes the odds nearest to what is wanted.

    Among tokens that rarely follow, odds are just as large, but a model has no reason to learn them. The tokens c and g are taken
    among those that follow the trigger in the language, neither of them a trigger; a pair that is nearest to two of the wanted odds
    stands once. In a language with a beat, distances are lowered to the nearest that it allows. Raises UsageError where a trigger has
    fewer than two such followers.
    """
    designs = []
    for trigger, wanted in product(triggers, log_odds):
        context, prior = _nearest_pair(bigram[trigger], trigger, triggers, wanted)
        beat, _ = beat_of(bigram, trigger)
        places = [in_time(tokens, beat) for tokens in distance]
        designs += [Design(trigger, context, prior, *rest) for rest in product(n_context, n_prior, places)]
    return list(dict.fromkeys(designs))


def beat_of(bigram: Float[np.ndarray, "d_vocab d_vocab"], start: int) -> tuple[int, Int[np.ndarray, " d_vocab"]]:
    """After how many steps a token can be met again: the greatest common divisor of the lengths of all walks from it back to it (the
    period of the Markov chain), and of each token how many steps after `start` it can stand, modulo that.

    1 for a language without a beat, and where a token cannot be reached from `start`.

    >>> beat_of(np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), 0)
    (2, array([0, 1, 1]))
    """
    follows = bigram > 0
    steps = np.full(len(bigram), -1)
    steps[start] = 0
    at = 0
    while (reached := (steps == at)).any():
        steps[follows[reached].any(0) & (steps < 0)] = at + 1
        at += 1
    current, following = np.nonzero(follows)
    beat = 1 if (steps < 0).any() else max(1, int(np.gcd.reduce(steps[current] + 1 - steps[following])))
    return beat, steps % beat


def in_time(distance: int, beat: int) -> int:
    """The largest distance, at most the one given where that is possible, at which the trigger can stand again after its pair.

    >>> [in_time(distance, 3) for distance in (0, 1, 2, 8, 24)]
    [1, 1, 1, 7, 22]
    """
    first = -PAIR % beat
    return max(first, distance - (distance - first) % beat)


def _nearest_pair(row: Float[np.ndarray, " d_vocab"], trigger: int, triggers: Sequence[int], wanted: float) -> tuple[int, int]:
    followers = np.array([token for token in np.flatnonzero(row) if token not in (trigger, *triggers)])
    if len(followers) < 2:
        raise UsageError(f"the trigger {trigger} has {len(followers)} followers that are no triggers; two are needed")
    first = followers[row[followers].argmax()]
    others = followers[followers != first]
    other = others[np.abs(np.log(row[first] / row[others]) - abs(wanted)).argmin()]
    return (int(other), int(first)) if wanted >= 0 else (int(first), int(other))


def _forced(columns: dict[str, np.ndarray], length: int, rng: np.random.Generator, beat: int) -> Int[np.ndarray, "prompt pos"]:
    """The tokens that the design fixes, -1 elsewhere. Pairs are placed as blocks among single free tokens: a random choice of
    places in the shortened row, which no two blocks can share. With a beat, they are placed among the beats before the last pair."""
    n, last = len(columns["trigger"]), columns["distance"]
    pairs = columns["n_context"] + columns["n_prior"]
    forced = np.full((n, length), -1, dtype=np.int64)
    forced[:, -1] = columns["trigger"]
    for row in np.flatnonzero(pairs > 0):
        count, end = pairs[row], length - 1 - last[row]
        if beat > 1:
            places = end - PAIR - beat * (1 + rng.choice((end - PAIR) // beat, count - 1, replace=False))
        else:
            # All but the last pair, which ends at `end`: each block counts as one place of end - PAIR - (count - 1) (PAIR - 1).
            room = end - PAIR - (count - 1) * (PAIR - 1)
            places = np.sort(rng.choice(room, count - 1, replace=False)) + np.arange(count - 1) * (PAIR - 1)
        starts = np.append(places, end - PAIR)
        said = np.repeat([columns["context"][row], columns["prior"][row]], [columns["n_context"][row], columns["n_prior"][row]])
        forced[row, starts] = columns["trigger"][row]
        forced[row, starts + 1] = rng.permutation(said)
    return forced


def _walk(
    forced: Int[np.ndarray, "prompt pos"],
    trigger: Int[np.ndarray, " prompt"],
    bigram: Float[np.ndarray, "d_vocab d_vocab"],
    rng: np.random.Generator,
    beat: int,
    classes: Int[np.ndarray, " d_vocab"],
) -> Int[np.ndarray, "prompt pos"]:
    """Fill the free places: each with a bigram draw from the token before it, the trigger excluded (uniform over the others, of those
    that can stand there in time, where there is no token before it or nothing but the trigger ever follows)."""
    n, length = forced.shape
    d_vocab = len(bigram)
    others = np.ones((n, d_vocab))
    others[np.arange(n), trigger] = 0.0
    chances = rng.random((length, n, 1))
    tokens = forced.copy()
    for t in range(length):
        weights = others * ((classes - classes[trigger][:, None]) % beat == (t - (length - 1)) % beat)
        if t:
            following = bigram[tokens[:, t - 1]] * others
            weights = np.where(following.sum(1, keepdims=True) > 0, following, weights)
        cumulative = weights.cumsum(1)
        drawn = (cumulative <= chances[t] * cumulative[:, -1:]).sum(1)
        tokens[:, t] = np.where(forced[:, t] >= 0, forced[:, t], np.minimum(drawn, d_vocab - 1))
    return tokens
