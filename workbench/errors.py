"""Errors that a user can act on: each is one or two plain lines, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WorkbenchError(Exception):
    """A failure with a message fit for a terminal. The command line ends with `exit_status`."""

    exit_status = 1


class UsageError(WorkbenchError):
    """The call itself is wrong: an unknown name, a bad value, a path that is not what it should be."""

    exit_status = 2


class ConfigError(UsageError):
    """A configuration that cannot be: unknown key, wrong type, or an impossible combination."""


class CheckpointError(WorkbenchError):
    """A checkpoint or run on disk that is damaged, incomplete, or not the one that was expected."""


class DivergedError(WorkbenchError):
    """Training produced a number that is not finite."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in `known`, with the nearest names (or all, where none is near)."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")
