"""`workbench analyze`"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from workbench.analysis.sections import EMERGENCE, SECTIONS, all_metrics, applicable, chosen
from workbench.commands.terminal import paragraphs
from workbench.errors import UsageError, WorkbenchError
from workbench.processes import Job, Watch, run_jobs, shares, warm_up
from workbench.runs import Run
from workbench.tables import Tables

if TYPE_CHECKING:
    import pandas as pd

NAMES = [*SECTIONS, EMERGENCE]


def analyze(
    target: Annotated[Path, Parameter(help="a run, one of its checkpoints, or a folder of runs")],
    *,
    out: Annotated[Path | None, Parameter(help="where tables and report go; default: into the run")] = None,
    only: Annotated[str | None, Parameter(help=f"sections ({', '.join(NAMES)}) or metrics, separated by commas; default: all")] = None,
    causal_every: Annotated[int, Parameter(help="measure the section causal, the slowest, at every n-th checkpoint")] = 1,
    device: Annotated[str, Parameter(help="cpu or cuda")] = "cpu",
    jobs: Annotated[int | None, Parameter(help="runs analysed at once, which share the cores; default: the cores (on a GPU 1)")] = None,
    json_output: Annotated[bool, Parameter(name="--json", help="print the summary and the files as JSON")] = False,
) -> None:
    """Measure a run over all its checkpoints, one checkpoint, or every run of a folder.

    Prints an account of the run, writes tidy tables (parquet and CSV, one for each section) and one self-contained
    report.html. On a checkpoint folder, tables and report go to <run>/analysis/<checkpoint>/.
    """
    only_names = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    runs, steps = _targets(target)
    if causal_every < 1:
        raise UsageError(f"--causal-every must be at least 1, got {causal_every}")
    several = len(runs) > 1
    only_of = _asked_of(runs, only_names)
    runs = [run for run in runs if run.path in only_of]
    for run in runs:
        _place(run, out and out / run.path.relative_to(target) if several else out, step=steps[0] if steps else None)

    at_once, threads = shares(jobs if jobs is not None or device == "cpu" else 1, len(runs))
    if at_once > 1:
        warm_up()

    from workbench.report.build import write_report
    from workbench.training.hardware import resolve_device

    options = {"causal_every": causal_every, "device": resolve_device(device)}
    if at_once > 1:
        results = _side_by_side(runs, only_of, options, at_once, threads)
    else:
        from workbench.analysis.sweep import analyze as measure

        results = [measure(run, only=only_of[run.path], steps=steps, progress=True, **options) for run in runs]
    report = write_report(runs, _report_path(target, runs, out, bool(steps)))
    if json_output:
        print(json.dumps([_as_json(run, report) for run in runs], indent=2))
        return
    for run, result in zip(runs, results, strict=True):
        print(_described(run, result))
    print(f"report: {report}")


def _asked_of(runs: list[Run], names: list[str] | None) -> dict[Path, list[str] | None]:
    """What is measured in each run, by its path: of a folder of several, each is asked for what it has something for, and stderr
    says what is left out. Raises UsageError for unknown names, and where a name has something in no run."""
    chosen(names)
    lacking: dict[str, list[tuple[Run, UsageError]]] = {}
    asked: dict[Path, list[str] | None] = {}
    for run in runs:
        for name in [None] if names is None else names:
            sections, kept = chosen(name)
            try:
                applicable(sections, run.config.model, run.config.task, asked=name is not None, kept=kept)
            except UsageError as error:
                lacking.setdefault(str(name), []).append((run, error))
            else:
                asked[run.path] = None if name is None else [*(asked.get(run.path) or []), name]
    for without in lacking.values():
        if len(without) == len(runs):
            raise without[0][1]
        print(f"left out for {', '.join(run.name for run, _ in without)}: {without[0][1]}", file=sys.stderr)
    return asked


def _side_by_side(
    runs: list[Run], only_of: dict[Path, list[str] | None], options: dict[str, Any], at_once: int, threads: int
) -> list[pd.DataFrame]:
    """Measure several runs at once, each in a process of its own. Raises WorkbenchError where some failed; the others are written."""
    work = [Job(run.name, _measure, (run.path, run.tables.path, options | {"only": only_of[run.path]}), len(run.steps)) for run in runs]
    try:
        run_jobs(work, at_once, threads, unit="checkpoint")
    except KeyboardInterrupt:
        done = sum(job.status == "done" for job in work)
        raise KeyboardInterrupt(f"stopped: {done} of {len(work)} runs are analysed") from None
    if failed := [f"{run.path}: {job.text}" for run, job in zip(runs, work, strict=True) if job.status == "failed"]:
        raise WorkbenchError(f"{len(failed)} of {len(work)} runs failed: {'; '.join(failed[:4])}{'; ...' * (len(failed) > 4)}")
    return [job.result for job in work]


def _measure(path: Path, tables: Path, options: dict[str, Any], watch: Watch) -> pd.DataFrame:
    """One run, in its process."""
    from workbench.analysis.sweep import analyze as measure

    run = Run.load(path)
    run.tables = Tables(tables)
    return measure(run, watch=watch, **options)


def _targets(target: Path) -> tuple[list[Run], list[int] | None]:
    """The runs to analyse, and the steps (None: all)."""
    if (found := Run.of_checkpoint(target)) is not None:
        run, step = found
        run.checkpoint(step)
        return [run], [step]
    if not target.exists():
        raise UsageError(f"there is no {target}; expected a run, a checkpoint or a folder of runs")
    runs = Run.find(target) if target.is_dir() else []
    if not runs:
        raise UsageError(f"{target} is not a run and holds none (a run has a config.yaml)")
    for run in runs:
        run.checkpoint()
    return runs, None


def _place(run: Run, out: Path | None, step: int | None) -> None:
    """Where this run's tables go."""
    if out is not None:
        run.tables = Tables(out)
    elif step is not None:
        run.tables = Tables(run.tables.path / f"step_{step:08d}")


def _report_path(target: Path, runs: list[Run], out: Path | None, checkpoint: bool) -> Path:
    if out is not None:
        return out / "report.html"
    if checkpoint:
        return runs[0].tables.path / "report.html"
    return runs[0].report_path if len(runs) == 1 else target / "report.html"


def _as_json(run: Run, report: Path) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "variant": run.config.model.variant,
        "seed": run.config.model.seed,
        "summary": run.summary(),
        "tables": {name: str(run.tables.file(name)) for name in run.tables.names},
        "report": str(report),
    }


def _described(run: Run, result: pd.DataFrame) -> str:
    """The summary in words, and what the model does at the last checkpoint."""
    last = result[result["step"] == result["step"].max()]
    whole = last["metric"].map(lambda name: all_metrics()[name].section == "formation" and all_metrics()[name].kind == "model")
    model_rows = last[whole.astype(bool)]
    lines = [f"{run.name} ({run.config.model.variant}, seed {run.config.model.seed})"]
    lines.append(paragraphs((run.summary() or {}).get("lines", [])))
    for row in model_rows.itertuples():
        lines.append(f"  {row.metric:<22} {row.value:8.3f}   [{row.ci_low:.3f}, {row.ci_high:.3f}]")
    lines.append(f"  tables: {run.tables.path} ({', '.join(run.tables.names)})")
    return "\n".join(line for line in lines if line)
