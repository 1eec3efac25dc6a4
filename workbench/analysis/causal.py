"""The section `causal`: what each head carries. A high score says where a head attends; that the behaviour needs it is said
by what is lost without it (ablation, here) and by what it brings back (patching.py).

A head's output z is replaced by zeros, by its mean over the sequences at each position, or by that of the next
sequence. Zeros also take away what a head always writes; its mean leaves that; another sequence's output leaves the
model with activations that it knows.

In a model with a stream, replacing z leaves the wire alone: what is measured is what the head writes into the residual
stream. What it sends to the next layer along the wire is the section `stream`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import PerSequence
from workbench.analysis.interventions import SUBSTITUTES, Edit, Outcome, Substitute, lost, replaced_by, run, substituted
from workbench.analysis.metrics import metric
from workbench.analysis.patching import patching_rows
from workbench.analysis.roles import Head, Roles
from workbench.analysis.rows import SAMPLE, Row, numbers
from workbench.axes import HeadVectors
from workbench.evaluation import Evaluation
from workbench.model import HookedTransformer
from workbench.tasks.base import Batch

ABLATION = "mean- and resampling-ablation: Wang et al. 2022, IOI (2211.00593), section 2; zero-ablation: Olsson et al. 2022 (2209.11895)"
CONTROLS = "controls of "
"""before the name of a group: the heads that are matched with it"""


@metric(
    "causal",
    "head",
    formula="in-context accuracy - in-context accuracy with the head's output replaced",
    range="-1 to 1",
    source=ABLATION,
)
def ablation_accuracy_loss(clean: Evaluation, ablated: Evaluation, batch: Batch) -> PerSequence:
    """In-context accuracy that is lost when the output of a head is replaced, or of all heads of a group at once (rows with a
    `part` and no head: a role's name, or "controls of" it), by `intervention`.

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> right, half = torch.tensor([[True, True, True]]), torch.tensor([[True, True, False]])
    >>> loss = torch.zeros(1, 3)
    >>> ablation_accuracy_loss(Evaluation(loss, right), Evaluation(loss, half), batch).estimate().value
    tensor(0.5000)
    """
    return lost(clean.correct, ablated.correct, batch.answered)


@metric(
    "causal",
    "head",
    formula="in-context loss with the head's output replaced - in-context loss",
    range="any, nats",
    source=ABLATION,
)
def ablation_loss_increase(clean: Evaluation, ablated: Evaluation, batch: Batch) -> PerSequence:
    """What replacing the output of a head, or of a group of heads, adds to the loss where the context has shown the answer.

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> clean, ablated = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.0, 2.0, 4.0]])
    >>> ablation_loss_increase(Evaluation(clean, answered), Evaluation(ablated, answered), batch).estimate().value
    tensor(2.)
    """
    return lost(ablated.losses, clean.losses, batch.answered)


@metric(
    "causal",
    "head",
    formula="bigram loss with the head's output replaced - bigram loss",
    range="any, nats",
    source=ABLATION,
)
def ablation_bigram_increase(clean: Evaluation, ablated: Evaluation, batch: Batch) -> PerSequence:
    """What replacing the output of a head, or of a group of heads, adds to the loss where only learnt statistics help: negative
    where the head drew the model away from them.

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> clean, ablated = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.5, 2.0, 4.0]])
    >>> ablation_bigram_increase(Evaluation(clean, answered), Evaluation(ablated, answered), batch).estimate().value
    tensor(0.5000)
    """
    return lost(ablated.losses, clean.losses, batch.unanswerable)


@metric("causal", "head", formula="mean over positions of |z W_O|", range="0 or more", source="the length of what a head writes")
def output_norm(z: HeadVectors, W_O: Float[Tensor, "head d_head d_model"]) -> PerSequence:
    """How much a head writes into the residual stream, whatever it is: the mean length of its output (without b_O).

    >>> output_norm(torch.tensor([[[[1.0, 0.0]], [[2.0, 0.0]]]]), torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])).estimate().value
    tensor([7.5000])
    """
    lengths = [(z[:, :, head] @ W_O[head]).norm(dim=-1).sum(dim=1) for head in range(len(W_O))]
    return PerSequence(torch.stack(lengths, dim=1).cpu(), torch.full((len(z),), float(z.shape[1])))


@metric("causal", "head", formula="mean over positions of |z W_O|, of a control head", range="0 or more", source="as output_norm")
def matched_control(norms: PerSequence, head: int) -> PerSequence:
    """Which heads are the controls of a group (`part`): one row for each, with its output norm. They are chosen at each
    checkpoint anew.

    >>> matched_control(PerSequence(torch.tensor([[6.0, 8.0]]), torch.tensor([2.0])), 1).estimate().value
    tensor(4.)
    """
    return norms.part(head)


@metric("causal", "model", formula="sequences that passed through the model / sequences scored", range="0 or more", source="a count")
def forward_passes(passed: int, scored: int) -> float:
    """What the section costs: how often it ran the model over the sequences on which heads are scored, clean passes included.
    Patching runs on some of these sequences, so that a pass of it counts as a part of one.

    >>> forward_passes(192, 128)
    1.5
    """
    return passed / scored


def matched_controls(roles: Roles, norms: Float[Tensor, "layer head"]) -> dict[str, tuple[Head, ...]]:
    """For each group of heads, as many heads of the same layers that have no role, with output norms as near to the
    group's as can be: of all pairs of a layer the nearest is matched first, and then neither is matched again. Where a
    layer has too few heads without a role, there are fewer controls; a group without any is left out.

    >>> matched_controls(Roles(induction=(Head(1, 0),)), torch.tensor([[1.0, 1.0, 1.0], [5.0, 1.0, 4.0]]))
    {'induction heads': (Head(layer=1, head=2),)}
    """
    named = {*roles.positional, *(head for heads in roles.groups.values() for head in heads)}
    n_layers, n_heads = norms.shape
    free = {Head(layer, head) for layer in range(n_layers) for head in range(n_heads)} - named

    def distance(pair: tuple[Head, Head]) -> tuple[float, Head, Head]:
        (first, second) = pair
        return abs((norms[first.layer, first.head] - norms[second.layer, second.head]).item()), first, second

    controls: dict[str, tuple[Head, ...]] = {}
    for name, heads in roles.groups.items():
        matched: dict[Head, Head] = {}
        for head, other in sorted(((head, other) for head in heads for other in free if head.layer == other.layer), key=distance):
            if head not in matched and other not in matched.values():
                matched[head] = other
        if matched:
            controls[name] = tuple(sorted(matched.values()))
    return controls


def ablate(model: HookedTransformer, batch: Batch, clean: Outcome, how: Substitute, heads: Sequence[Head]) -> Outcome:
    """A pass in which the outputs of these heads, of any layers, are replaced all at once. `clean` holds the recorded
    `hook_z` of their layers, of which means and other sequences' outputs are taken, in later layers as well."""
    edits: dict[str, Edit] = {}
    for layer in sorted({head.layer for head in heads}):
        values = substituted(clean.recorded[_z(layer)], how)
        edits[_z(layer)] = replaced_by(values, [head.head for head in heads if head.layer == layer])
    return run(model, batch, edits)


@torch.inference_mode()
def measure(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> Iterator[Row]:
    """Rows of the ablations and of activation patching on the scoring half of the own task's sequences: every head alone
    and, where roles are given, the heads of each role together, and as many controls."""
    passed = 0

    def count(embedded: Tensor, hook: Any) -> None:
        nonlocal passed
        passed += len(embedded)

    # All rows are computed before the first is given out, so that the counting hook does not outlive this block.
    with model.hooks(fwd_hooks=[("hook_embed", count)]):
        # Patching corrupts one token of a sequence; vectors have none.
        rows = [*_ablations(model, data, roles), *(patching_rows(model, data) if data.scoring.inputs is None else ())]
    yield from rows
    yield {"task": data.own, "metric": "forward_passes", "value": forward_passes(passed, len(data.scoring))}


def _z(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_z"


def _ablations(model: HookedTransformer, data: AnalysisData, roles: Roles | None) -> Iterator[Row]:
    batch, every_layer = data.scoring, range(model.config.n_layers)
    clean = run(model, batch, record=[_z(layer) for layer in every_layer])
    norms = [output_norm(clean.recorded[_z(layer)], model.blocks[layer].attn.W_O) for layer in every_layer]
    estimates = [sample.estimate() for sample in norms]

    chosen: list[tuple[Row, tuple[Head, ...]]] = []
    for layer in every_layer:
        for head in range(model.config.n_heads):
            place = {"task": data.own, "layer": layer, "head": head}
            chosen.append((place, (Head(layer, head),)))
            yield {**place, "metric": "output_norm", **numbers(estimates[layer], head), SAMPLE: norms[layer].part(head)}
    if roles is not None:
        controls = matched_controls(roles, torch.stack([estimate.value for estimate in estimates]))
        for group, heads in (*roles.groups.items(), *((CONTROLS + name, heads) for name, heads in controls.items())):
            chosen.append(({"task": data.own, "part": group}, heads))
        for group, heads in controls.items():
            for head in heads:
                sample = matched_control(norms[head.layer], head.head)
                place = {"task": data.own, "layer": head.layer, "head": head.head, "part": group}
                yield {**place, "metric": "matched_control", **numbers(sample.estimate()), SAMPLE: sample}

    # Of numbers, none is right or wrong.
    of_classes = (ablation_accuracy_loss,) if batch.values is None else ()
    for how in SUBSTITUTES:
        # A group of one head has been run with that head.
        done: dict[frozenset[Head], Evaluation] = {}
        for place, heads in chosen:
            if frozenset(heads) not in done:
                done[frozenset(heads)] = ablate(model, batch, clean, how, heads).evaluation
            for function in (*of_classes, ablation_loss_increase, ablation_bigram_increase):
                sample = function(clean.evaluation, done[frozenset(heads)], batch)
                # Where no position counts (no answered or no unanswerable one), there is nothing to lose.
                if sample.counts.any():
                    yield {**place, "metric": function.__name__, "intervention": how, **numbers(sample.estimate()), SAMPLE: sample}
