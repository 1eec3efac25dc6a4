"""What the residual stream already says on the way: each point of it unembedded directly (logit lens, nostalgebraist 2020),
and the loss by position. Rows of the section `attribution`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import PerSequence
from workbench.analysis.icl import in_context_accuracy, in_context_loss, over
from workbench.analysis.interventions import CHUNK
from workbench.analysis.metrics import metric
from workbench.analysis.rows import Row, numbers
from workbench.analysis.stretches import bins
from workbench.axes import Logits, Resid
from workbench.config import ModelConfig
from workbench.evaluation import Evaluation
from workbench.model import HookedTransformer
from workbench.tasks.base import Batch

LENS = "nostalgebraist 2020, interpreting GPT: the logit lens"
Point = tuple[int, str]
"""a point of the residual stream: layer, and resid_pre, resid_mid or resid_post"""


def unembedded(model: HookedTransformer, resid: Resid) -> Logits:
    """The logits of a residual stream [batch, pos, d_model] as if it were the last: the final norm, with the scale that this
    stream has, and the unembedding."""
    return model.unembed(model.ln_final(resid))


@metric(
    "attribution",
    "layer",
    formula="mean over answered t of [argmax unembed(ln_final(resid[t])) = z[t + 1]]",
    range="0 to 1",
    source=LENS,
)
def logit_lens_accuracy(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """In-context accuracy when the residual stream is unembedded at an earlier point: `part` is resid_pre (of layer 0: the
    embeddings), resid_mid (after attention, before an MLP that follows it) or resid_post (after the layer). After the last
    layer it is the in-context accuracy.

    `evaluation` is that of the logits at the point (`unembedded`).

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 5, 5]]), torch.tensor([[5, 5, 7]]), answered, ~answered)
    >>> evaluation = Evaluation(torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[True, True, False]]))
    >>> logit_lens_accuracy(evaluation, batch).estimate().value
    tensor(0.5000)
    """
    return in_context_accuracy(evaluation, batch)


@metric(
    "attribution",
    "layer",
    formula="mean over answered t of -log softmax(unembed(ln_final(resid[t])))[z[t + 1]]",
    range="0 or more, nats",
    source=LENS,
)
def logit_lens_loss(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """In-context loss when the residual stream is unembedded at an earlier point (`part`, as in logit_lens_accuracy). After
    the last layer it is the in-context loss.

    `evaluation` is that of the logits at the point (`unembedded`).

    >>> answered = torch.tensor([[False, True, True]])
    >>> batch = Batch(torch.tensor([[5, 5, 5]]), torch.tensor([[5, 5, 7]]), answered, ~answered)
    >>> evaluation = Evaluation(torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[True, True, False]]))
    >>> logit_lens_loss(evaluation, batch).estimate().value
    tensor(2.)
    """
    return in_context_loss(evaluation, batch)


@metric(
    "attribution",
    "position",
    formula="mean over the positions t of the bin of -log p(z[t + 1])",
    range="0 or more, nats",
    source="Olsson et al. 2022 (2209.11895), loss by token index",
)
def loss_by_position(evaluation: Evaluation, positions: slice) -> PerSequence:
    """Mean cross-entropy of the next token over the positions of a bin. The sequence is cut into 8 bins of equal width (fewer
    where it is shorter), and `position` is the first position of the bin.

    >>> evaluation = Evaluation(torch.tensor([[2.0, 3.0, 1.0]]), torch.zeros(1, 3, dtype=torch.bool))
    >>> loss_by_position(evaluation, slice(1, 3)).estimate().value
    tensor(2.)
    """
    losses = evaluation.losses[:, positions]
    return over(losses, torch.ones_like(losses, dtype=torch.bool))


def points(config: ModelConfig) -> list[Point]:
    """The points at which the residual stream is read, in the order in which the model passes them."""
    middle = ["resid_mid"] if not (config.attn_only or config.parallel_attn_mlp) else []
    return [(0, "resid_pre"), *((layer, part) for layer in range(config.n_layers) for part in (*middle, "resid_post"))]


def measure_lens(model: HookedTransformer, data: AnalysisData) -> Iterator[Row]:
    """Rows of the logit lens at every point, and of the loss by position, over all sequences of the own task (as the in-context
    accuracy and loss of the section formation)."""
    batch = data.batches[data.own]
    evaluations = _evaluations(model, batch)
    for (layer, part), evaluation in evaluations.items():
        for function in (logit_lens_accuracy, logit_lens_loss):
            sample = function(evaluation, batch)
            if sample.counts.any():
                yield {"task": data.own, "metric": function.__name__, "layer": layer, "part": part, **numbers(sample.estimate())}
    final = evaluations[model.config.n_layers - 1, "resid_post"]
    for positions in bins(batch.tokens.shape[1]):
        estimate = loss_by_position(final, positions).estimate()
        yield {"task": data.own, "metric": loss_by_position.__name__, "position": positions.start, **numbers(estimate)}


@torch.inference_mode()
def _evaluations(model: HookedTransformer, batch: Batch) -> dict[Point, Evaluation]:
    """What every position predicts at each point of the residual stream, from one pass."""
    names = {point: f"blocks.{point[0]}.hook_{point[1]}" for point in points(model.config)}
    found: dict[Point, list[Evaluation]] = {point: [] for point in names}
    for start in range(0, len(batch), CHUNK):
        rows = batch[start : start + CHUNK].to(model.W_E.device)
        _, cache = model.run_with_cache(rows.tokens, names_filter=list(names.values()))
        for point, name in names.items():
            part = _evaluation(unembedded(model, cache[name]), rows.targets)
            found[point].append(part)
    return {point: Evaluation.cat(parts) for point, parts in found.items()}


def _evaluation(logits: Logits, targets: Tensor) -> Evaluation:
    found = Evaluation.of_logits(logits, targets)
    return Evaluation(found.losses.cpu(), found.correct.cpu())
