"""How well a model predicts: in context, from the bigrams it learnt, and late against early in the sequence; of numbers, beside least
squares."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.analysis.estimates import PerSequence
from workbench.analysis.metrics import metric
from workbench.axes import Mask
from workbench.evaluation import Evaluation, least_squares_errors
from workbench.tasks.base import Batch


def over(values: Tensor, mask: Mask) -> PerSequence:
    """The values [batch, pos] at the positions that count."""
    return PerSequence((values.float() * mask).sum(dim=1), mask.sum(dim=1).float())


@metric(
    "formation",
    "model",
    formula="mean over all positions of -log p(z[t + 1]); of numbers, of (output - value)^2",
    range="0 or more, nats",
    source="mean cross-entropy",
)
def loss(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """Mean cross-entropy of the next token over all positions (of a label, over the positions where one is asked for; of a number,
    the mean squared error there).

    >>> answered = torch.tensor([[False, False, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> evaluation = Evaluation(torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[False, False, True]]))
    >>> loss(evaluation, batch).estimate().value
    tensor(2.)
    """
    return over(evaluation.losses, batch.predicted)


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
    formula="mean over answered t of -log p(z[t + 1]); of numbers, of (output - value)^2",
    range="0 or more, nats",
    source="Bietti et al. 2023 (2306.00802), section 3",
)
def in_context_loss(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """Mean cross-entropy where the context has already shown the answer (of a number, the mean squared error where it determines it).

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

    In sequences shorter than 20 positions a tenth is one position. Where a prediction is asked for at some positions only,
    there is no early and late, and nothing counts.

    The tenths of three positions are one position each: the last, and the second.

    >>> answered = torch.tensor([[False, False, True]])
    >>> batch = Batch(torch.tensor([[5, 7, 5]]), torch.tensor([[7, 5, 7]]), answered, ~answered)
    >>> evaluation = Evaluation(torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([[False, False, True]]))
    >>> in_context_score(evaluation, batch).estimate().value
    tensor(-2.)
    """
    if batch.asked is not None:
        return over(evaluation.losses, torch.zeros_like(batch.asked))
    n_pos = evaluation.losses.shape[1]
    tenth = max(1, n_pos // 10)
    early, late = evaluation.losses[:, tenth : 2 * tenth], evaluation.losses[:, n_pos - tenth :]
    return PerSequence(late.mean(dim=1) - early.mean(dim=1), evaluation.losses.new_ones(len(batch)))


@metric(
    "formation",
    "model",
    formula="mean over the asked t of (output - value)^2 - (least-squares prediction - value)^2",
    range="the unit of the squared error; 0 as good as least squares",
    source="Garg et al. 2022 (2208.01066)",
)
def excess_loss(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """How much larger a model's squared error is than that of least squares on the context, where a number is asked for.

    Least squares leaves 1 and 0 here, the model 2 and 1.

    >>> asked = torch.tensor([[True, True]])
    >>> batch = Batch(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]), asked, ~asked, {"least_squares": torch.tensor([[0.0, 3.0]])},
    ...               asked=asked, values=torch.tensor([[1.0, 3.0]]))
    >>> excess_loss(Evaluation(torch.tensor([[2.0, 1.0]]), ~asked), batch).estimate().value
    tensor(1.)
    """
    return over(evaluation.losses - least_squares_errors(batch), batch.predicted)


@metric(
    "formation",
    "model",
    formula="mean over queries of [argmax p = label], on the sequences of training",
    range="0 to 1",
    source="Reddy 2024 (2312.03002)",
)
def accuracy(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """Share of right labels on sequences as in training: new classes, known ones shown in the context, and known ones not shown.

    >>> tokens, asked = torch.tensor([[5, 7], [6, 8]]), torch.tensor([[False, True], [False, True]])
    >>> batch = Batch(tokens, tokens, asked, ~asked, asked=asked)
    >>> evaluation = Evaluation(torch.ones(2, 2), torch.tensor([[False, True], [False, False]]))
    >>> accuracy(evaluation, batch).estimate().value
    tensor(0.5000)
    """
    return over(evaluation.correct, batch.predicted)


@metric(
    "formation",
    "model",
    formula="mean over queries of [argmax p = label + 1], on known classes shown with labels shifted by one",
    range="0 to 1",
    source="Reddy 2024 (2312.03002)",
)
def flipped_accuracy(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """Share of queries of known classes that get the label of the context, where all labels are shifted by one: the context
    contradicts the weights, and this is how often it wins.

    >>> tokens, asked = torch.tensor([[5, 7], [6, 8]]), torch.tensor([[False, True], [False, True]])
    >>> batch = Batch(tokens, tokens, asked, ~asked, asked=asked)
    >>> evaluation = Evaluation(torch.ones(2, 2), torch.tensor([[False, True], [True, True]]))
    >>> flipped_accuracy(evaluation, batch).estimate().value
    tensor(1.)
    """
    return over(evaluation.correct, batch.predicted)


@metric(
    "formation",
    "model",
    formula="mean over queries of [argmax p = label], on known classes drawn independently of the context",
    range="0 to 1",
    source="Reddy 2024 (2312.03002)",
)
def in_weights_accuracy(evaluation: Evaluation, batch: Batch) -> PerSequence:
    """Share of right labels of known classes where the context does not help: what was learnt in training.

    >>> tokens, asked = torch.tensor([[5, 7], [6, 8]]), torch.tensor([[False, True], [False, True]])
    >>> batch = Batch(tokens, tokens, asked, ~asked, asked=asked)
    >>> evaluation = Evaluation(torch.ones(2, 2), torch.tensor([[True, False], [True, False]]))
    >>> in_weights_accuracy(evaluation, batch).estimate().value
    tensor(0.)
    """
    return over(evaluation.correct, batch.predicted)
