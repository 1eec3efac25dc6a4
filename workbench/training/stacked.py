"""Members of an ensemble that have one shape, trained as one batched program: what a GPU, which one small model leaves idle, is for.

Every member is an ordinary run with a trainer of its own, which evaluates, logs and saves it; only the update (and the evaluation
of several) is made for all together, on parameters stacked along a first axis. So a member can be resumed alone, and a run that
was begun alone can go on in a stack. It equals the same run trained alone up to the rounding of matrix products; of the seconds that
an update of all takes, each run logs its share.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from workbench.config import RunConfig, TrainConfig
from workbench.errors import WorkbenchError
from workbench.evaluation import Evaluation, evaluate
from workbench.processes import REPORTED_EVERY, Display, Job, Status
from workbench.runs import Run
from workbench.tasks.base import Batch
from workbench.training.ensemble import Member
from workbench.training.hardware import arithmetic, resolve_dtype
from workbench.training.interrupt import stop_on_interrupt
from workbench.training.loop import Interrupted, Trainer, loss_arguments, open_run
from workbench.training.optimizer import optimizer_over
from workbench.training.schedule import learning_rate

MEMBERS_AT_ONCE = 32
"""members in one program; more are trained program after program"""
COUNT = "step"
"""AdamW's number of updates: the one entry of its state that is not shaped like the parameter"""


def programs(members: Sequence[Member], device: str) -> list[list[Member]]:
    """The members that are trained together: those that differ in nothing but seeds and learning rate, at most MEMBERS_AT_ONCE.

    With dropout each comes alone: its random numbers are those of the run trained alone, one model at a time.
    """
    alike: dict[RunConfig, list[Member]] = {}
    for member in members:
        shape = _settled(member, device).override(model={"seed": 0}, train={"data_seed": 0, "lr": 1.0})
        alike.setdefault(shape, []).append(member)
    found = []
    for shape, same in alike.items():
        size = 1 if shape.model.dropout else MEMBERS_AT_ONCE
        found += [same[start : start + size] for start in range(0, len(same), size)]
    return found


def _settled(member: Member, device: str) -> RunConfig:
    """A member's configuration with the arithmetic that it is, or will be, trained in."""
    if Run.is_run(member.path):
        return Run.load(member.path).config
    assert member.config.train is not None
    return member.config.override(train={"dtype": resolve_dtype(member.config.train.dtype, device)})


def run_stacked(
    members: Sequence[Member],
    jobs: Sequence[Job],
    *,
    device: str,
    resume: bool = False,
    progress: bool = True,
    finished: Callable[[Job], None] = lambda job: None,
) -> None:
    """Train the members whose job is waiting, program after program; the jobs' status and text say what became of each.

    `finished` is called after each. The first Ctrl-C saves the members of the program that runs, the second ends it at once.
    Raises KeyboardInterrupt after either.
    """
    display = Display(jobs, "step", progress)
    of_member = dict(zip(members, jobs, strict=True))

    def ended(job: Job, status: Status, text: str) -> None:
        job.status, job.text = status, text
        display.ended(job)
        with display.aside():
            finished(job)

    waiting = [member for member, job in of_member.items() if job.status == "waiting"]
    try:
        for together in programs(waiting, device):
            if len(together) == 1:
                _alone(of_member[together[0]], display, ended)
            else:
                _Program([(member, of_member[member]) for member in together], device, resume, display, ended).train()
    finally:
        for job in jobs:
            if job.status == "running":
                job.status = "stopped"
        display.close()


Ended = Callable[[Job, Status, str], None]
"""what is told that a job has ended, how, and why"""


def _alone(job: Job, display: Display, ended: Ended) -> None:
    """The job as a process would do it, in this one."""
    shown = time.monotonic()

    def watch(done: int, text: str) -> bool:
        nonlocal shown
        job.done, job.text = done, text
        if time.monotonic() - shown >= REPORTED_EVERY:
            shown = time.monotonic()
            display.show()
        return False

    job.status = "running"
    try:
        job.function(*job.arguments, watch)
    except Interrupted as stop:
        ended(job, "stopped", str(stop))
        raise
    except WorkbenchError as error:
        ended(job, "failed", str(error))
    else:
        job.done = job.total
        ended(job, "done", job.text)


@dataclass(eq=False)
class _Seat:
    """A member in a program: its trainer, and the claim on its folder."""

    job: Job
    trainer: Trainer
    claim: ExitStack


class _Program:
    """Members trained together, until each has finished, failed or been stopped."""

    def __init__(self, members: Sequence[tuple[Member, Job]], device: str, resume: bool, display: Display, ended: Ended) -> None:
        self.members, self.device, self.resume = members, device, resume
        self.display, self.ended = display, ended
        self.live: list[_Seat] = []
        self._shown = 0.0

    def train(self) -> None:
        """Train them all. Raises KeyboardInterrupt where they were stopped."""
        with ExitStack() as claims, stop_on_interrupt() as wish, ThreadPoolExecutor(1) as drawing:
            for member, job in self.members:
                self._open(member, job, claims)
            # Members of one learning rate that have come equally far stand in a row: one optimiser serves them.
            self.live.sort(key=lambda seat: (seat.trainer.config.lr, seat.trainer.step))
            while self.live:
                seats = list(self.live)
                try:
                    stack = Stack([seat.trainer for seat in seats], drawing)
                    # One that leaves takes its slice along: the others are stacked anew.
                    while len(self.live) == len(seats):
                        self._step(stack, seats, wish.is_set)
                    stack.return_states()
                except torch.OutOfMemoryError:
                    text = f"the GPU's memory does not hold {len(seats)} members at once; --engine processes --resume trains one by one"
                    for seat in list(self.live):
                        self._leave(seat, "failed", text)
            if wish.is_set():
                raise KeyboardInterrupt

    def _open(self, member: Member, job: Job, claims: ExitStack) -> None:
        claim = claims.enter_context(ExitStack())
        try:
            run = open_run(member.config, member.path, resume=self.resume, device=self.device)
            claim.enter_context(run.lock())
            trainer = Trainer(run, self.device)
            trainer.restore()
            trainer.begin()
        except WorkbenchError as error:
            claim.close()
            self.ended(job, "failed", str(error))
            return
        job.status, job.done = "running", trainer.step
        self.live.append(_Seat(job, trainer, claim))

    def _step(self, stack: Stack, seats: Sequence[_Seat], wished: Callable[[], bool]) -> None:
        """One update of all, and what is due after it for each."""
        started = time.perf_counter()
        losses = stack.update()
        seconds = (time.perf_counter() - started) / len(seats)
        for seat, loss in zip(seats, losses, strict=True):
            with self._leaving_on_error(seat):
                seat.trainer.require_finite(loss, "the loss")
                seat.trainer.count(loss, seconds)
                seat.job.done = seat.trainer.step
        self._evaluate(stack, seats)
        if time.monotonic() - self._shown >= REPORTED_EVERY:
            self._shown = time.monotonic()
            self.display.show()
        stopping = wished()
        if stopping:
            self.display.say("stopping: each run saves where it is (Ctrl-C again: at once)")
        if any(seat.trainer.save_due(stopping) for seat in self.live):
            stack.return_states()
        for seat in list(self.live):
            with self._leaving_on_error(seat):
                seat.trainer.save_where_due(stopping)
                if seat.trainer.step == seat.trainer.config.steps:
                    self._leave(seat, "done", seat.job.text)

    def _evaluate(self, stack: Stack, seats: Sequence[_Seat]) -> None:
        due = [number for number, seat in enumerate(seats) if seat in self.live and seat.trainer.evaluation_due]
        all_found = stack.evaluations() if len(due) > 1 else None
        for number in due:
            seat = seats[number]
            with self._leaving_on_error(seat):
                trainer = seat.trainer
                found = all_found[number] if all_found else [evaluate(trainer.model, batch) for batch in trainer.evaluated_on]
                trainer.log(found)
                seat.job.text = trainer.evaluated

    @contextmanager
    def _leaving_on_error(self, seat: _Seat) -> Iterator[None]:
        """What goes wrong with one member ends that one alone."""
        try:
            yield
        except Interrupted as stop:
            self._leave(seat, "stopped", str(stop))
        except WorkbenchError as error:
            self._leave(seat, "failed", str(error))

    def _leave(self, seat: _Seat, status: Status, text: str) -> None:
        self.live.remove(seat)
        seat.claim.close()
        self.ended(seat.job, status, text)


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
                part.append(Evaluation.of_logits(found, rows.targets))
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
