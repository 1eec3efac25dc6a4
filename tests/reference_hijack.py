"""The associative-memory transformer's logits once more, position by position in plain Python (Wang & Sato 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

SHARP = 400.0


def attended(tokens: Sequence[int], t: int, b0: float, t1: float, triggers: Sequence[int] | None) -> list[float]:
    """Layer 1's attention from position t to 0 .. t."""
    q = tokens[t]
    t1 = t1 if triggers is None or q in triggers else 0.0

    def noted(s: int) -> float:
        """How much of q layer 0 notes at s."""
        if math.isinf(b0):
            return float(tokens[max(s - 1, 0)] == q)
        weights = [math.exp(b0) if r == s - 1 else 1.0 for r in range(s + 1)]
        return sum(weight for weight, token in zip(weights, tokens, strict=False) if token == q) / sum(weights)

    scores = [min(t1, SHARP) * noted(s) for s in range(t + 1)]
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


def logits(
    tokens: Sequence[int], t: int, log_bigram: Sequence[Sequence[float]], b0: float, t1: float, t2: float, t3: float,
    triggers: Sequence[int] | None = None,
) -> list[float]:  # fmt: skip
    """The logit of every token at position t."""
    a = attended(tokens, t, b0, t1, triggers)
    mass = [sum(a[s] for s in range(t + 1) if tokens[s] == v) for v in range(len(log_bigram))]
    return [t3 * log_bigram[tokens[t]][v] + t2 * mass[v] for v in range(len(log_bigram))]
