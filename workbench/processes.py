"""Several pieces of work side by side, each in a process of its own: one display for all, one Ctrl-C, and a failure that stops
nobody else.

Processes are forked from a server that has imported torch and done nothing with it (torch does not survive a fork of a process
that has computed); where there is no such server, they start afresh.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from workbench.errors import UsageError, WorkbenchError

PRELOADED = ["workbench.processes", "workbench.training.loop", "torch._dynamo"]
"""what the server imports once for all processes; the last is what torch imports at the first update"""
REPORTED_EVERY = 0.2
"""seconds between two words from a process"""
LOGGED_EVERY = 20.0
"""seconds between two lines of a display that is no terminal"""
NAMED = 16
"""pieces of work that a line of the display names"""

Status = Literal["waiting", "running", "done", "failed", "stopped"]


Watch = Callable[[int, str], bool]
"""what work calls as it goes on: how far it is, and in words; the answer is True where it should stop"""


@dataclass
class Job:
    """A piece of work: `function(*arguments, watch)`, which can be pickled, and how many steps it has; then what became of it."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    total: int
    status: Status = "waiting"
    done: int = 0
    text: str = ""
    """how it goes; of a job that failed, why"""
    result: Any = None


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    connection: Connection


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(jobs: int | None, members: int) -> tuple[int, int]:
    """How many processes run at once, and the threads of each: at most `jobs` (default: the cores) and as many as there are
    members; the cores (or OMP_NUM_THREADS, where that is less) are shared out. Raises UsageError for fewer than one job.

    >>> shares(3, 1)[0]
    1
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {jobs}")
    at_once = max(1, min(jobs or cores(), members))
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    most = int(wanted) if wanted.isdigit() and int(wanted) else cores()
    return at_once, max(1, min(cores() // at_once, most))


def warm_up() -> None:
    """Start the server that processes are forked from, and do not wait for it."""
    if _context().get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        ensure_running()


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    threads: int,
    *,
    unit: str = "step",
    progress: bool = True,
    finished: Callable[[Job], None] = lambda job: None,
) -> None:
    """Do all jobs, `at_once` at a time, with so many threads each; their status, text and result say what became of them.

    `finished` is called in this process after each one. The first Ctrl-C asks all to stop, which they do at their next word; the
    second ends them at once. Raises KeyboardInterrupt after either.
    """
    context = _context()
    stop = context.Event()
    display = Display(jobs, unit, progress)
    waiting = [job for job in jobs if job.status == "waiting"]
    running: list[_Running] = []
    interrupted = False
    try:
        while waiting or running:
            try:
                while waiting and len(running) < at_once and not stop.is_set():
                    running.append(_start(context, waiting[0], threads, stop))
                    waiting.pop(0)
                if not running:
                    break
                for ended in _hear(running, stop):
                    running.remove(ended)
                    display.ended(ended.job)
                    with display.aside():
                        finished(ended.job)
                display.show()
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                stop.set()
                display.say("stopping: each run saves where it is (Ctrl-C again: at once)")
    finally:
        for one in running:
            one.process.kill()
            one.process.join()
            one.job.status = "stopped"
        display.close()
    if interrupted:
        raise KeyboardInterrupt


def _context() -> Any:
    """Fork from a server where the system has one."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    return context


def _start(context: Any, job: Job, threads: int, stop: Any) -> _Running:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job.function, job.arguments, theirs, threads, stop), name=job.name)
    process.start()
    theirs.close()
    job.status = "running"
    return _Running(job, process, ours)


def _hear(running: Sequence[_Running], stop: Any) -> list[_Running]:
    """Take what the processes say, for a while; gives those that have ended."""
    ended = []
    heard = multiprocessing.connection.wait([one.connection for one in running], timeout=0.5)
    for one in running:
        if one.connection not in heard:
            continue
        job = one.job
        try:
            kind, *rest = one.connection.recv()
        except (EOFError, OSError):
            one.process.join()
            if job.status == "running":
                status = one.process.exitcode
                job.status = "stopped" if stop.is_set() else "failed"
                job.text = (
                    f"its process was killed by signal {-status}" if status and status < 0 else f"its process ended with status {status}"
                )
            one.connection.close()
            ended.append(one)
            continue
        if kind == "step":
            job.done, job.text = rest
        elif kind == "done":
            job.status, job.done, job.result = "done", job.total, rest[0]
        else:
            job.status, job.text = kind, rest[0]
    return ended


def _work(function: Callable[..., Any], arguments: tuple[Any, ...], connection: Connection, threads: int, stop: Any) -> None:
    """One job, in its process. Ctrl-C in a terminal reaches every process: here only the one that started all answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(threads)
    last = -REPORTED_EVERY

    def watch(done: int, text: str) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORTED_EVERY:
            last = now
            try:
                connection.send(("step", done, text))
            except OSError:  # nobody is there any more to hear how it ends
                return True
        return stop.is_set()

    try:
        if stop.is_set():
            raise KeyboardInterrupt("not begun")
        answer: tuple[Any, ...] = ("done", function(*arguments, watch))
    except KeyboardInterrupt as error:
        answer = ("stopped", str(error))
    except WorkbenchError as error:
        answer = ("failed", str(error))
    except BaseException as error:
        traceback.print_exc()
        answer = ("failed", f"{type(error).__name__}: {error}")
    with suppress(OSError):
        connection.send(answer)
    connection.close()


@dataclass
class Display:
    """How all jobs are getting on, on stderr: a bar in a terminal, in a file a line now and then, and one for each that ends."""

    jobs: Sequence[Job]
    unit: str
    progress: bool
    _bar: Any = field(init=False, default=None)
    _logged: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.progress and sys.stderr.isatty():
            from tqdm import tqdm

            total = sum(job.total for job in self.jobs)
            self._bar = tqdm(total=total, initial=self._steps(), file=sys.stderr, dynamic_ncols=True, unit=self.unit, desc=self._count())

    def show(self) -> None:
        """Bring the display up to date."""
        if self._bar is not None:
            self._bar.set_description(self._count(), refresh=False)
            self._bar.set_postfix_str(self._state(), refresh=False)
            self._bar.update(self._steps() - self._bar.n)
        elif time.monotonic() - self._logged >= LOGGED_EVERY:
            self._logged = time.monotonic()
            self.say(f"{self._count()}; {self._state()}")

    def ended(self, job: Job) -> None:
        """Say what became of a job."""
        words = {"done": "done", "failed": f"failed: {job.text}", "stopped": job.text or "stopped"}
        self.say(f"{job.name}: {words.get(job.status, job.status)} ({self._count()})")

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if not self.progress:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def aside(self) -> AbstractContextManager[Any]:
        """Room for what others print."""
        return self._bar.external_write_mode(file=sys.stdout) if self._bar is not None else nullcontext()

    def close(self) -> None:
        """Leave the terminal as it should be."""
        if self._bar is not None:
            self._bar.close()

    def _steps(self) -> int:
        return sum(job.done for job in self.jobs)

    def _count(self) -> str:
        return f"{sum(job.status == 'done' for job in self.jobs)} of {len(self.jobs)} done"

    def _state(self) -> str:
        running = [job for job in self.jobs if job.status == "running"]
        named = "; ".join(f"{job.name}: {self.unit} {job.done} of {job.total}{f', {job.text}' * bool(job.text)}" for job in running[:NAMED])
        return named + f"; and {len(running) - NAMED} more" * (len(running) > NAMED)
