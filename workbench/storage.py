"""Files that are whole or not there: written beside, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError

PART = ".part"


def is_part(path: Path) -> bool:
    """Whether `path` is what an interrupted write left behind."""
    return path.name.startswith(".") and path.name.endswith(PART)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or fill a folder at; it is renamed to `path` when the block ends well, and
    removed otherwise. Raises WorkbenchError, in one line, where the disk refuses."""
    part, old = (path.with_name(f".{path.name}.{os.getpid()}{ending}") for ending in (PART, f".old{PART}"))
    try:
        try:
            remove(part)
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            for written in [*part.rglob("*"), part]:
                _flush(written)
            if part.is_dir() and path.is_dir():
                # No system call replaces a folder that is not empty. It leaves by a rename, so that it is never there in part.
                os.replace(path, old)
            os.replace(part, path)
            _flush(path.parent)
        finally:
            remove(part)
            if old.exists() and not path.exists():
                os.replace(old, path)
            remove(old)
    except OSError as error:
        raise WorkbenchError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once."""
    with beside(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file at once."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk, so that a rename never outruns its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard_parts(folder: Path) -> None:
    """Remove what interrupted writes left in a folder."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if is_part(entry):
            remove(entry)


def remove(path: Path) -> None:
    """Delete a file, or a folder with everything in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
