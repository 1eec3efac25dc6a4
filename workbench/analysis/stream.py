"""The section `stream`: what the wire carries, and what it carries for the behaviour.

Three questions, none of which tools of the residual stream can answer:

- the split: how much of what a head uses, writes and scores is its own, and how much came along the wire (stream_split.py);
- cutting: what is lost when `hook_P_stream` is replaced (by zeros, by its mean over the sequences at each position, by that
  of another sequence, by that of another head), in one layer, one head or all of them;
- paths: what is lost when the source layer's own projection P is replaced, and its effect travels along the wire only
  (attention's output z of the source layer is held), along the residual stream only (z of the source layer changes as it
  would, the wire is held), or along both; the interaction is what both lose beyond the sum of the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch

from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import PerSequence
from workbench.analysis.interventions import SUBSTITUTES, Edit, Outcome, Substitute, lost, replaced_by, run, substituted
from workbench.analysis.metrics import metric
from workbench.analysis.roles import Roles
from workbench.analysis.rows import SAMPLE, Row, numbers
from workbench.analysis.stream_split import split_rows
from workbench.errors import UsageError
from workbench.evaluation import Evaluation
from workbench.model import HookedTransformer
from workbench.model.attention import STREAM_LETTER
from workbench.tasks.base import Batch

PERMUTED: Literal["permuted"] = "permuted"
"""the cut that gives each head what the next head should have received (the last head the first's)"""
CUT = "path patching, Wang et al. 2022 (2211.00593), with the wire as an edge"


@metric(
    "stream",
    "model",
    formula="in-context accuracy - in-context accuracy with the wire cut",
    range="-1 to 1",
    source=CUT,
)
def cut_accuracy_loss(clean: Evaluation, edited: Evaluation, batch: Batch) -> PerSequence:
    """In-context accuracy that is lost when the wire is cut, by `intervention`: in one layer, in one head (rows with a
    head), or everywhere (rows without a layer).

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> right, half = torch.tensor([[True, True, True]]), torch.tensor([[True, True, False]])
    >>> loss = torch.zeros(1, 3)
    >>> cut_accuracy_loss(Evaluation(loss, right), Evaluation(loss, half), batch).estimate().value
    tensor(0.5000)
    """
    return lost(clean.correct, edited.correct, batch.answered)


@metric(
    "stream",
    "model",
    formula="(accuracy - accuracy with the wire cut) / accuracy, in context",
    range="1 or less; negative where cutting helps",
    source=CUT,
)
def cut_accuracy_share(clean: Evaluation, edited: Evaluation, batch: Batch) -> PerSequence:
    """The share of the in-context accuracy that is lost when the wire is cut (by mean or by resampling, everywhere).

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> right, half = torch.tensor([[True, True, True]]), torch.tensor([[True, True, False]])
    >>> loss = torch.zeros(1, 3)
    >>> cut_accuracy_share(Evaluation(loss, right), Evaluation(loss, half), batch).estimate().value
    tensor(0.5000)
    """
    return _share(clean, edited, batch)


@metric(
    "stream",
    "model",
    formula="in-context loss with the wire cut - in-context loss",
    range="any, nats",
    source=CUT,
)
def cut_loss_increase(clean: Evaluation, edited: Evaluation, batch: Batch) -> PerSequence:
    """What cutting the wire adds to the loss where the context has shown the answer.

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> correct = answered
    >>> clean, cut = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.0, 2.0, 4.0]])
    >>> cut_loss_increase(Evaluation(clean, correct), Evaluation(cut, correct), batch).estimate().value
    tensor(2.)
    """
    return lost(edited.losses, clean.losses, batch.answered)


@metric(
    "stream",
    "model",
    formula="bigram loss with the wire cut - bigram loss",
    range="any, nats",
    source=CUT,
)
def cut_bigram_increase(clean: Evaluation, edited: Evaluation, batch: Batch) -> PerSequence:
    """What cutting the wire adds to the loss where only learnt statistics help: high beside the in-context increase, the
    wire carries something else than in-context learning.

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> clean, cut = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.5, 2.0, 4.0]])
    >>> cut_bigram_increase(Evaluation(clean, answered), Evaluation(cut, answered), batch).estimate().value
    tensor(0.5000)
    """
    return lost(edited.losses, clean.losses, batch.unanswerable)


@metric(
    "stream",
    "layer",
    formula="(accuracy - accuracy with the source layer's own P replaced along the path) / accuracy, in context",
    range="1 or less; interaction: both - wire - residual",
    source=CUT,
)
def path_accuracy_share(clean: Evaluation, edited: Evaluation, batch: Batch) -> PerSequence:
    """The share of the in-context accuracy that is lost when what the heads of the source layer (`source_layer`) project
    is replaced, and the change travels by `part`: the wire, the residual stream, or both; `interaction` is what both
    lose beyond the sum of the two.

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> right, none = torch.tensor([[True, True, True]]), torch.tensor([[True, False, False]])
    >>> loss = torch.zeros(1, 3)
    >>> path_accuracy_share(Evaluation(loss, right), Evaluation(loss, none), batch).estimate().value
    tensor(1.)
    """
    return _share(clean, edited, batch)


@metric(
    "stream",
    "layer",
    formula="in-context loss with the source layer's own P replaced along the path - in-context loss",
    range="any, nats; interaction: both - wire - residual",
    source=CUT,
)
def path_loss_increase(clean: Evaluation, edited: Evaluation, batch: Batch) -> PerSequence:
    """What replacing the source layer's projection adds to the in-context loss, by the path that the change travels.

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> clean, cut = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.0, 2.0, 4.0]])
    >>> path_loss_increase(Evaluation(clean, answered), Evaluation(cut, answered), batch).estimate().value
    tensor(2.)
    """
    return lost(edited.losses, clean.losses, batch.answered)


@torch.no_grad()
def measure(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> Iterator[Row]:
    """Rows of the split, the cuts and the paths on the scoring half of the own task's sequences.

    Raises UsageError for a model without a stream: there is no wire to cut."""
    config, batch = model.config, data.scoring
    if config.stream == "none":
        raise UsageError("the section stream needs a model with a stream; this one has stream='none'")
    letter = STREAM_LETTER[config.stream]
    layers = [layer for layer in range(config.n_layers) if config.receives_stream(layer)]
    sources = range(1 if config.stream_source == "first" else config.n_layers - 1)
    sent = [name for source in sources for name in _sent(model, source)]
    clean = run(model, batch, record=[*(_name(letter, layer, "_stream") for layer in layers), *sent])
    for row in [*split_rows(model, batch, layers), *_cuts(model, batch, clean, layers), *_paths(model, batch, clean, sources)]:
        yield {"task": data.own, **row}


def cut(
    model: HookedTransformer,
    batch: Batch,
    clean: Outcome,
    how: Substitute | Literal["permuted"],
    layers: list[int],
    heads: list[int] | None = None,
) -> Outcome:
    """A pass in which what arrives in these layers (in all heads, or some) is replaced: `how` is zero, mean, resample or
    permuted. `clean` holds the recorded `hook_P_stream` of these layers. Raises UsageError without a stream."""
    if model.config.stream == "none":
        raise UsageError("there is no wire to cut in a model with stream='none'")
    letter = STREAM_LETTER[model.config.stream]
    edits: dict[str, Edit] = {}
    for layer in layers:
        arriving = clean.recorded[_name(letter, layer, "_stream")]
        values = arriving.roll(-1, dims=2) if how == "permuted" else substituted(arriving, how)
        edits[_name(letter, layer, "_stream")] = replaced_by(values, heads)
    return run(model, batch, edits)


def path_effects(model: HookedTransformer, batch: Batch, clean: Outcome, how: Substitute, source_layer: int) -> dict[str, Evaluation]:
    """Evaluations with the own projection of a source layer replaced, its effect travelling along the wire only, along
    the residual stream only, or along both. `clean` holds the recorded `hook_P` and `hook_z` of the source layer. Raises
    UsageError without a stream."""
    if model.config.stream == "none":
        raise UsageError("there is no wire to patch along in a model with stream='none'")
    projection, z = _sent(model, source_layer)
    replaced = replaced_by(substituted(clean.recorded[projection], how))
    both = run(model, batch, {projection: replaced}, record=[z])
    wire = run(model, batch, {projection: replaced, z: replaced_by(clean.recorded[z])})
    residual = run(model, batch, {z: replaced_by(both.recorded[z])})
    return {"wire": wire.evaluation, "residual": residual.evaluation, "both": both.evaluation}


def _sent(model: HookedTransformer, source_layer: int) -> tuple[str, str]:
    """The hooks of what a source layer sends: its own projection, along the wire, and its output, along the residual stream."""
    return _name(STREAM_LETTER[model.config.stream], source_layer), f"blocks.{source_layer}.attn.hook_z"


def _name(letter: str, layer: int, part: str = "") -> str:
    return f"blocks.{layer}.attn.hook_{letter}{part}"


def _share(clean: Evaluation, edited: Evaluation, batch: Batch) -> PerSequence:
    """Answers lost, over answers that were right."""
    right = (clean.correct & batch.answered).sum(dim=1).float()
    return PerSequence(lost(clean.correct, edited.correct, batch.answered).sums, right)


def _cuts(model: HookedTransformer, batch: Batch, clean: Outcome, layers: list[int]) -> Iterator[Row]:
    """Everywhere, in each layer where there are several, and in each head."""
    everywhere = [(how, layers, None, {}) for how in (*SUBSTITUTES, *([PERMUTED] if model.config.n_heads > 1 else []))]
    each_layer = [(how, [layer], None, {"layer": layer}) for how in ("mean", "resample") for layer in layers if len(layers) > 1]
    each_head = [
        (how, [layer], [head], {"layer": layer, "head": head})
        for how in ("mean", "resample")
        for layer in layers
        for head in range(model.config.n_heads)
    ]
    # Of numbers, none is right or wrong.
    of_classes = (cut_accuracy_loss, cut_accuracy_share) if batch.values is None else ()
    for how, where, heads, place in [*everywhere, *each_layer, *each_head]:
        edited = cut(model, batch, clean, how, where, heads).evaluation
        for function in (*of_classes, cut_loss_increase, cut_bigram_increase):
            sample = function(clean.evaluation, edited, batch)
            if sample.counts.any():
                yield {**place, "metric": function.__name__, "intervention": how, **numbers(sample.estimate()), SAMPLE: sample}


def _paths(model: HookedTransformer, batch: Batch, clean: Outcome, sources: Iterable[int]) -> Iterator[Row]:
    of_classes = (path_accuracy_share,) if batch.values is None else ()
    for source_layer in sources:
        for how in SUBSTITUTES:
            edited = path_effects(model, batch, clean, how, source_layer)
            for function in (*of_classes, path_loss_increase):
                samples = {path: function(clean.evaluation, evaluation, batch) for path, evaluation in edited.items()}
                beyond = samples["both"].sums - samples["wire"].sums - samples["residual"].sums
                samples["interaction"] = PerSequence(beyond, samples["both"].counts)
                for path, sample in samples.items() if samples["both"].counts.any() else ():
                    place = {"source_layer": source_layer, "part": path, "intervention": how}
                    yield {**place, "metric": function.__name__, **numbers(sample.estimate()), SAMPLE: sample}
