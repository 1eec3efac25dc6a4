"""Repeated random tokens, the classic diagnostic of induction heads (Olsson et al., arXiv 2209.11895), and the two
placements in which a head that attends at a fixed distance cannot pass for one."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Int

from workbench.config import RepeatedTokensConfig
from workbench.errors import ConfigError, UsageError, unknown_name
from workbench.tasks.base import Batch, Split
from workbench.tasks.language import token_names

SHORTEST_CONTROL_BLOCK = 6
"""below this block_len the distances of the controls hardly vary"""
LONGEST_GAP = 2
"""non-periodic: fresh tokens before a copied stretch, 0 to this many"""


class RepeatedTokens:
    """Uniformly random ("fresh") tokens, parts of which occur again. With z_i the tokens and P = block_len:

    - "equal": z_i = z_(i-P) for i >= P. The answer is always P - 1 positions back.
    - "jittered": the same with a period drawn for each sequence, uniform over ceil(P/2) .. P.
    - "non-periodic": a block of P fresh tokens is cut into stretches of uniformly drawn length; they follow in random
      order, each after 0 to 2 fresh tokens. Then the next block, until the sequence is full.

    `answered[t]`: z_t and z_(t+1) are copies of two neighbouring earlier tokens, so that a head which looks for z_t
    and reads off what followed it is right. The annotation "source" is there the position of the latest occurrence
    of which z_(t+1) is the copy, and -1 elsewhere; t - source is the distance such a head attends over.
    `unanswerable[t]`: z_(t+1) is fresh. The first token of a copied stretch is neither: nothing announces it.

    A token may by chance occur twice in a block with different successors, which makes a lookup ambiguous.
    `distinct` excludes that: the tokens of a block all differ, and in "non-periodic" fresh tokens outside the block
    differ from all of it. Then z_t has occurred before an answered position only where it is followed by z_(t+1)
    (with "non-periodic": within its own block and the stretches copied from it).
    """

    def __init__(self, config: RepeatedTokensConfig) -> None:
        """Raises ConfigError for a control whose block is too short for distances to vary, or a vocabulary
        without a token outside a distinct block."""
        if config.placement != "equal" and config.period < SHORTEST_CONTROL_BLOCK:
            raise ConfigError(f"task: {config.placement} needs a block_len of at least {SHORTEST_CONTROL_BLOCK}, got {config.period}")
        if config.placement == "non-periodic" and config.distinct and config.d_vocab <= config.period:
            raise ConfigError(f"task: distinct non-periodic blocks of {config.period} need d_vocab above that, got {config.d_vocab}")
        self.config = config

    def sample(self, batch_size: int, rng: np.random.Generator, split: Split = "train") -> Batch:
        """Draw sequences of seq_len tokens (and one more, as the last target). Raises UsageError for the split "ood"."""
        if split != "train":
            raise unknown_name("split", str(split), ("train",))
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        length = self.config.seq_len + 1
        copied, block = self._placement(batch_size, length, rng)
        tokens = self._fresh(block, rng)
        for position in range(length):
            # Copies point backwards, so what they point at is final by the time they are filled in.
            source = copied[:, position]
            earlier = np.take_along_axis(tokens, np.maximum(source, 0)[:, None], 1)[:, 0]
            tokens[:, position] = np.where(source >= 0, earlier, tokens[:, position])
        answered = (copied[:, :-1] >= 0) & (copied[:, 1:] == copied[:, :-1] + 1)
        return Batch(
            tokens=torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])),
            targets=torch.from_numpy(np.ascontiguousarray(tokens[:, 1:])),
            answered=torch.from_numpy(answered),
            unanswerable=torch.from_numpy(copied[:, 1:] < 0),
            annotations={"source": torch.from_numpy(np.where(answered, copied[:, 1:], -1))},
        )

    def describe(self) -> str:
        """One paragraph: what the sequences are."""
        config, period = self.config, self.config.period
        low, high = _stretch_range(period)
        how = {
            "equal": f"a block of {period} that repeats until the end",
            "jittered": f"a block, {_shortest(period)} to {period} long, drawn for each sequence, that repeats until the end",
            "non-periodic": f"blocks of {period}, each followed by its stretches of {low} to {high}, in random order among fresh tokens",
        }
        return (
            f"Sequences of {config.seq_len} uniformly random tokens out of {config.d_vocab}: {how[config.placement]}. "
            + ("The tokens of a block all differ. " if config.distinct else "")
            + "Inside a copy, the context answers."
        )

    def to_strings(self, tokens: Iterable[int]) -> list[str]:
        """Each token as a visible character, or t0, t1, ... in a vocabulary above 94."""
        names = token_names(self.config.d_vocab)
        return [names[token] for token in tokens]

    def fingerprint(self) -> str:
        """sha256 of the configuration, which decides everything."""
        return hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode()).hexdigest()

    def references(self) -> dict[str, float]:
        """bigram_loss, in nats: the loss at unanswerable positions of the best predictor that is told where they are.
        It is ln d_vocab, exactly. With `distinct`, the i-th token of a block is one of d_vocab - i, and the mean of
        ln(d_vocab - i) over the unanswerable positions is exact too; it is left out for "non-periodic"."""
        config = self.config
        if not config.distinct:
            return {"bigram_loss": math.log(config.d_vocab)}
        if config.placement == "non-periodic":
            return {}
        periods = [config.period] if config.placement == "equal" else range(_shortest(config.period), config.period + 1)
        losses = [math.log(config.d_vocab - i) for period in periods for i in range(1, period)]
        return {"bigram_loss": math.fsum(losses) / len(losses)}

    def _placement(
        self, batch_size: int, length: int, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "batch length"], Int[np.ndarray, "batch length"]]:
        """Which position each position copies (-1: none, the token is fresh), and where its block starts."""
        config = self.config
        if config.placement == "non-periodic":
            return _scattered(config.period, batch_size, length, rng)
        shortest = config.period if config.placement == "equal" else _shortest(config.period)
        copied = np.arange(length) - rng.integers(shortest, config.period + 1, (batch_size, 1))
        return np.maximum(copied, -1), np.zeros((batch_size, length), dtype=np.int64)

    def _fresh(self, block: Int[np.ndarray, "batch length"], rng: np.random.Generator) -> Int[np.ndarray, "batch length"]:
        """A token for every position, as though all were fresh. `distinct`: the first P of each block differ, and the
        others, of which "non-periodic" uses some, are uniform over the tokens that are not among these P."""
        config, shape = self.config, block.shape
        tokens = rng.integers(0, config.d_vocab, shape)
        if not config.distinct:
            return tokens
        index = np.arange(shape[1]) - block
        spare = rng.integers(min(config.period, config.d_vocab - 1), config.d_vocab, shape)
        column = np.where(index < config.period, index, spare)
        # A new order of the vocabulary wherever a block starts; blocks start at different places in the sequences.
        round_of = (np.diff(block, prepend=block[:, :1], axis=1) != 0).cumsum(1)
        for number in range(int(round_of.max()) + 1):
            order = rng.permuted(np.tile(np.arange(config.d_vocab), (shape[0], 1)), axis=1)
            tokens = np.where(round_of == number, np.take_along_axis(order, column, 1), tokens)
        return tokens


def _shortest(period: int) -> int:
    """The shortest period of "jittered"."""
    return (period + 1) // 2


def _stretch_range(period: int) -> tuple[int, int]:
    """Shortest and longest stretch of "non-periodic" (the last one of a block may be cut shorter). Long enough that
    most steps inside a copy are answered, short enough that every block has several."""
    longest = max(4, period // 3)
    return longest // 2 + 1, longest


def _scattered(
    period: int, batch_size: int, length: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "batch length"], Int[np.ndarray, "batch length"]]:
    """The "non-periodic" placement: for each position the one it copies (or -1), and where its block starts."""
    shortest, longest = _stretch_range(period)
    n_stretches = -(-period // shortest)
    copied = np.full((batch_size, length), -1, dtype=np.int64)
    block = np.zeros((batch_size, length), dtype=np.int64)
    start = np.zeros((batch_size, 1), dtype=np.int64)
    sequence = np.arange(batch_size)[:, None]
    while start.min() < length:
        block = np.where(np.arange(length) >= start, start, block)
        ends = rng.integers(shortest, longest + 1, (batch_size, n_stretches)).cumsum(1)
        stretch = (np.arange(period) >= ends[:, :, None]).sum(1)
        rank = rng.permuted(np.tile(np.arange(n_stretches), (batch_size, 1)), axis=1)
        # Offsets inside the block in the order in which they are copied: stretches shuffled, each kept in one piece.
        order = np.argsort(np.take_along_axis(rank, stretch, 1), axis=1, kind="stable")
        stretch = np.take_along_axis(stretch, order, 1)
        first = np.diff(stretch, prepend=-1, axis=1) != 0
        gaps = (rng.integers(0, LONGEST_GAP + 1, (batch_size, period)) * first).cumsum(1)
        place = start + period + np.arange(period) + gaps
        inside = place < length
        copied[np.broadcast_to(sequence, place.shape)[inside], place[inside]] = (start + order)[inside]
        start = start + 2 * period + gaps[:, -1:]
    return copied, block
