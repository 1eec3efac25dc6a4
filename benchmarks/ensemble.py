"""What training side by side gains: members of the demo's size, in two processes beside one after another.

    python -m benchmarks.ensemble [--members 8] [--steps 60] [--jobs 2] [--rounds 1]
    python -m benchmarks.ensemble --stacked 32 [--device auto] [--steps 60] [--rounds 1]

Both with the same threads for each member, in turns within one run, so that a busy machine slows them alike. Includes what a
user waits for: starting the processes, and writing the runs. A ratio above 1: side by side is faster; it should never be less.

With --stacked: one update of so many members as one program, over one update of a member alone, both on the device. Below the
number of members, the program is faster than the members in turn; on a CPU it is not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from workbench.config import RunConfig
from workbench.preset import preset
from workbench.processes import shares
from workbench.runs import Run
from workbench.training.ensemble import Member, train_members
from workbench.training.hardware import resolve_device, resolve_dtype
from workbench.training.loop import Trainer
from workbench.training.stacked import Stack

WARM_UP = 5
"""updates that are not counted"""


def seconds(members: list[Member], jobs: int) -> float:
    """The time until all members are trained."""
    started = time.perf_counter()
    train_members(members, device="cpu", jobs=jobs, progress=False)
    return time.perf_counter() - started


def step_of_a_stack(start: RunConfig, members: int, device: str, updates: int) -> float:
    """The median milliseconds of one update of so many members; of one member, by the loop that trains it alone."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as drawing:
        configs = [start.override(model={"seed": seed}, train={"data_seed": seed}) for seed in range(members)]
        trainers = [Trainer(Run.create(Path(folder, str(number)), config), device) for number, config in enumerate(configs)]
        update = trainers[0]._update if members == 1 else Stack(trainers, drawing).update
        times = []
        for _ in range(WARM_UP + updates):
            started = time.perf_counter()
            update()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[WARM_UP:])


def compare_stack(members: int, device: str, updates: int, rounds: int) -> None:
    """Print the ratio of a stack's step and one member's."""
    device = resolve_device(device)
    start = preset("trigger-bigram")
    assert start.train is not None
    # More steps than are made: the stack draws none beyond its last.
    start = start.override(train={"steps": 2 * (WARM_UP + updates), "dtype": resolve_dtype(start.train.dtype, device)})
    for number in range(rounds):
        one, all_of_them = (step_of_a_stack(start, count, device, updates) for count in (1, members))
        told = f"a step of one member {one:.1f} ms, of {members} stacked {all_of_them:.1f} ms"
        print(f"round {number + 1}, {device}: {told}: {all_of_them / one:.2f} times one member's, {members} in turn take {members} times")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--stacked", type=int, help="measure a step of so many members as one program instead")
    parser.add_argument("--device", default="auto", help="of --stacked: auto, cpu or cuda")
    arguments = parser.parse_args()
    if arguments.stacked is not None:
        compare_stack(arguments.stacked, arguments.device, arguments.steps, arguments.rounds)
        return
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
