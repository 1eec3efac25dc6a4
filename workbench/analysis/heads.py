"""What a head attends to: previous-token, prefix-matching and duplicate-token scores, from attention patterns.

Each score is the attention that lands on the places that a definition names, averaged over the positions (rows) for
which it names any. Unlike TransformerLens's detect_head, rows without such a place do not count: a perfect induction
head scores 1 here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.analysis.estimates import PerSequence
from workbench.analysis.metrics import metric
from workbench.axes import Mask, Pattern, Tokens

Places = Bool[Tensor, "batch dst src"]


def counted(places: Places, rows: Mask) -> Places:
    """The places of the rows that count: those where `rows` holds and at least one place is named."""
    return places & rows[..., None]


def attention_onto(pattern: Pattern, places: Places) -> PerSequence:
    """Attention onto the named places, for each sequence and head [batch, head]; rows without a place do not count."""
    sums: Float[Tensor, "batch head"] = torch.einsum("bhts,bts->bh", pattern, places.to(pattern.dtype))
    return PerSequence(sums, places.any(dim=-1).sum(dim=-1).to(pattern.dtype))


def previous_places(tokens: Tokens) -> Places:
    """From position t: position t - 1."""
    n_pos = tokens.shape[1]
    return torch.eye(n_pos, dtype=torch.bool, device=tokens.device).roll(1, dims=0).tril(-1).expand(len(tokens), -1, -1)


def duplicate_places(tokens: Tokens) -> Places:
    """From position t: every earlier position that holds the same token."""
    return (tokens[:, :, None] == tokens[:, None, :]).tril(-1)


def induction_places(tokens: Tokens) -> Places:
    """From position t: every position up to t that comes right after an earlier occurrence of t's token."""
    places = duplicate_places(tokens).roll(1, dims=2)
    places[:, :, 0] = False
    return places


@metric("formation", "head", formula="mean over t of A[t, t - 1]", range="0 to 1", source="Olsson et al. 2022 (2209.11895)")
def previous_token_score(pattern: Pattern, tokens: Tokens, rows: Mask | None = None) -> PerSequence:
    """Mean attention from a position to the one before it.

    >>> pattern = torch.tensor([[[[1.0, 0.0], [0.75, 0.25]]]])
    >>> previous_token_score(pattern, torch.tensor([[5, 7]])).estimate().value
    tensor([0.7500])
    """
    return attention_onto(pattern, counted(previous_places(tokens), _all(tokens) if rows is None else rows))


def previous_at_answers(tokens: Tokens, asked: Mask) -> Places:
    """From a position that an induction head has to read (right after an earlier occurrence of a token whose answer is
    asked for later): the position before it."""
    read = counted(induction_places(tokens), asked).any(dim=1)
    return counted(previous_places(tokens), read)


@metric(
    "formation",
    "head",
    formula="mean of A[s, s - 1] over the s with z[s - 1] = z[t] for a later t whose answer is asked for",
    range="0 to 1",
    source="Bietti et al. 2023 (2306.00802), section 4",
)
def previous_token_at_answers(pattern: Pattern, tokens: Tokens, rows: Mask | None = None) -> PerSequence:
    """Mean attention to the position before, from the positions that an induction head has to read: those right after
    earlier occurrences of a token whose answer is asked for later (`rows` [batch, pos] says where it is asked).

    A head may serve the circuit at these positions alone, and score low everywhere else.

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]])
    >>> asked = torch.tensor([[False, False, True, False]])
    >>> previous_token_at_answers(pattern, torch.tensor([[5, 7, 5, 7]]), asked).estimate().value
    tensor([0.9000])
    """
    return attention_onto(pattern, previous_at_answers(tokens, _all(tokens) if rows is None else rows))


@metric(
    "formation",
    "head",
    formula="mean over answered t of the sum of A[t, s] over the s <= t with z[s - 1] = z[t]",
    range="0 to 1",
    source="Olsson et al. 2022 (2209.11895)",
)
def prefix_matching_score(pattern: Pattern, tokens: Tokens, rows: Mask | None = None) -> PerSequence:
    """Mean attention from a token that occurred before to the positions right after its earlier occurrences (the
    induction score), over the positions whose answer the context has shown.

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]]])
    >>> prefix_matching_score(pattern, torch.tensor([[5, 7, 5]])).estimate().value
    tensor([0.9000])
    """
    return attention_onto(pattern, counted(induction_places(tokens), _all(tokens) if rows is None else rows))


@metric(
    "formation",
    "head",
    formula="mean over t that repeats a token of the sum of A[t, s] over the s < t with z[s] = z[t]",
    range="0 to 1",
    source="Wang et al. 2022, IOI (2211.00593)",
)
def duplicate_token_score(pattern: Pattern, tokens: Tokens, rows: Mask | None = None) -> PerSequence:
    """Mean attention from a token that occurred before to its earlier occurrences.

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.6, 0.3, 0.1]]]])
    >>> duplicate_token_score(pattern, torch.tensor([[5, 7, 5]])).estimate().value
    tensor([0.6000])
    """
    return attention_onto(pattern, counted(duplicate_places(tokens), _all(tokens) if rows is None else rows))


@dataclass(frozen=True)
class Score:
    """How a head score is found: the metric, the places it names, given which answers are asked for, and whether it looks
    for a distance, whatever the tokens are."""

    metric: Callable[..., PerSequence]
    places: Callable[[Tokens, Mask], Places]
    by_distance: bool = False


SCORES = (
    Score(previous_token_score, lambda tokens, asked: previous_places(tokens), by_distance=True),
    Score(previous_token_at_answers, previous_at_answers, by_distance=True),
    Score(prefix_matching_score, lambda tokens, asked: counted(induction_places(tokens), asked)),
    Score(duplicate_token_score, lambda tokens, asked: duplicate_places(tokens)),
)
"""the head scores of the section formation"""


def _all(tokens: Tokens) -> Mask:
    return torch.ones_like(tokens, dtype=torch.bool)
