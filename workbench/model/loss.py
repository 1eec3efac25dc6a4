"""Next-token cross-entropy, with the mask that says which positions count."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.axes import Logits, Mask, Tokens
from workbench.errors import UsageError


def next_token_loss(
    logits: Logits, tokens: Tokens | None, targets: Tokens | None = None, mask: Mask | None = None, *, per_token: bool = False
) -> Float[Tensor, ""] | Float[Tensor, "batch pos"]:
    """Cross-entropy in nats of the next token, averaged over the positions in `mask` (default: all).

    `targets` [batch, pos] holds the next token at each position. Without it, the tokens shifted by one are the
    targets, and the last position has none. Raises UsageError where the mask chooses no position.
    """
    if targets is None:
        if tokens is None:
            raise UsageError("the loss of inputs_embeds needs targets")
        tokens = tokens if tokens.ndim == 2 else tokens[None]
        logits, targets = logits[:, :-1], tokens[:, 1:]
        mask = mask[:, :-1] if mask is not None else None
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view(targets.shape)
    if per_token:
        return losses if mask is None else losses * mask
    if mask is None:
        return losses.mean()
    return (losses * mask).sum() / mask.sum().clamp(min=1)
