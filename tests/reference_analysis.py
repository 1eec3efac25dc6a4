"""Every metric of the analysis again: one sequence, one head, one position at a time.

Each function gives (total, how many positions count); a metric's value is the ratio of the sums of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def places(metric: str, tokens: Sequence[int], t: int) -> list[int]:
    """The positions that a head of this kind attends to from position t."""
    if metric.startswith("previous_token"):
        return [t - 1] if t > 0 else []
    earlier = [s for s in range(t) if tokens[s] == tokens[t]]
    return [s + 1 for s in earlier] if metric == "prefix_matching_score" else earlier


def holds_an_answer(tokens: Sequence[int], asked: Sequence[bool], t: int) -> bool:
    """Whether position t comes right after an earlier occurrence of a token at whose position an answer is asked."""
    return any(asked[r] and t - 1 in [s for s in range(r) if tokens[s] == tokens[r]] for r in range(len(tokens)))


def head_score(metric: str, pattern: Sequence[Row], tokens: Sequence[int], asked: Sequence[bool]) -> tuple[float, int]:
    """One head on one sequence. `pattern[t][s]` is the attention from t to s; `asked` says which positions count."""
    total, count = 0.0, 0
    for t in range(len(tokens)):
        counts = holds_an_answer(tokens, asked, t) if metric == "previous_token_at_answers" else asked[t]
        goals = places(metric, tokens, t)
        if counts and goals:
            total += sum(pattern[t][s] for s in goals)
            count += 1
    return total, count


def model_score(
    metric: str, losses: Row, correct: Sequence[bool], answered: Sequence[bool], unanswerable: Sequence[bool]
) -> tuple[float, int]:
    """One metric of the whole model on one sequence."""
    n_pos = len(losses)
    if metric == "in_context_score":
        tenth = max(1, n_pos // 10)
        late = [losses[t] for t in range(n_pos) if t >= n_pos - tenth]
        early = [losses[t] for t in range(n_pos) if tenth <= t < 2 * tenth]
        return sum(late) / len(late) - sum(early) / len(early), 1
    where = {"loss": [True] * n_pos, "bigram_loss": unanswerable}.get(metric, answered)
    values = correct if metric == "in_context_accuracy" else losses
    return float(sum(values[t] for t in range(n_pos) if where[t])), sum(where)


def mean_and_error(sums: Row, counts: Sequence[int]) -> tuple[float, float]:
    """The ratio of the totals, and its linearised standard error with the sequences as units."""
    used = [(total, count) for total, count in zip(sums, counts, strict=True) if count > 0]
    n, everything = len(used), sum(count for _, count in used)
    if n == 0:
        return math.nan, math.nan
    value = sum(total for total, _ in used) / everything
    if n == 1:
        return value, math.nan
    spread = sum((total - value * count) ** 2 for total, count in used) / (n - 1)
    return value, math.sqrt(n * spread) / everything
