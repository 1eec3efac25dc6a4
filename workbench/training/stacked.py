"""Members of an ensemble that have one shape, trained as one batched program: what a GPU, which one small model leaves idle, is for.

Every member is an ordinary run with a trainer of its own, which evaluates, logs and saves it; only the update (and the evaluation
of several) is made for all together, on parameters stacked along a first axis. So a member can be resumed alone, and a run that
was begun alone can go on in a stack. It equals the same run trained alone up to the rounding of matrix products; of the seconds that
an update of all takes, each run logs its share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from workbench.config import RunConfig
from workbench.errors import WorkbenchError
from workbench.evaluation import evaluate
from workbench.processes import REPORTED_EVERY, Display, Job, Status
from workbench.runs import Run
from workbench.training.ensemble import Member
from workbench.training.hardware import resolve_dtype
from workbench.training.interrupt import stop_on_interrupt
from workbench.training.loop import Interrupted, Trainer, open_run
from workbench.training.stack import Stack

MEMBERS_AT_ONCE = 32
"""members in one program; more are trained program after program"""


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
