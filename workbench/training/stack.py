"""Models of one shape as one: their parameters stacked along a first axis, one update for all, and the batches for it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from workbench.config import TrainConfig
from workbench.evaluation import Evaluation
from workbench.tasks.base import Batch
from workbench.training.hardware import arithmetic
from workbench.training.loop import Trainer, loss_arguments
from workbench.training.optimizer import optimizer_over
from workbench.training.schedule import learning_rate

COUNT = "step"
"""AdamW's number of updates: the one entry of its state that is not shaped like the parameter"""


class Stack:
    """Trainers whose models have one shape, as one: each parameter is [member, ...], and the members' own are its slices.

    Members in a row that share learning rate and step share an optimiser, whose update is elementwise and so the same as theirs.
    """

    def __init__(self, trainers: Sequence[Trainer], drawing: ThreadPoolExecutor) -> None:
        self.trainers = list(trainers)
        self.config, self.device = trainers[0].config, trainers[0].device
        self._template = trainers[0].model
        own = [dict(trainer.model.named_parameters()) for trainer in trainers]
        self.parameters: dict[str, nn.Parameter] = {}
        for name, first in own[0].items():
            stacked = nn.Parameter(torch.stack([each[name].detach() for each in own]), requires_grad=first.requires_grad)
            for number, each in enumerate(own):
                each[name].data = stacked.data[number]
            self.parameters[name] = stacked
        numbers = itertools.groupby(range(len(trainers)), key=lambda number: (trainers[number].config.lr, trainers[number].step))
        self._parts = [self._part(list(row)) for _, row in numbers]
        self._feed = Feed(self.trainers, drawing)

    def update(self) -> list[float]:
        """One update of every member; gives their losses in nats. One whose loss is not finite spoils no other."""
        batch = self._feed.take()
        with arithmetic(self.config.dtype, self.device):
            losses = vmap(self._loss)(self.parameters, batch)
        for parameter in self.parameters.values():
            parameter.grad = None
        losses.sum().backward()
        if self.config.grad_clip is not None:
            clip_each([parameter.grad for parameter in self.parameters.values() if parameter.grad is not None], self.config.grad_clip)
        for part in self._parts:
            part.update(self.parameters, self.trainers[part.rows.start].step)
        # The one wait for the device: everything before it is only enqueued.
        return losses.tolist()

    @torch.no_grad()
    def evaluations(self) -> list[list[Evaluation]]:
        """Every member on every batch of its evaluation, [member][batch]."""
        found = [self._evaluated(batch) for batch in self.trainers[0].evaluated_on]
        return [list(each) for each in zip(*found, strict=True)]

    def return_states(self) -> None:
        """Give every member's own optimiser its state, as slices of the stack's."""
        for part in self._parts:
            for place, number in enumerate(range(part.rows.start, part.rows.stop)):
                trainer = self.trainers[number]
                for name, own in trainer.model.named_parameters():
                    if name in part.parameters and (state := part.optimizer.state.get(part.parameters[name])):
                        trainer.optimizer.state[own] = {kind: _of_one(kind, value, place) for kind, value in state.items()}

    def _part(self, numbers: list[int]) -> _Part:
        rows = slice(numbers[0], numbers[-1] + 1)
        parameters = {name: nn.Parameter(value.data[rows]) for name, value in self.parameters.items() if value.requires_grad}
        trainers = self.trainers[rows]
        part = _Part(rows, trainers[0].config, parameters, optimizer_over(trainers[0].config, list(parameters.values())))
        own = [dict(trainer.model.named_parameters()) for trainer in trainers]
        for name, parameter in parameters.items():
            states = [trainer.optimizer.state.get(each[name], {}) for trainer, each in zip(trainers, own, strict=True)]
            if states[0]:
                part.optimizer.state[parameter] = {kind: _of_all(kind, [state[kind] for state in states]) for kind in states[0]}
        return part

    def _loss(self, parameters: Mapping[str, Tensor], batch: dict[str, Tensor]) -> Float[Tensor, ""]:
        return functional_call(self._template, dict(parameters), (), {**batch, "return_type": "loss"})

    def _evaluated(self, batch: Batch) -> list[Evaluation]:
        def logits(parameters: Mapping[str, Tensor], inputs: dict[str, Tensor]) -> Float[Tensor, "batch pos d_vocab"]:
            return functional_call(self._template, dict(parameters), (), inputs)

        parts: list[list[Evaluation]] = [[] for _ in self.trainers]
        # As many sequences at a time as an update has, which memory has room for.
        for start in range(0, len(batch), self.config.batch_size):
            rows = batch[start : start + self.config.batch_size].to(self.device)
            for part, found in zip(parts, vmap(logits, in_dims=(0, None))(self.parameters, rows.model_inputs), strict=True):
                part.append(Evaluation.of_logits(found, rows.targets, rows.values))
        wholes = [Evaluation.cat(part) for part in parts]
        return [Evaluation(whole.losses.cpu(), whole.correct.cpu()) for whole in wholes]


def clip_each(gradients: Sequence[Float[Tensor, "member ..."]], most: float) -> None:
    """Scale each member's gradients, in place, to a norm over all of its parameters of at most `most`, as clip_grad_norm_ does.

    >>> gradients = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    >>> clip_each([gradients], 1.0)
    >>> gradients
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    norms = torch.stack([torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1) for gradient in gradients])
    scales = (most / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(scales.view(-1, *(1,) * (gradient.ndim - 1)))


@dataclass
class _Part:
    """Members in a row with one learning rate, equally far: the parameters are their rows of the stack's."""

    rows: slice
    config: TrainConfig
    parameters: dict[str, nn.Parameter]
    optimizer: Optimizer

    def update(self, stacked: dict[str, nn.Parameter], step: int) -> None:
        for name, parameter in self.parameters.items():
            gradient = stacked[name].grad
            parameter.grad = None if gradient is None else gradient[self.rows]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        self.optimizer.step()


def _of_all(kind: str, values: Sequence[Any]) -> Any:
    """An entry of an optimiser's state for members together."""
    return values[0] if kind == COUNT or values[0] is None else torch.stack(list(values))


def _of_one(kind: str, value: Any, place: int) -> Any:
    """The same entry for one of them."""
    return value if kind == COUNT or value is None else value[place]


class Feed:
    """The members' batches, [member, batch, ...]: the next update's are drawn in a thread while this one is computed.

    A batch depends on its data seed and step alone, so that drawing ahead changes nothing.
    """

    def __init__(self, trainers: Sequence[Trainer], drawing: ThreadPoolExecutor) -> None:
        self.trainers, self._drawing = trainers, drawing
        self._steps = [trainer.step for trainer in trainers]
        self._next: Future[dict[str, Tensor]] = drawing.submit(self._draw, self._steps)

    def take(self) -> dict[str, Tensor]:
        """What the model is called with for the loss of the next update, on the members' device."""
        drawn = self._next.result()
        self._steps = [step + 1 for step in self._steps]
        if all(step < trainer.config.steps for step, trainer in zip(self._steps, self.trainers, strict=True)):
            self._next = self._drawing.submit(self._draw, self._steps)
        return {name: value.to(self.trainers[0].device, non_blocking=True) for name, value in drawn.items()}

    def _draw(self, steps: Sequence[int]) -> dict[str, Tensor]:
        # Members that share a data seed, as those of several learning rates do, share what is drawn.
        drawn: dict[tuple[int, int], dict[str, Tensor]] = {}
        each = []
        for trainer, step in zip(self.trainers, steps, strict=True):
            key = trainer.config.data_seed, step
            if key not in drawn:
                drawn[key] = loss_arguments(trainer.config, trainer.batches[step])
            each.append(drawn[key])
        together = {name: torch.stack([one[name] for one in each]) for name in each[0]}
        return {name: value.pin_memory() for name, value in together.items()} if self.trainers[0].device.startswith("cuda") else together
