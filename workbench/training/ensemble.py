"""Training the members of an ensemble: variants, seeds and learning rates of one call, each an ordinary run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from workbench.config import RunConfig
from workbench.errors import UsageError, WorkbenchError
from workbench.processes import Job, Watch, run_jobs, shares, warm_up
from workbench.runs import Run


@dataclass(frozen=True)
class Member:
    """One run of an ensemble: its configuration and its folder."""

    config: RunConfig
    path: Path

    @property
    def name(self) -> str:
        """How a display calls it."""
        return f"{self.config.model.variant}, seed {self.config.model.seed}"

    @property
    def finished(self) -> bool:
        """Whether its run is there and has reached its last step."""
        return Run.is_run(self.path) and Run.load(self.path).finished


def seeds_of(text: str) -> list[int]:
    """The seeds that a text such as 0:8 (0 to 7) or 1,5,9 names; none for any other text.

    >>> seeds_of("0:3"), seeds_of("1,5"), seeds_of("a")
    ([0, 1, 2], [1, 5], [])
    """
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return list(range(int(match[1]), int(match[2])))
    return [int(part) for part in text.split(",")] if re.fullmatch(r"\d+(,\d+)*", text) else []


Engine = Literal["auto", "processes", "stacked"]


def train_members(
    members: Sequence[Member],
    *,
    device: str = "auto",
    jobs: int | None = None,
    engine: Engine = "auto",
    resume: bool = False,
    progress: bool = True,
    trained: Callable[[Member], None] = lambda member: None,
) -> None:
    """Train all members, several at a time. `trained` is called after each.

    Engine `processes`: each is bit for bit the run that it is when trained alone with as many threads. `jobs`: processes at once, which
    share the cores; by default as many as there are cores, on a GPU one; 1 trains one after another in this process. Engine `stacked`:
    members that differ only in seeds and learning rate are one batched program, each up to rounding the run that it is alone. `auto`:
    stacked on a GPU, unless `jobs` says how many processes. A member that fails stops no other. With `resume`, finished members are
    left as they are and others go on. (A script that calls this needs the usual `if __name__ == "__main__":`, as processes may
    import it.)

    Raises:
        UsageError, ConfigError: a member's folder is taken, before anything is trained; or `jobs` given for the engine stacked.
        WorkbenchError: members failed; the others are trained. A single member's own error comes as it is.
        KeyboardInterrupt: Ctrl-C stopped them, each with a checkpoint.
    """
    for member in members:
        Run.expected(member.path, member.config, resume=resume)
    if engine == "stacked" and jobs is not None:
        raise UsageError(f"--jobs {jobs} is a number of processes, but --engine stacked trains in one; give one of the two")
    at_once, threads = shares(jobs, len(members))
    if engine != "stacked" and at_once > 1:
        warm_up()
    if len(members) > 1:
        from workbench.training.hardware import resolve_device

        device = resolve_device(device)
    on_gpu = jobs is None and not device.startswith("cpu")
    if len(members) > 1 and (engine == "stacked" or (engine == "auto" and on_gpu)):
        from workbench.training.stacked import run_stacked

        run: _Engine = partial(run_stacked, members, device=device, resume=resume)
        failed = _together(members, device, resume, progress, trained, run)
    elif at_once == 1 or on_gpu:
        failed = _in_turn(members, device, resume, progress, trained)
    else:
        run = partial(run_jobs, at_once=at_once, threads=threads)
        failed = _together(members, device, resume, progress, trained, run)
    if failed:
        listed = "; ".join(f"{member.path}: {why}" for member, why in failed[:4]) + ("; ..." if len(failed) > 4 else "")
        raise WorkbenchError(f"{len(failed)} of {len(members)} runs failed: {listed}")


Failures = list[tuple[Member, str]]
_Engine = Callable[..., None]
"""what is called with the jobs, `progress` and `finished`, and does them"""


def _in_turn(members: Sequence[Member], device: str, resume: bool, progress: bool, trained: Callable[[Member], None]) -> Failures:
    from workbench.training.loop import train

    failed: Failures = []
    for member in members:
        try:
            train(member.config, member.path, resume=resume, device=device, progress=progress)
        except WorkbenchError as error:
            if len(members) == 1:
                raise
            failed.append((member, str(error)))
            continue
        trained(member)
    return failed


def _together(
    members: Sequence[Member], device: str, resume: bool, progress: bool, trained: Callable[[Member], None], run: _Engine
) -> Failures:
    jobs, of_job = [], {}
    for member in members:
        assert member.config.train is not None
        job = Job(member.name, _train, (member.config, member.path, resume, device), member.config.train.steps)
        if resume and member.finished:
            job.status, job.done = "done", job.total
        of_job[id(job)] = member
        jobs.append(job)
    for job in jobs:
        if job.status == "done":
            trained(of_job[id(job)])
    try:
        run(jobs, progress=progress, finished=partial(_pass_on, of_job, trained))
    except KeyboardInterrupt:
        done = sum(job.status == "done" for job in jobs)
        raise KeyboardInterrupt(f"stopped: {done} of {len(jobs)} runs are done; the same command with --resume goes on") from None
    return [(of_job[id(job)], job.text) for job in jobs if job.status == "failed"]


def _pass_on(of_job: dict[int, Member], trained: Callable[[Member], None], job: Job) -> None:
    if job.status == "done":
        trained(of_job[id(job)])


def _train(config: RunConfig, path: Path, resume: bool, device: str, watch: Watch) -> None:
    """One member, in its process."""
    from workbench.training.loop import train

    train(config, path, resume=resume, device=device, progress=False, watch=watch)
