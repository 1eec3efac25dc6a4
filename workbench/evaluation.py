"""What a model does at every position of a batch: its loss, and whether its first choice is right (of a number: its squared error)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.axes import Logits, Mask, Tokens
from workbench.errors import UsageError
from workbench.tasks.base import Batch

if TYPE_CHECKING:
    from workbench.model import HookedTransformer


@dataclass(frozen=True)
class Evaluation:
    """Loss in nats and correctness of the most likely token, for every position of a batch. Where numbers are asked for, the loss is
    the squared error, and `correct`, which then says nothing, holds nowhere."""

    losses: Float[Tensor, "batch pos"]
    correct: Bool[Tensor, "batch pos"]

    @classmethod
    def of_logits(cls, logits: Logits, targets: Tokens, values: Float[Tensor, "batch pos"] | None = None) -> Evaluation:
        """Compare logits [batch, pos, d_vocab] with the next tokens [batch, pos], or the one output with the numbers asked for."""
        if values is not None:
            return cls((logits[..., 0].float() - values) ** 2, torch.zeros_like(targets, dtype=torch.bool))
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view(targets.shape)
        return cls(losses, logits.argmax(dim=-1) == targets)

    @classmethod
    def cat(cls, parts: list[Evaluation]) -> Evaluation:
        """The sequences of several batches together."""
        return cls(torch.cat([part.losses for part in parts]), torch.cat([part.correct for part in parts]))


def least_squares_errors(batch: Batch) -> Float[Tensor, "batch pos"]:
    """The squared error of the least-squares prediction from the context, at every position. Raises UsageError for a batch without
    numbers or without that prediction."""
    if batch.values is None or "least_squares" not in batch.annotations:
        raise UsageError("the loss above least squares needs a task that asks for numbers, with annotations['least_squares']")
    return (batch.annotations["least_squares"] - batch.values) ** 2


def masked_mean(values: Tensor, mask: Mask) -> float:
    """The mean of `values` where `mask` holds; nan where it holds nowhere.

    >>> masked_mean(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, True, False]]))
    1.5
    """
    return values[mask].float().mean().item()


@torch.inference_mode()
def evaluate(model: HookedTransformer, batch: Batch, chunk: int = 64) -> Evaluation:
    """Run the model on a batch, `chunk` sequences at a time, in evaluation mode; the mode is restored."""
    training = model.training
    model.eval()
    try:
        parts = []
        for start in range(0, len(batch), chunk):
            rows = batch[start : start + chunk].to(model.W_E.device)
            parts.append(Evaluation.of_logits(model(**rows.model_inputs), rows.targets, rows.values))
    finally:
        model.train(training)
    whole = Evaluation.cat(parts)
    return Evaluation(whole.losses.cpu(), whole.correct.cpu())


def summary_values(evaluation: Evaluation, batch: Batch) -> dict[str, float]:
    """Loss, in-context accuracy and loss (where the answer has been seen) and bigram loss (where only global
    knowledge helps), as plain numbers; where predictions are asked for at some positions, also the accuracy of these. Where numbers are
    asked for, no accuracy, but the loss above that of least squares."""
    if batch.values is not None:
        return {
            "loss": masked_mean(evaluation.losses, batch.predicted),
            "in_context_loss": masked_mean(evaluation.losses, batch.answered),
            "excess_loss": masked_mean(evaluation.losses - least_squares_errors(batch), batch.predicted),
        }
    return {
        "loss": masked_mean(evaluation.losses, batch.predicted),
        **({} if batch.asked is None else {"accuracy": masked_mean(evaluation.correct, batch.asked)}),
        "in_context_accuracy": masked_mean(evaluation.correct, batch.answered),
        "in_context_loss": masked_mean(evaluation.losses, batch.answered),
        "bigram_loss": masked_mean(evaluation.losses, batch.unanswerable),
    }
