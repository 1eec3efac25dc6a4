"""How soon the command line answers, as the best of several starts, over a bare Python start.

python -m benchmarks.startup
"""

from __future__ import annotations

import subprocess
import sys
import time

CALLS = {
    "python -c pass": ["-c", "pass"],
    "import workbench": ["-c", "import workbench"],
    "workbench --help": ["-m", "workbench.cli", "--help"],
    "workbench train --help": ["-m", "workbench.cli", "train", "--help"],
    "workbench presets": ["-m", "workbench.cli", "presets"],
}
REPEATS = 5


def seconds(arguments: list[str]) -> float:
    """The time of one start."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    best = {name: min(seconds(arguments) for _ in range(REPEATS)) for name, arguments in CALLS.items()}
    bare = best["python -c pass"]
    for name, time_taken in best.items():
        print(f"{name:<24} {time_taken:6.2f} s   {time_taken / bare:5.1f} of a bare start")


if __name__ == "__main__":
    main()
