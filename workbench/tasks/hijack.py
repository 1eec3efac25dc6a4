"""Prompts in which the context says one thing and the bigrams of training another (Wang & Sato, arXiv 2412.11459; papers.md
section 5).

A prompt ends with a trigger q. Earlier in it q was followed n_context times by c, the context's token, and n_prior times by g, which
the bigrams prefer; everything between is a walk through the bigram language that never meets q. The last pair ends `distance`
tokens before the end. Every prompt carries its whole design.
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
        """The fewest tokens that the prompt can have."""
        pairs = self.n_context + self.n_prior
        return PAIR * pairs + (self.distance if pairs else 0) + 1

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
        if length < self.length:
            pairs = f"{self.n_context + self.n_prior} pairs, a distance of {self.distance} and the trigger"
            raise UsageError(f"{pairs} need {self.length} tokens, but the prompt has {length}")
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
    forced = _forced(columns, length, rng)
    tokens = _walk(forced, columns["trigger"], bigram, rng)
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
    among those that follow the trigger in the language, neither of them a trigger. Raises UsageError where a trigger has fewer than
    two such followers.
    """
    designs = []
    for trigger, wanted in product(triggers, log_odds):
        context, prior = _nearest_pair(bigram[trigger], trigger, triggers, wanted)
        designs += [Design(trigger, context, prior, *rest) for rest in product(n_context, n_prior, distance)]
    return designs


def _nearest_pair(row: Float[np.ndarray, " d_vocab"], trigger: int, triggers: Sequence[int], wanted: float) -> tuple[int, int]:
    followers = np.array([token for token in np.flatnonzero(row) if token not in (trigger, *triggers)])
    if len(followers) < 2:
        raise UsageError(f"the trigger {trigger} has {len(followers)} followers that are no triggers; two are needed")
    first = followers[row[followers].argmax()]
    others = followers[followers != first]
    other = others[np.abs(np.log(row[first] / row[others]) - abs(wanted)).argmin()]
    return (int(other), int(first)) if wanted >= 0 else (int(first), int(other))


def _forced(columns: dict[str, np.ndarray], length: int, rng: np.random.Generator) -> Int[np.ndarray, "prompt pos"]:
    """The tokens that the design fixes, -1 elsewhere. Pairs are placed as blocks among single free tokens: a random choice of
    places in the shortened row, which no two blocks can share."""
    n, last = len(columns["trigger"]), columns["distance"]
    pairs = columns["n_context"] + columns["n_prior"]
    forced = np.full((n, length), -1, dtype=np.int64)
    forced[:, -1] = columns["trigger"]
    for row in np.flatnonzero(pairs > 0):
        count, end = pairs[row], length - 1 - last[row]
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
) -> Int[np.ndarray, "prompt pos"]:
    """Fill the free places: each with a bigram draw from the token before it, the trigger excluded (uniform over the others where
    nothing but the trigger ever follows)."""
    n, length = forced.shape
    d_vocab = len(bigram)
    others = np.ones((n, d_vocab))
    others[np.arange(n), trigger] = 0.0
    chances = rng.random((length, n, 1))
    tokens = forced.copy()
    weights = others
    for t in range(length):
        if t:
            weights = bigram[tokens[:, t - 1]] * others
            weights = np.where(weights.sum(1, keepdims=True) > 0, weights, others)
        cumulative = weights.cumsum(1)
        drawn = (cumulative <= chances[t] * cumulative[:, -1:]).sum(1)
        tokens[:, t] = np.where(forced[:, t] >= 0, forced[:, t], np.minimum(drawn, d_vocab - 1))
    return tokens
