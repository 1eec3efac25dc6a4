"""The tasks again, in plain loops over sequences and positions, written from the papers and not from the package;
and the statistics by which the tests compare the two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

CHANCE = 1e-3
"""below this p-value a right sampler is called wrong: with about fifty comparisons in the suite, once in twenty seeds"""
ABSURD = 1e-6
"""below this p-value a deliberately wrong sampler must come out: each comparison has such a control"""


def naive_trigger_bigram(
    unigram: np.ndarray,
    bigram: np.ndarray,
    seq_len: int,
    triggers: Sequence[int] | int,
    allowed: Sequence[int],
    rng: np.random.Generator,
    bigram_outputs: bool = False,
    no_repeat: bool = False,
) -> tuple[list[int], dict[int, int]]:
    """One sequence of seq_len + 1 tokens, and the output of each of its triggers (Bietti et al., section 3).
    `triggers`: the tokens, or how many to draw from the unigram without replacement."""
    vocabulary = np.arange(len(unigram))
    if isinstance(triggers, int):
        triggers = [int(q) for q in rng.choice(vocabulary, size=triggers, replace=False, p=unigram)]
    output = {}
    for q in triggers:
        candidates = [v for v in allowed if not (no_repeat and v == q)]
        weights = np.array([bigram[q, v] if bigram_outputs else 1.0 for v in candidates])
        output[q] = int(rng.choice(candidates, p=weights / weights.sum()))
    tokens = [int(rng.choice(vocabulary, p=unigram))]
    while len(tokens) < seq_len + 1:
        last = tokens[-1]
        tokens.append(output[last] if last in output else int(rng.choice(vocabulary, p=bigram[last])))
    return tokens, output


def naive_count(tokens: Sequence[int], triggers: Sequence[int]) -> list[int]:
    """For every token: how often it has occurred so far where it is a trigger, else 0."""
    return [list(tokens[: t + 1]).count(token) if token in triggers else 0 for t, token in enumerate(tokens)]


def latest_before(tokens: Sequence[int], t: int) -> int:
    """The latest position before t that holds the same token, -1 where there is none."""
    return max((s for s in range(t) if tokens[s] == tokens[t]), default=-1)


def p_value(observed: np.ndarray, probabilities: np.ndarray) -> float:
    """Chi-square test of counts [rows, cells] against the probabilities of each row. Cells that expect fewer than
    five are pooled; a count where the probability is zero gives 0."""
    observed, probabilities = np.atleast_2d(observed), np.atleast_2d(probabilities)
    if observed[probabilities == 0].any():
        return 0.0
    statistic, freedom = 0.0, 0
    for counts, row in zip(observed, probabilities, strict=True):
        expected = row * counts.sum()
        large = expected >= 5
        counts, expected = np.append(counts[large], counts[~large].sum()), np.append(expected[large], expected[~large].sum())
        if expected[-1] < 5:
            counts, expected = counts[:-1], expected[:-1]
        statistic += float(((counts - expected) ** 2 / expected).sum())
        freedom += max(len(counts) - 1, 0)
    if freedom == 0:
        raise ValueError("too few counts to test anything")
    return float(stats.chi2.sf(statistic, freedom))


def same_distribution(first: np.ndarray, second: np.ndarray) -> float:
    """p-value of the chi-square test that two samples of small integers have one distribution."""
    cells = int(max(first.max(), second.max())) + 1
    table = np.stack([np.bincount(first, minlength=cells), np.bincount(second, minlength=cells)])
    rare = table.sum(0) < 20
    table = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], axis=1)
    return float(stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue)
