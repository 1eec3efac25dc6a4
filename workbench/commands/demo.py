"""`workbench demo`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from workbench.commands.terminal import paragraphs
from workbench.preset import preset
from workbench.runs import Run

CAUSAL_EVERY = 5
"""the demo ablates heads at every fifth checkpoint: at all of them it would take most of its time"""


def demo(
    *,
    out: Annotated[Path, Parameter(help="folder of the two runs and the report")] = Path("runs/demo"),
    steps: Annotated[int | None, Parameter(help="optimiser updates; default: the preset's")] = None,
) -> None:
    """Train a vanilla and a value-stream model on trigger bigrams, analyse all checkpoints, write and name the report.

    A demo that was interrupted goes on where it stopped; one that is complete is only analysed again.
    """
    from workbench.analysis.sweep import analyze
    from workbench.commands.train import plan
    from workbench.report.build import write_report
    from workbench.training.loop import train

    start = preset("trigger-bigram")
    if steps is not None:
        start = start.override(train={"steps": steps})
    runs: list[Run] = []
    for member in plan(start, ["none", "value"], [None], out, out):
        run = train(member.config, member.path, resume=True)
        analyze(run, causal_every=CAUSAL_EVERY, progress=True)
        runs.append(run)
        print(f"{run.config.model.variant}:")
        print(paragraphs((run.summary() or {})["lines"]))
    report = write_report(runs, out / "report.html")
    print(f"report: {report.resolve()}")
