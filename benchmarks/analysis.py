"""How long an analysis takes, over all checkpoints of a run: each section beside the bare forward passes, and the section causal
over the passes that its interventions need.

python -m benchmarks.analysis RUN [--causal-every N]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import defaultdict
from pathlib import Path

import torch

from workbench.analysis.data import AnalysisData
from workbench.analysis.interventions import run as forward
from workbench.analysis.roles import name_heads
from workbench.analysis.sections import SECTIONS, applicable, measure_of
from workbench.runs import Run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--causal-every", type=int, default=5)
    arguments = parser.parse_args()
    run = Run.load(arguments.run)
    data, model = AnalysisData.of_run(run), run.model().eval()
    formation = measure_of("formation")
    roles = name_heads(formation(model, data), data.own, data.control)
    spent: dict[str, float] = defaultdict(float)
    ratios, passes, causal_at = [], 0.0, 0
    memory = []
    for number, step in enumerate(run.steps):
        run.load_weights(model, step)
        spent["one pass"] += _seconds(lambda: forward(model, data.scoring))
        for section in applicable(SECTIONS, run.config.model, asked=False):
            if section == "causal" and number % arguments.causal_every:
                continue
            rows = []
            with torch.no_grad():
                seconds = _seconds(lambda section=section, rows=rows: rows.extend(measure_of(section)(model, data, roles)))
            spent[section] += seconds
            if section == "causal":
                needed = next(row["value"] for row in rows if row["metric"] == "forward_passes")
                bare = min(_seconds(lambda: forward(model, data.scoring)) for _ in range(3))
                ratios.append(seconds / (needed * bare))
                passes, causal_at = passes + needed, causal_at + 1
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    others = sum(seconds for section, seconds in spent.items() if section not in ("one pass", "causal"))
    for section, seconds in spent.items():
        print(f"{section:<12} {seconds:7.2f} s")
    print(f"{len(run.steps)} checkpoints, all sections but causal: {others:.1f} s")
    ratios.sort()
    print(f"causal at {causal_at} checkpoints: {passes:.0f} passes, {ratios[len(ratios) // 2]:.2f} times what they cost alone (median)")
    at = {"first": memory[0], "middle": memory[len(memory) // 2], "last": memory[-1]}
    print("peak memory in MB after a checkpoint: " + ", ".join(f"{name} {value:.0f}" for name, value in at.items()))


def _seconds(call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
