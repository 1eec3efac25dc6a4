"""How long the notebooks take: WORKBENCH_FAST=1 shrinks all of them to seconds, with numbers that mean nothing. It is read here only."""

import os
from pathlib import Path
from typing import TypeVar

Size = TypeVar("Size")

FAST = os.environ.get("WORKBENCH_FAST", "") not in ("", "0")
RUNS = Path("runs-fast" if FAST else "runs")
"""where the notebooks' runs go; what is finished there is not trained again"""


def pace(full: Size, fast: Size) -> Size:
    """A number of steps, seeds or sequences: `full`, or `fast` where WORKBENCH_FAST is set."""
    return fast if FAST else full
