"""What the section hijack costs beside the forward passes of its prompts.

python -m benchmarks.hijack RUN [--prompts 2000]

Prints the time a checkpoint, what 40 checkpoints take, and the ratio to one plain pass over the prompts,
measured in turn. RUN is a trained run of the task trigger-bigram, such as the demo's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from workbench import Run
from workbench.analysis import formation, hijack_measure
from workbench.analysis.data import AnalysisData
from workbench.analysis.hijack_answers import margins_of
from workbench.analysis.roles import name_heads
from workbench.tasks.hijack import Prompts

ROUNDS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=2000)
    arguments = parser.parse_args()
    run, wanted = Run.load(arguments.run), arguments.prompts
    model, data = run.model(), AnalysisData.of_run(run)
    assert data.hijack_prompts is not None, "the benchmark needs a run of the task trigger-bigram"
    data = _with_prompts(data, _repeated(data.hijack_prompts, wanted))
    roles = name_heads(formation.measure(model, data), data.own, data.control)
    section, plain = [], []
    for _ in range(ROUNDS):
        section.append(_time(lambda: list(hijack_measure.measure(model, data, roles))))
        plain.append(_time(lambda: margins_of(model, data.hijack_prompts)))
    each, alone = statistics.median(section), statistics.median(plain)
    print(f"{wanted} prompts: {each:.2f} s a checkpoint, {40 * each:.1f} s for 40; {each / alone:.2f} times one pass over the prompts")
    print(f"({torch.get_num_threads()} threads)")


def _repeated(prompts: Prompts, n: int) -> Prompts:
    rows = torch.arange(n) % len(prompts)
    return Prompts(prompts.tokens[rows], {name: values[rows] for name, values in prompts.design.items()}, prompts.log_odds[rows])


def _with_prompts(data: AnalysisData, prompts: Prompts) -> AnalysisData:
    other = replace(data)
    other.__dict__["hijack_prompts"] = prompts
    return other


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
