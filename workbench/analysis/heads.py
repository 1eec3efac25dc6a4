"""What a head attends to: previous-token, prefix-matching and duplicate-token scores, from attention patterns.

Each score is the attention that lands on the places that a definition names, averaged over the positions (rows) for
which it names any. Unlike TransformerLens's detect_head, rows without such a place do not count: a perfect induction
head scores 1 here.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.analysis.estimates import PerSequence
from workbench.analysis.metrics import metric
from workbench.axes import Mask, Pattern, Tokens

Places = Bool[Tensor, "batch dst src"]


def attention_onto(pattern: Pattern, places: Places, rows: Mask) -> PerSequence:
    """Attention from the rows that count onto the named places, for each sequence and head [batch, head].

    A row counts where `rows` holds and at least one place is named.
    """
    rows = rows & places.any(dim=-1)
    weights = (places & rows[..., None]).to(pattern.dtype)
    sums: Float[Tensor, "batch head"] = torch.einsum("bhts,bts->bh", pattern, weights)
    return PerSequence(sums, rows.sum(dim=-1).to(pattern.dtype))


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


@metric("formation", "head", "0 to 1", "Olsson et al. 2022 (2209.11895)")
def previous_token_score(pattern: Pattern, tokens: Tokens, rows: Mask | None = None) -> PerSequence:
    """Mean attention from a position to the one before it.

    >>> pattern = torch.tensor([[[[1.0, 0.0], [0.75, 0.25]]]])
    >>> previous_token_score(pattern, torch.tensor([[5, 7]])).estimate().value
    tensor([0.7500])
    """
    return attention_onto(pattern, previous_places(tokens), _all(tokens) if rows is None else rows)


@metric("formation", "head", "0 to 1", "Bietti et al. 2023 (2306.00802), section 4")
def previous_token_at_answers(pattern: Pattern, tokens: Tokens, rows: Mask | None = None) -> PerSequence:
    """Mean attention to the position before, from the positions that an induction head has to read: those right after
    earlier occurrences of a token whose answer is asked for later (`rows` [batch, pos] says where it is asked).

    A head may serve the circuit at these positions alone, and score low everywhere else.

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]])
    >>> asked = torch.tensor([[False, False, True, False]])
    >>> previous_token_at_answers(pattern, torch.tensor([[5, 7, 5, 7]]), asked).estimate().value
    tensor([0.9000])
    """
    asked = _all(tokens) if rows is None else rows
    read = (induction_places(tokens) & asked[..., None]).any(dim=1)
    return attention_onto(pattern, previous_places(tokens), read)


@metric("formation", "head", "0 to 1", "Olsson et al. 2022 (2209.11895)")
def prefix_matching_score(pattern: Pattern, tokens: Tokens, rows: Mask | None = None) -> PerSequence:
    """Mean attention from a token that occurred before to the positions right after its earlier occurrences (the
    induction score), over the positions whose answer the context has shown.

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]]])
    >>> prefix_matching_score(pattern, torch.tensor([[5, 7, 5]])).estimate().value
    tensor([0.9000])
    """
    return attention_onto(pattern, induction_places(tokens), _all(tokens) if rows is None else rows)


@metric("formation", "head", "0 to 1", "Wang et al. 2022, IOI (2211.00593)")
def duplicate_token_score(pattern: Pattern, tokens: Tokens, rows: Mask | None = None) -> PerSequence:
    """Mean attention from a token that occurred before to its earlier occurrences.

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.6, 0.3, 0.1]]]])
    >>> duplicate_token_score(pattern, torch.tensor([[5, 7, 5]])).estimate().value
    tensor([0.6000])
    """
    return attention_onto(pattern, duplicate_places(tokens), _all(tokens) if rows is None else rows)


def _all(tokens: Tokens) -> Mask:
    return torch.ones_like(tokens, dtype=torch.bool)
