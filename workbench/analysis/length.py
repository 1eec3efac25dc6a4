"""The section `length`: the circuit by position, inside the training length and beyond it (Wang & Sato, arXiv 2412.11459).

A model that copies by content should do so at every position; one that learnt positions should fail where training ended.
Positions inside the training length are measured on sequences of that length, later ones on sequences of the same process up to
four times as long, for models that can run them: those without learned positions, and those whose table of learned positions is
longer than the training sequences (its last rows are then untrained).

In every row `part` names the stretch: "inside", "1x to 2x" or "2x to 4x" the training length. A row with a `position` is over a bin of
the stretch that starts there, at most 8 of equal width in each; so bins are twice as wide in the last. A row without one is over
the whole stretch, where sequences reach its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.analysis import heads
from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import PerSequence
from workbench.analysis.hijack_answers import margins_of
from workbench.analysis.hijack_measure import hijack_margin, hijack_rate
from workbench.analysis.icl import over
from workbench.analysis.interventions import chunks
from workbench.analysis.metrics import metric
from workbench.analysis.roles import Roles
from workbench.analysis.rows import Row, numbers
from workbench.analysis.stretches import STRETCHES, bins, bins_beyond, stretch_of
from workbench.axes import Mask, Pattern, Tokens
from workbench.evaluation import Evaluation
from workbench.model import HookedTransformer
from workbench.tasks.base import Batch


@metric(
    "length",
    "position",
    formula="mean over answered t of the bin of [argmax p = z[t + 1]]",
    range="0 to 1",
    source="Bietti et al. 2023 (2306.00802), section 3, by position",
)
def accuracy_by_position(evaluation: Evaluation, batch: Batch, where: Sequence[slice]) -> list[PerSequence]:
    """In-context accuracy over the positions of a bin; `position` is the bin's first, and `part` the stretch that it lies in
    ("inside", "1x to 2x", "2x to 4x" the training length). A row without a position is over the whole stretch. An induction
    circuit is right wherever the answer has been shown, also beyond the training length. Late positions can also profit from
    answers that were shown inside it: accuracy may stay high where the previous-token head fails; see hijack_rate_by_position.

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
    """The score previous_token_at_answers over the positions of a bin that an induction head has to read; `position` and `part`
    as in accuracy_by_position.

    Gives one PerSequence [batch, head] for each bin of `where`.

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]])
    >>> asked = torch.tensor([[False, False, True, False]])
    >>> bins = [slice(0, 2), slice(2, 4)]
    >>> parts = previous_token_by_position(pattern, torch.tensor([[5, 7, 5, 7]]), asked, bins)
    >>> parts[0].estimate().value, parts[1].counts
    (tensor([0.9000]), tensor([0.]))
    """
    read = heads.previous_at_answers(tokens, asked).any(dim=-1)
    before = torch.nn.functional.pad(pattern.diagonal(-1, 2, 3), (1, 0))
    return _by_bin(before * read[:, None], read, where)


@metric(
    "length",
    "position",
    formula="mean over answered t of the bin of the sum of A[t, s] over the s <= t with z[s - 1] = z[t]",
    range="0 to 1",
    source="Olsson et al. 2022 (2209.11895), by position",
)
def prefix_matching_by_position(pattern: Pattern, tokens: Tokens, asked: Mask, where: Sequence[slice]) -> list[PerSequence]:
    """The prefix-matching score over the answered positions of a bin; `position` and `part` as in accuracy_by_position.

    Gives one PerSequence [batch, head] for each bin of `where`.

    >>> pattern = torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]]])
    >>> asked = torch.tensor([[False, False, True]])
    >>> parts = prefix_matching_by_position(pattern, torch.tensor([[5, 7, 5]]), asked, [slice(0, 2), slice(2, 3)])
    >>> parts[0].counts, parts[1].estimate().value
    (tensor([0.]), tensor([0.9000]))
    """
    places = heads.counted(heads.induction_places(tokens), asked)
    return _by_bin((pattern * places[:, None]).sum(dim=-1), places.any(dim=-1), where)


@metric(
    "length",
    "position",
    formula="mean over prompts of logit(c) - logit(g) at the last position",
    range="any, logits",
    source="Wang & Sato 2024 (2412.11459), by position",
)
def hijack_margin_by_position(margins: Float[Tensor, " prompt"]) -> PerSequence:
    """How clearly the context's token c beats the bigrams' token g at the end of prompts of one length; `position` is that of their
    end, `part` the stretch that it lies in. Prompts of all lengths have the same designs: c is shown once, at one
    distance before the end, after one of the fixed (or most frequent) triggers.

    >>> hijack_margin_by_position(torch.tensor([1.0, -2.0])).estimate().value
    tensor(-0.5000)
    """
    return hijack_margin(margins)


@metric(
    "length",
    "position",
    formula="share of prompts with logit(g) > logit(c) at the last position",
    range="0 to 1",
    source="Wang & Sato 2024 (2412.11459), by position",
)
def hijack_rate_by_position(margins: Float[Tensor, " prompt"]) -> PerSequence:
    """How often the bigrams overrule the context at the end of prompts of one length, as in hijack_margin_by_position. A model
    that misses the context beyond the training length falls back on the bigrams there.

    >>> hijack_rate_by_position(torch.tensor([1.0, -2.0])).estimate().value
    tensor(0.5000)
    """
    return hijack_rate(margins)


def measure(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> Iterator[Row]:
    """Rows of every metric of the section, on the own task. A bin without a position that counts has no row."""
    inside = data.scoring
    n_pos = inside.tokens.shape[1]
    for row in (*_rows(model, inside, _spans(n_pos, 0, n_pos)), *_beyond(model, data, n_pos), *_hijacks(model, data, n_pos)):
        yield {"task": data.own, **row}


def _beyond(model: HookedTransformer, data: AnalysisData, n_pos: int) -> Iterator[Row]:
    if data.beyond is not None:
        yield from _rows(model, data.beyond, _spans(n_pos, n_pos, data.beyond.tokens.shape[1]))


def _hijacks(model: HookedTransformer, data: AnalysisData, n_pos: int) -> Iterator[Row]:
    for prompts in data.hijack_prompts_by_length:
        last = prompts.tokens.shape[1] - 1
        margins = margins_of(model, prompts)
        for function in (hijack_margin_by_position, hijack_rate_by_position):
            row: Row = {"metric": function.__name__, "position": last, "part": stretch_of(last, n_pos)}
            yield row | numbers(function(margins).estimate())


def _spans(n_pos: int, start: int, stop: int) -> list[tuple[Row, slice]]:
    """The bins of start .. stop - 1, and the stretches that lie in it whole, each with what its rows are named."""
    cut = bins_beyond(n_pos, stop) if start else bins(n_pos)
    found: list[tuple[Row, slice]] = [({"part": stretch_of(part.start, n_pos), "position": part.start}, part) for part in cut]
    whole = {name: slice(first * n_pos, last * n_pos) for name, (first, last) in STRETCHES.items()}
    return found + [({"part": name}, part) for name, part in whole.items() if start <= part.start and part.stop <= stop]


def _rows(model: HookedTransformer, batch: Batch, spans: list[tuple[Row, slice]]) -> Iterator[Row]:
    for (name, layer), samples in _scores(model, batch, [positions for _, positions in spans]).items():
        for (place, _), sample in zip(spans, samples, strict=True):
            if not sample.counts.any():
                continue
            row = {"metric": name, **place}
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
    for part in chunks(len(batch), batch.tokens.shape[1]):
        rows = batch[part].to(model.W_E.device)

        def score(pattern: Tensor, hook: Any, rows: Batch = rows) -> None:
            for function in (previous_token_by_position, prefix_matching_by_position):
                samples = function(pattern, rows.tokens, rows.answered, where)
                found.setdefault((function.__name__, hook.layer()), []).append(samples)

        logits = model.run_with_hooks(rows.tokens, fwd_hooks=[(lambda name: name.endswith("hook_pattern"), score)])
        accuracy = accuracy_by_position(Evaluation.of_logits(logits, rows.targets), rows, where)
        found.setdefault((accuracy_by_position.__name__, None), []).append(accuracy)
    return {key: [_cat(list(parts)) for parts in zip(*every, strict=True)] for key, every in found.items()}


def _by_bin(onto: Float[Tensor, "batch head pos"], counted: Mask, where: Sequence[slice]) -> list[PerSequence]:
    """What counts of the rows of each bin, for each sequence and head [batch, head]."""
    counts = counted.to(onto.dtype)
    return [PerSequence(onto[:, :, positions].sum(dim=-1), counts[:, positions].sum(dim=-1)) for positions in where]


def _cat(parts: list[PerSequence]) -> PerSequence:
    whole = PerSequence.cat(parts)
    return PerSequence(whole.sums.cpu(), whole.counts.cpu())
