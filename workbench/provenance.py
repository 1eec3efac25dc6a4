"""Where a run came from: versions, the state of the source, the machine, the command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("workbench", "torch", "transformer-lens", "numpy", "safetensors", "pandas")


def provenance(**more: Any) -> dict[str, Any]:
    """What a reader needs to repeat a run, as plain values; `more` is added (seeds, device, fingerprint, ...)."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "source": _source(),
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        **more,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _source() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that this package is imported from; None outside a checkout."""
    file = Path(__file__).resolve()
    here = file.parent
    # An installed package may lie inside somebody's repository without being part of it.
    commit = _git(here, "rev-parse", "HEAD") if _git(here, "ls-files", "--error-unmatch", file.name) else None
    if commit is None:
        return None
    return {"commit": commit, "uncommitted_changes": bool(_git(here, "status", "--porcelain", "--untracked-files=no"))}


def _git(where: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
