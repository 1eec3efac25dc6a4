"""How text stands in a terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable

WIDEST = 110


def paragraphs(lines: Iterable[str], indent: str = "  ") -> str:
    """Sentences, one a line, indented; folded to the terminal's width where there is one, so that a file keeps whole lines."""
    if not sys.stdout.isatty():
        return "\n".join(f"{indent}{line}" for line in lines)
    width = min(shutil.get_terminal_size().columns, WIDEST)
    return "\n".join(textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent * 2) for line in lines)
