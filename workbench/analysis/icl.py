"""How well a model predicts: in context, from the bigrams it learnt, and late against early in the sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.analysis.estimates import PerSequence
from workbench.analysis.metrics import metric
from workbench.axes import Mask
from workbench.evaluation import Evaluation
from workbench.tasks.base import Batch


def over(values: Tensor, mask: Mask) -> PerSequence:
    """The values [batch, pos] at the positions that count."""
    return PerSequence((values.float() * mask).sum(dim=1), mask.sum(dim=1).float())


@metric(
    "formation",
    "model",
    formula="mean over all positions of -log p(z[t + 1])",
    range="0 or more, nats",
    source="mean cross-entropy",
)
def loss(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """Mean cross-entropy of the next token over all positions.

    >>> answered = torch.tensor([[False, False, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> evaluation = Evaluation(torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[False, False, True]]))
    >>> loss(evaluation, batch).estimate().value
    tensor(2.)
    """
    return over(evaluation.losses, torch.ones_like(batch.answered))


@metric(
    "formation",
    "model",
    formula="mean over answered t of [argmax p = z[t + 1]]",
    range="0 to 1",
    source="Bietti et al. 2023 (2306.00802), section 3",
)
def in_context_accuracy(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """Share of right first choices where the context has already shown the answer.

    >>> answered = torch.tensor([[False, False, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> evaluation = Evaluation(torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[False, False, True]]))
    >>> in_context_accuracy(evaluation, batch).estimate().value
    tensor(1.)
    """
    return over(evaluation.correct, batch.answered)


@metric(
    "formation",
    "model",
    formula="mean over answered t of -log p(z[t + 1])",
    range="0 or more, nats",
    source="Bietti et al. 2023 (2306.00802), section 3",
)
def in_context_loss(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """Mean cross-entropy where the context has already shown the answer.

    >>> answered = torch.tensor([[False, False, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> evaluation = Evaluation(torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[False, False, True]]))
    >>> in_context_loss(evaluation, batch).estimate().value
    tensor(1.)
    """
    return over(evaluation.losses, batch.answered)


@metric(
    "formation",
    "model",
    formula="mean over unanswerable t of -log p(z[t + 1])",
    range="0 or more, nats",
    source="Bietti et al. 2023 (2306.00802), section 3",
)
def bigram_loss(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """Mean cross-entropy where only the statistics learnt in training can tell the next token.

    >>> answered = torch.tensor([[False, False, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> evaluation = Evaluation(torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[False, False, True]]))
    >>> bigram_loss(evaluation, batch).estimate().value
    tensor(2.5000)
    """
    return over(evaluation.losses, batch.unanswerable)


@metric(
    "formation",
    "model",
    formula="mean loss of the last tenth of the positions - mean loss of the second tenth",
    range="nats, negative when the model learns in context",
    source="Olsson et al. 2022 (2209.11895)",
)
def in_context_score(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """Mean loss over the last tenth of the positions minus mean loss over the second tenth.

    In sequences shorter than 20 positions a tenth is one position.

    The tenths of three positions are one position each: the last, and the second.

    >>> answered = torch.tensor([[False, False, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> evaluation = Evaluation(torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[False, False, True]]))
    >>> in_context_score(evaluation, batch).estimate().value
    tensor(-2.)
    """
    n_pos = evaluation.losses.shape[1]
    tenth = max(1, n_pos // 10)
    early, late = evaluation.losses[:, tenth : 2 * tenth], evaluation.losses[:, n_pos - tenth :]
    return PerSequence(late.mean(dim=1) - early.mean(dim=1), evaluation.losses.new_ones(len(batch)))
