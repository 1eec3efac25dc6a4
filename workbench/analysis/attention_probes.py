"""Activation probes of an induction circuit (rows of the section `probes`): where the largest attention falls on sequences
(Bietti et al. 2023, 2306.00802, section 4).

A largest attention that is not the only one is right only where all that share it are: a perfect induction head that splits its
attention over two occurrences counts, a head that attends evenly does not.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.analysis.estimates import PerSequence
from workbench.analysis.heads import Places, counted, induction_places, previous_at_answers
from workbench.analysis.interventions import CHUNK
from workbench.analysis.metrics import metric
from workbench.analysis.rows import Row, each_row
from workbench.axes import Mask, Pattern, Tokens
from workbench.model import HookedTransformer
from workbench.tasks.base import Batch

BIETTI = "Bietti et al. 2023 (2306.00802), section 4"


@metric(
    "probes",
    "head",
    formula="mean of [argmax over r <= s of A[s, r] = s - 1] over the s with z[s - 1] = z[t] for a later t whose answer is asked for",
    range="0 to 1",
    source=BIETTI,
)
def argmax_previous_token(pattern: Pattern, tokens: Tokens, rows: Mask) -> PerSequence:
    """How often the largest attention is on the position before, from the positions that an induction head has to read: those
    right after earlier occurrences of a token whose answer is asked for later (`rows` [batch, pos] says where).

    `baseline` is what a position drawn evenly from 0 .. s gives. One value for each [batch, head].

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]]]])
    >>> asked = torch.tensor([[False, False, True]])
    >>> argmax_previous_token(pattern, torch.tensor([[5, 7, 5]]), asked).estimate().value
    tensor([1.])
    """
    places = previous_at_answers(tokens, rows)
    return _largest_on(pattern, places, places.any(dim=-1))


@metric(
    "probes",
    "head",
    formula="mean over answered t of [z[s - 1] = z[t]], s = argmax over s <= t of A[t, s]",
    range="0 to 1",
    source=BIETTI,
)
def argmax_prefix_match(pattern: Pattern, tokens: Tokens, rows: Mask) -> PerSequence:
    """How often the largest attention is right after an earlier occurrence of the current token, over the positions whose
    answer the context has shown (`rows` [batch, pos]).

    `baseline` is what a position drawn evenly from 0 .. t gives. One value for each [batch, head].

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.3, 0.4, 0.3]]]])
    >>> asked = torch.tensor([[False, False, True]])
    >>> argmax_prefix_match(pattern, torch.tensor([[5, 7, 5]]), asked).estimate().value
    tensor([1.])
    """
    places = counted(induction_places(tokens), rows)
    return _largest_on(pattern, places, places.any(dim=-1))


@metric(
    "probes",
    "head",
    formula="mean over answered t of [z[s] = argmax p(. | z[0..t])], s = argmax over s <= t of A[t, s]",
    range="0 to 1",
    source=BIETTI,
)
def attended_is_predicted(pattern: Pattern, tokens: Tokens, predicted: Tokens, rows: Mask) -> PerSequence:
    """How often the token at the largest attention is the model's first choice for the next token, over the positions whose
    answer the context has shown (`rows` [batch, pos]).

    `predicted` [batch, pos] is that first choice, right or wrong. `baseline` is what a position drawn evenly from 0 .. t gives.
    One value for each [batch, head].

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.3, 0.4, 0.3]]]])
    >>> asked, predicted = torch.tensor([[False, False, True]]), torch.tensor([[7, 5, 7]])
    >>> attended_is_predicted(pattern, torch.tensor([[5, 7, 5]]), predicted, asked).estimate().value
    tensor([1.])
    """
    return _largest_on(pattern, _predicted_places(tokens, predicted, rows), rows)


@torch.inference_mode()
def attention_rows(model: HookedTransformer, batch: Batch) -> list[Row]:
    """Rows of the activation probes, of every head. Patterns are held for some sequences at a time."""
    found: dict[tuple[str, int], list[PerSequence]] = {}
    baselines: dict[str, list[PerSequence]] = {}
    for start in range(0, len(batch), CHUNK):
        rows = batch[start : start + CHUNK].to(model.W_E.device)
        patterns: dict[int, Tensor] = {}

        def keep(pattern: Tensor, hook: Any, patterns: dict[int, Tensor] = patterns) -> None:
            patterns[hook.layer()] = pattern

        logits = model.run_with_hooks(rows.tokens, fwd_hooks=[(lambda name: name.endswith("hook_pattern"), keep)])
        tokens, asked, predicted = rows.tokens, rows.answered, logits.argmax(dim=-1)
        for layer, pattern in patterns.items():
            samples = {
                "argmax_previous_token": argmax_previous_token(pattern, tokens, asked),
                "argmax_prefix_match": argmax_prefix_match(pattern, tokens, asked),
                "attended_is_predicted": attended_is_predicted(pattern, tokens, predicted, asked),
            }
            for name, sample in samples.items():
                found.setdefault((name, layer), []).append(PerSequence(sample.sums.cpu(), sample.counts.cpu()))
        before, after = previous_at_answers(tokens, asked), counted(induction_places(tokens), asked)
        chances = {
            "argmax_previous_token": _even_choice(before, before.any(dim=-1)),
            "argmax_prefix_match": _even_choice(after, after.any(dim=-1)),
            "attended_is_predicted": _even_choice(_predicted_places(tokens, predicted, asked), asked),
        }
        for name, sample in chances.items():
            baselines.setdefault(name, []).append(sample)
    chance = {name: PerSequence.cat(parts).estimate().value.item() for name, parts in baselines.items()}
    return [
        {"metric": name, "layer": layer, **row, "baseline": chance[name]}
        for (name, layer), parts in found.items()
        for row in each_row(PerSequence.cat(parts), "head")
    ]


def _even_choice(places: Places, rows: Mask) -> PerSequence:
    """How often a position drawn evenly from 0 .. t is one of the places, over the rows that count."""
    share = places.sum(dim=-1) / torch.arange(1, places.shape[-1] + 1, device=places.device)
    return PerSequence((share * rows).sum(dim=-1).cpu(), rows.sum(dim=-1).float().cpu())


def _predicted_places(tokens: Tokens, predicted: Tokens, rows: Mask) -> Places:
    """From position t: every position up to t that holds what the model predicts at t."""
    return counted((tokens[:, None, :] == predicted[:, :, None]).tril(), rows)


def _largest_on(pattern: Pattern, places: Places, rows: Mask) -> PerSequence:
    """Whether the largest attention, from the rows that count, is on the named places: [batch, head]."""
    sequence, position = rows.nonzero(as_tuple=True)
    chosen: Float[Tensor, "row head src"] = pattern[sequence, :, position]
    largest = chosen == chosen.amax(dim=-1, keepdim=True)
    right = ~(largest & ~places[sequence, position][:, None]).any(dim=-1)
    sums = pattern.new_zeros(pattern.shape[:2]).index_add_(0, sequence, right.to(pattern.dtype))
    return PerSequence(sums, rows.sum(dim=-1).to(pattern.dtype))
