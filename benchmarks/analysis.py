"""How long an analysis takes: every section over all checkpoints of a run, over the cost of the bare forward passes.

python -m benchmarks.analysis RUN
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from workbench.analysis.data import AnalysisData
from workbench.analysis.sweep import analyze
from workbench.evaluation import evaluate
from workbench.runs import Run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = Run.load(parser.parse_args().run)
    data, model = AnalysisData.of_run(run), run.model()
    for batch in data.batches.values():
        evaluate(model, batch)
    started = time.perf_counter()
    for step in run.steps:
        run.load_weights(model, step)
        for batch in data.batches.values():
            evaluate(model, batch)
    bare = time.perf_counter() - started
    started = time.perf_counter()
    analyze(run, write=False)
    full = time.perf_counter() - started
    print(f"{len(run.steps)} checkpoints: {full:.1f} s, {full / bare:.2f} of loading them and running the same sequences once")


if __name__ == "__main__":
    main()
