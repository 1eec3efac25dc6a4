"""The section `length`: the circuit by position, inside the training length and beyond it.

A model that copies by content should do so at every position; one that learnt positions should fail where training ended.
Positions are averaged in bins of equal width (`bins`). Positions inside the training length are measured on sequences of that
length (part "inside"), later ones on longer sequences of the same process (part "beyond"), for models that can run them: those
without learned positions, and those whose table of learned positions is longer than the training sequences (its last rows are
then untrained).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.analysis import heads
from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import PerSequence
from workbench.analysis.heads import Places
from workbench.analysis.icl import over
from workbench.analysis.interventions import CHUNK
from workbench.analysis.metrics import metric
from workbench.analysis.roles import Roles
from workbench.analysis.rows import Row, numbers
from workbench.axes import Mask, Pattern, Tokens
from workbench.evaluation import Evaluation
from workbench.model import HookedTransformer
from workbench.tasks.base import Batch

BINS = 8
"""Bins of the training length, at most."""


def bin_width(n_pos: int) -> int:
    """The width of the bins of `n_pos` positions: the least of which `BINS` are enough."""
    return -(-n_pos // BINS)


def bins(n_pos: int) -> list[slice]:
    """The positions 0 .. n_pos - 1 in at most `BINS` bins of equal width (the last may be shorter).

    >>> bins(5)
    [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    >>> bins(64)[1], bins(13)[-1]
    (slice(8, 16, None), slice(12, 13, None))
    """
    return _cut(0, n_pos, bin_width(n_pos))


def bins_beyond(n_pos: int, n_longer: int) -> list[slice]:
    """The positions n_pos .. n_longer - 1, in bins as wide as those of the first `n_pos`.

    >>> bins_beyond(16, 19)
    [slice(16, 18, None), slice(18, 19, None)]
    """
    return _cut(n_pos, n_longer, bin_width(n_pos))


def _cut(start: int, stop: int, width: int) -> list[slice]:
    return [slice(first, min(first + width, stop)) for first in range(start, stop, width)]


@metric(
    "length",
    "position",
    formula="mean over answered t of the bin of [argmax p = z[t + 1]]",
    range="0 to 1",
    source="Bietti et al. 2023 (2306.00802), section 3, by position",
)
def accuracy_by_position(evaluation: Evaluation, batch: Batch, where: Sequence[slice]) -> list[PerSequence]:
    """In-context accuracy over the positions of a bin; `position` is the bin's first. An induction circuit is right wherever
    the answer has been shown, also beyond the training length.

    Gives one PerSequence for each bin of `where`.

    >>> answered = torch.tensor([[False, True, True, True]])
    >>> batch = Batch(torch.tensor([[5, 5, 5, 5]]), torch.tensor([[5, 5, 5, 7]]), answered, ~answered)
    >>> evaluation = Evaluation(torch.zeros(1, 4), torch.tensor([[True, True, True, False]]))
    >>> [part.estimate().value.item() for part in accuracy_by_position(evaluation, batch, [slice(0, 2), slice(2, 4)])]
    [1.0, 0.5]
    """
    return [over(evaluation.correct[:, positions], batch.answered[:, positions]) for positions in where]


@metric(
    "length",
    "position",
    formula="mean of A[s, s - 1] over the s of the bin with z[s - 1] = z[t] for a later t whose answer is asked for",
    range="0 to 1",
    source="Bietti et al. 2023 (2306.00802), section 4, by position",
)
def previous_token_by_position(pattern: Pattern, tokens: Tokens, asked: Mask, where: Sequence[slice]) -> list[PerSequence]:
    """The score previous_token_at_answers over the positions of a bin that an induction head has to read; `position` is the
    bin's first.

    Gives one PerSequence [batch, head] for each bin of `where`.

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]])
    >>> asked = torch.tensor([[False, False, True, False]])
    >>> bins = [slice(0, 2), slice(2, 4)]
    >>> parts = previous_token_by_position(pattern, torch.tensor([[5, 7, 5, 7]]), asked, bins)
    >>> parts[0].estimate().value, parts[1].counts
    (tensor([0.9000]), tensor([0.]))
    """
    return _by_bin(pattern, heads.previous_at_answers(tokens, asked), where)


@metric(
    "length",
    "position",
    formula="mean over answered t of the bin of the sum of A[t, s] over the s <= t with z[s - 1] = z[t]",
    range="0 to 1",
    source="Olsson et al. 2022 (2209.11895), by position",
)
def prefix_matching_by_position(pattern: Pattern, tokens: Tokens, asked: Mask, where: Sequence[slice]) -> list[PerSequence]:
    """The prefix-matching score over the answered positions of a bin; `position` is the bin's first.

    Gives one PerSequence [batch, head] for each bin of `where`.

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]]])
    >>> asked = torch.tensor([[False, False, True]])
    >>> parts = prefix_matching_by_position(pattern, torch.tensor([[5, 7, 5]]), asked, [slice(0, 2), slice(2, 3)])
    >>> parts[0].counts, parts[1].estimate().value
    (tensor([0.]), tensor([0.9000]))
    """
    return _by_bin(pattern, heads.counted(heads.induction_places(tokens), asked), where)


def measure(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> Iterator[Row]:
    """Rows of every metric of the section, on the own task. A bin without a position that counts has no row."""
    inside = data.scoring
    n_pos = inside.tokens.shape[1]
    yield from _rows(model, data.own, "inside", inside, bins(n_pos))
    if data.beyond is not None:
        yield from _rows(model, data.own, "beyond", data.beyond, bins_beyond(n_pos, data.beyond.tokens.shape[1]))


def _rows(model: HookedTransformer, task: str, part: str, batch: Batch, where: list[slice]) -> Iterator[Row]:
    for (name, layer), samples in _scores(model, batch, where).items():
        for positions, sample in zip(where, samples, strict=True):
            if not sample.counts.any():
                continue
            row = {"task": task, "metric": name, "position": positions.start, "part": part}
            estimate = sample.estimate()
            if layer is None:
                yield row | numbers(estimate)
                continue
            for head in range(model.config.n_heads):
                yield row | {"layer": layer, "head": head} | numbers(estimate, head)


@torch.inference_mode()
def _scores(model: HookedTransformer, batch: Batch, where: list[slice]) -> dict[tuple[str, int | None], list[PerSequence]]:
    """(metric, layer) -> one PerSequence for each bin, from one pass over the batch. Patterns are held for one layer at a time."""
    found: dict[tuple[str, int | None], list[list[PerSequence]]] = {}
    for start in range(0, len(batch), CHUNK):
        rows = batch[start : start + CHUNK].to(model.W_E.device)

        def score(pattern: Tensor, hook: Any, rows: Batch = rows) -> None:
            for function in (previous_token_by_position, prefix_matching_by_position):
                samples = function(pattern, rows.tokens, rows.answered, where)
                found.setdefault((function.__name__, hook.layer()), []).append(samples)

        logits = model.run_with_hooks(rows.tokens, fwd_hooks=[(lambda name: name.endswith("hook_pattern"), score)])
        accuracy = accuracy_by_position(Evaluation.of_logits(logits, rows.targets), rows, where)
        found.setdefault((accuracy_by_position.__name__, None), []).append(accuracy)
    return {key: [_cat(list(parts)) for parts in zip(*chunks, strict=True)] for key, chunks in found.items()}


def _by_bin(pattern: Pattern, places: Places, where: Sequence[slice]) -> list[PerSequence]:
    """Attention onto the named places, for each sequence and head [batch, head], over the rows of each bin."""
    onto = (pattern * places[:, None]).sum(dim=-1)
    counts = places.any(dim=-1).to(pattern.dtype)
    return [PerSequence(onto[:, :, positions].sum(dim=-1), counts[:, positions].sum(dim=-1)) for positions in where]


def _cat(parts: list[PerSequence]) -> PerSequence:
    whole = PerSequence.cat(parts)
    return PerSequence(whole.sums.cpu(), whole.counts.cpu())
