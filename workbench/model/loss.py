"""Next-token cross-entropy, and the squared error of a number, with the mask that says which positions count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.axes import Logits, Mask, Tokens
from workbench.errors import UsageError


def next_token_loss(
    logits: Logits, tokens: Tokens | None, targets: Tokens | None = None, mask: Mask | None = None, *, per_token: bool = False
) -> Float[Tensor, ""] | Float[Tensor, "batch predicted"]:
    """Cross-entropy in nats of the next token, averaged over the positions in `mask` (default: all).

    `targets` [batch, pos] holds the next token at each position. Without it, the tokens shifted by one are the
    targets, and the last position has none. Where the mask chooses no position the loss is 0, so that such a batch
    trains nothing. `per_token` gives every position's loss, 0 outside the mask.
    """
    if targets is None:
        if tokens is None:
            raise UsageError("the loss of inputs_embeds needs targets")
        logits, targets = logits[:, :-1], tokens[:, 1:]
        mask = mask[:, :-1] if mask is not None else None
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    return _counted(losses, mask, per_token)


def squared_error_loss(
    logits: Logits, values: Float[Tensor, "batch pos"], mask: Mask | None = None, *, per_token: bool = False
) -> Float[Tensor, ""] | Float[Tensor, "batch predicted"]:
    """Squared error of the model's one output against the number asked for, averaged as in `next_token_loss`.

    Raises UsageError for a model with several outputs."""
    if logits.shape[-1] != 1:
        raise UsageError(f"values ask for a number of a model with one output (d_vocab=1); this one has {logits.shape[-1]}")
    predicted = logits[..., 0].to(torch.promote_types(logits.dtype, torch.float32))
    return _counted((predicted - values) ** 2, mask, per_token)


def _counted(losses: Float[Tensor, "batch predicted"], mask: Tensor | None, per_token: bool) -> Tensor:
    if per_token:
        return losses if mask is None else losses * mask
    if mask is None:
        return losses.mean()
    return (losses * mask).sum() / mask.sum().clamp(min=1)
