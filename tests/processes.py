"""Training in other processes, which may be killed: forked from a server that has imported torch once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from workbench.config import RunConfig
from workbench.training.loop import Interrupted, train

INTERRUPTED = 42
context = multiprocessing.get_context("forkserver")
# The last is what torch imports at the first update.
context.set_forkserver_preload([__name__, "workbench.tasks.trigger_bigram", "torch._dynamo"])


def start(config: RunConfig, out: Path, die_before: int | None = None) -> BaseProcess:
    """Train, or go on, in another process. `die_before`: it kills itself before its n-th change of the disk."""
    process = context.Process(target=_work, args=(config, out, die_before))
    process.start()
    return process


def finish(config: RunConfig, out: Path) -> None:
    """Train, or go on, to the end."""
    process = start(config, out)
    process.join(60)
    assert process.exitcode == 0, f"exit status {process.exitcode}"


def _work(config: RunConfig, out: Path, die_before: int | None) -> None:
    torch.set_num_threads(1)
    if die_before is not None:
        _die_before(die_before)
    try:
        train(config, out, resume=True, progress=False, device="cpu")
    except Interrupted:
        os._exit(INTERRUPTED)


def _die_before(number: int) -> None:
    """Kill this process before its n-th writing, flushing, renaming, making or deleting of a file or folder."""
    count = 0

    def wrapped(call, counts=lambda *_: True):
        def counted(*args, **kwargs):
            nonlocal count
            count += counts(*args)
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted

    for name in ("fsync", "replace", "unlink", "rmdir", "mkdir"):
        setattr(os, name, wrapped(getattr(os, name)))
    Path.open = wrapped(Path.open, lambda _, mode="r", *__: mode[0] in "wa")  # type: ignore[method-assign]
