"""Forward passes in which some activations are recorded and some are replaced: the one way in which analyses intervene.

Hooks are attached for one pass and are gone afterwards, also after an exception; no gradient is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.analysis.estimates import PerSequence
from workbench.axes import Mask
from workbench.evaluation import Evaluation
from workbench.model import HookedTransformer
from workbench.tasks.base import Batch

Substitute = Literal["zero", "mean", "resample"]
SUBSTITUTES: tuple[Substitute, ...] = ("zero", "mean", "resample")
CHUNK = 64
"""Sequences in a forward pass."""
PAIRS = 2**18
"""Pairs of positions in a forward pass over long sequences: the attention scores of so many stay in a processor's cache."""

Activation = Float[Tensor, "batch *rest"]
Edit = Callable[[Tensor, slice], Tensor]
"""(activation of some sequences, which of the batch they are) -> what takes its place"""


@dataclass(frozen=True)
class Outcome:
    """What a pass over a batch gave: the evaluation of every position, and the activations that were asked for."""

    evaluation: Evaluation
    recorded: Mapping[str, Tensor] = field(default_factory=dict)


def chunks(n: int, n_pos: int) -> list[slice]:
    """`n` sequences of `n_pos` positions, in forward passes of at most `PAIRS` pairs of positions, or of one sequence.

    >>> chunks(5, 362)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    size = max(1, PAIRS // n_pos**2)
    return [slice(start, start + size) for start in range(0, n, size)]


@torch.no_grad()
def run(model: HookedTransformer, batch: Batch, edits: Mapping[str, Edit] | None = None, record: Iterable[str] = ()) -> Outcome:
    """Run a batch, `CHUNK` sequences at a time, with the activations of some hooks edited and of others recorded.

    An edit and a record of one hook: what is recorded is the edited activation. Raises UsageError for a hook that the
    model does not have. Evaluations come back on the CPU, recorded activations stay on the model's device.
    """
    names = list(record)
    recorded: dict[str, list[Tensor]] = {name: [] for name in names}
    evaluations: list[Evaluation] = []
    for start in range(0, len(batch), CHUNK):
        rows = slice(start, min(start + CHUNK, len(batch)))
        part = batch[rows].to(model.W_E.device)

        def edit(value: Tensor, hook: Any, rows: slice = rows) -> Tensor:
            return (edits or {})[hook.name](value, rows)

        def keep(value: Tensor, hook: Any) -> None:
            recorded[hook.name].append(value)

        hooks = [(name, edit) for name in edits or {}] + [(name, keep) for name in names]
        logits = model.run_with_hooks(**part.model_inputs, fwd_hooks=hooks)
        found = Evaluation.of_logits(logits, part.targets, part.values)
        evaluations.append(Evaluation(found.losses.cpu(), found.correct.cpu()))
    return Outcome(Evaluation.cat(evaluations), {name: torch.cat(parts) for name, parts in recorded.items()})


def substituted(activation: Activation, how: Substitute) -> Activation:
    """What takes an activation's place: zeros, its mean over the sequences at each position, or that of the next
    sequence of the batch (the last takes the first's).

    >>> substituted(torch.tensor([[1.0], [3.0]]), "mean").tolist()
    [[2.0], [2.0]]
    >>> substituted(torch.tensor([[1.0], [3.0]]), "resample").tolist()
    [[3.0], [1.0]]
    """
    if how == "zero":
        return torch.zeros_like(activation)
    return activation.mean(dim=0, keepdim=True).expand_as(activation) if how == "mean" else activation.roll(-1, dims=0)


def replaced_by(values: Activation, heads: Sequence[int] | None = None) -> Edit:
    """The edit that puts `values` [batch, pos, head, d_head] (of the whole batch) in place, of all heads or of some."""

    def edit(activation: Tensor, rows: slice) -> Tensor:
        if heads is None:
            return values[rows]
        activation = activation.clone()
        activation[:, :, list(heads)] = values[rows][:, :, list(heads)]
        return activation

    return edit


def lost(clean: Tensor, edited: Tensor, mask: Mask) -> PerSequence:
    """How much a quantity of every position [batch, pos] falls from the clean to the edited pass, where the mask holds."""
    return PerSequence(((clean.float() - edited.float()) * mask).sum(dim=1), mask.sum(dim=1).float())
