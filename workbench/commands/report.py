"""`workbench report`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from workbench.errors import UsageError
from workbench.runs import Run


def report(
    targets: Annotated[list[Path], Parameter(help="runs that have been analysed, or folders of them")],
    *,
    out: Annotated[Path | None, Parameter(help="the HTML file; default: report.html in the first folder")] = None,
) -> None:
    """Write the report of one or several analysed runs, side by side: one HTML file that needs nothing else."""
    runs = []
    for target in targets:
        if not target.exists():
            raise UsageError(f"there is no {target}")
        found = Run.find(target)
        if not found:
            raise UsageError(f"{target} is not a run and holds none (a run has a config.yaml)")
        runs += found
    for run in runs:
        if run.summary() is None:
            raise UsageError(f"{run.path} has not been analysed; run: workbench analyze {run.path}")

    from workbench.report.build import write_report

    print(write_report(runs, out or targets[0] / "report.html"))
