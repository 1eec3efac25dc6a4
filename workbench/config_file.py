"""Reading the YAML files that people write: errors that name the file, the line and what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from workbench.errors import ConfigError


def read_text(path: Path, what: str) -> str:
    """The text of a file, which an error calls `what`. Raises ConfigError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error


def parsed_yaml(text: str, where: str) -> Any:
    """The values of a YAML text; `where` names the file in errors. Raises ConfigError for what is no YAML."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', None) or 'unreadable'}") from error
