"""How often AMICL is right, over strengths of memory, lengths and dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from workbench.amicl import model
from workbench.amicl.config import PAPER, AmiclConfig
from workbench.amicl.data import Draw, Sequences, draw
from workbench.analysis.metrics import metric
from workbench.errors import UsageError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

SECTION, SOURCE = "amicl", "Burns, arXiv 2412.15113"
OVER = {"a": "a", "n": "n_tokens", "d": "d"}
"""what a sweep goes over -> the field of the configuration"""
CHUNK = 2_000_000
"""numbers of the tokens that are in memory at once; the model makes a few copies of them"""


@metric(SECTION, "model", formula="mean of 1[answer = label of the query's class]", range="[0, 1]", source=SOURCE)
def amicl_accuracy(right: Bool[np.ndarray, " batch"]) -> float:
    """Proportion of sequences that the associative memory answers with exactly the label of the query's class.

    >>> amicl_accuracy(np.array([True, True, False, True]))
    0.75
    """
    return float(right.mean())


@metric(SECTION, "model", formula="1 - 1/m - (1 - 1/m) / K, m = n/2 - 1", range="[0, 1]", source=SOURCE)
def pearson_ceiling(n_tokens: int, n_classes: int) -> float:
    """Probability that the query's class does not stand at position 0, which bounds the accuracy of Pearson's correlation for every a.

    Nothing stands before the first object, so its key is the bare object. Where it is of the query's class the correlation is nearly 1,
    while that of a label's key is a / sqrt(a^2 + 1) at best, whether or not the class occurs again. With m pairs the query is the first
    one with probability 1/m, and another of the first one's class with probability (1 - 1/m) / K.

    >>> round(pearson_ceiling(20, 512), 4)
    0.8872
    """
    pairs = n_tokens // 2 - 1
    return (1 - 1 / pairs) * (1 - 1 / n_classes)


def wilson(right: Bool[np.ndarray, " batch"]) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion.

    >>> [round(end, 3) for end in wilson(np.ones(10, dtype=bool))]
    [0.722, 1.0]
    """
    from scipy import stats

    interval = stats.binomtest(int(right.sum()), len(right)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def outcomes(configs: Sequence[AmiclConfig], trials: int, seed: int, draw: Draw = draw) -> list[Bool[np.ndarray, " batch"]]:
    """Which of `trials` sequences each configuration gets right. All see the same sequences, so they may differ in the model alone."""
    found: list[list[np.ndarray]] = [[] for _ in configs]
    for sequences, empty in chunks(configs[0], trials, seed, draw):
        for config, parts in zip(configs, found, strict=True):
            parts.append(model.right(config, sequences, empty))
    return [np.concatenate(parts) for parts in found]


def sweep(
    over: str,
    values: Iterable[int | float],
    config: AmiclConfig = PAPER,
    trials: int = 1000,
    seed: int = 0,
    *,
    draw: Draw = draw,
    most: int | None = None,
) -> pd.DataFrame:
    """The proportion right over values of one thing, all else as in `config`: a tidy table, one row for each value.

    Args:
        over: "a" (strength of memory), "n" (tokens of a sequence) or "d" (dimension).
        trials: sequences for each value. The same seed gives the same sequences, and so the same row, whatever the other values are: the
            points of a sweep over a share their sequences.
        draw: draws the sequences; see `workbench.amicl.data` for one's own.
        most: numbers (trials x n x d) that a value may take; where it would take more, it has fewer trials, 50 at least. None: any.

    The columns are those of the configuration, seed, metric (amicl_accuracy), value, ci_low, ci_high (Wilson's 95 % interval) and n, the
    number of trials.

    Raises UsageError for an unknown `over`, no value, fewer than one trial or a negative seed; ConfigError for a value that cannot be.
    """
    import pandas as pd

    if over not in OVER:
        raise unknown_name("sweep over", over, OVER)
    configs = [config.replace(**{OVER[over]: value}) for value in values]
    if not configs:
        raise UsageError(f"the sweep over {over} has no values")
    if trials < 1 or seed < 0:
        raise UsageError(f"a sweep needs at least 1 trial and a seed of at least 0, got trials={trials}, seed={seed}")
    # Only a changes the model alone.
    together = [configs] if over == "a" else [[one] for one in configs]
    rows = []
    for group in together:
        afforded = trials if most is None else min(trials, max(50, most // (group[0].n_tokens * group[0].d)))
        for one, right in zip(group, outcomes(group, afforded, seed, draw), strict=True):
            low, high = wilson(right)
            found = {"metric": "amicl_accuracy", "value": amicl_accuracy(right), "ci_low": low, "ci_high": high, "n": afforded}
            rows.append({**one.to_dict(), "seed": seed, **found})
    return pd.DataFrame(rows)


def chunks(config: AmiclConfig, trials: int, seed: int, draw: Draw) -> Iterator[tuple[Sequences, np.ndarray]]:
    """The sequences in pieces that fit in memory, each with the keys of its empty slots.

    Raises UsageError where the function that draws gives sequences of another shape.
    """
    generator = np.random.default_rng(seed)
    size = max(1, CHUNK // (config.n_tokens * config.d))
    for start in range(0, trials, size):
        wanted = min(size, trials - start)
        sequences = draw(config, wanted, generator)
        if sequences.tokens.shape != (expected := (wanted, config.n_tokens, config.d)):
            raise UsageError(f"the function that draws gave tokens {list(sequences.tokens.shape)}, expected {list(expected)}")
        yield sequences, model.empty_keys(config, wanted, generator)
