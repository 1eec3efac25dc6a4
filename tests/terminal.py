"""Typing a command: each in a process of its own, forked off one that has the heavy libraries loaded already.

What starting a fresh interpreter changes (imports, the installed script) is tested once, in test_cli.py.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.terminal", "workbench.training.loop", "workbench.analysis.formation", "workbench.analysis.sweep"])


@dataclass(frozen=True)
class Answer:
    """What a command answered. `stderr` holds carriage returns as written: a progress bar is one line."""

    status: int
    stdout: str
    stderr: str


def type_command(arguments: Sequence[str], folder: Path, answers: Path) -> Answer:
    """Run `workbench ARGUMENTS` in `folder`; what it prints is kept in the folder `answers`."""
    out, err = answers / "stdout", answers / "stderr"
    process = SERVER.Process(target=_run, args=(list(arguments), folder, out, err))
    process.start()
    process.join(120)
    assert process.exitcode is not None, f"workbench {' '.join(arguments)} does not end"
    return Answer(process.exitcode, *(file.read_bytes().decode() for file in (out, err)))


def _run(arguments: list[str], folder: Path, out: Path, err: Path) -> None:
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)

    from workbench.cli import main

    main(arguments)
