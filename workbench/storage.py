"""Files that are whole or not there: written beside, then renamed."""

from __future__ import annotations

import hashlib
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
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        try:
            remove(part)
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            _flush(part)
            if part.is_dir() and path.is_dir():
                remove(path)
            os.replace(part, path)
            _flush(path.parent)
        finally:
            remove(part)
    except OSError as error:
        raise WorkbenchError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once."""
    with beside(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file at once."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """The hash of a file's content, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Bring a file, or a folder with its files, to the disk, so that a rename never outruns its content."""
    for entry in [*path.iterdir(), path] if path.is_dir() else [path]:
        if entry.is_dir() and entry != path:
            continue
        descriptor = os.open(entry, os.O_RDONLY)
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
