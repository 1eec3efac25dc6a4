"""What training side by side gains: members of the demo's size, in two processes beside one after another.

    python -m benchmarks.ensemble [--members 8] [--steps 60] [--jobs 2] [--rounds 1]

Both with the same threads for each member, in turns within one run, so that a busy machine slows them alike. Includes what a
user waits for: starting the processes, and writing the runs. A ratio above 1: side by side is faster; it should never be less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from workbench.preset import preset
from workbench.processes import shares
from workbench.training.ensemble import Member, train_members


def seconds(members: list[Member], jobs: int) -> float:
    """The time until all members are trained."""
    started = time.perf_counter()
    train_members(members, device="cpu", jobs=jobs, progress=False)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    _, threads = shares(arguments.jobs, arguments.members)
    default = torch.get_num_threads()
    start = preset("trigger-bigram").override(train={"steps": arguments.steps})
    for number in range(arguments.rounds):
        times: dict[str, float] = {}
        for name, jobs, own in (("side by side", arguments.jobs, threads), ("in turn", 1, threads), ("in turn, all threads", 1, default)):
            torch.set_num_threads(own)
            with tempfile.TemporaryDirectory() as folder:
                members = [
                    Member(start.override(model={"seed": seed}, train={"data_seed": seed}), Path(folder, str(seed)))
                    for seed in range(arguments.members)
                ]
                times[name] = seconds(members, jobs)
        told = ", ".join(f"{name} {spent:.1f} s" for name, spent in times.items())
        slowest = [times[name] / times["side by side"] for name in times if name != "side by side"]
        print(
            f"round {number + 1}: {told}; side by side is {slowest[0]:.2f} times as fast, {slowest[1]:.2f} times with all threads in turn"
        )


if __name__ == "__main__":
    main()
