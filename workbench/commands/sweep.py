"""`workbench sweep`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from workbench.errors import UsageError, unknown_name
from workbench.sweep import TABLE, Incomplete, Sweep, failures, run_sweep
from workbench.tables import Tables

PAGE = "formation_map.html"


def sweep(
    file: Annotated[Path, Parameter(help="a YAML file: preset (or config), stream, seeds, vary, set, cluster")],
    *,
    out: Annotated[Path | None, Parameter(help="folder of the sweep; default: runs/NAME of the file")] = None,
    cluster: Annotated[
        Literal["local", "slurm"], Parameter(help="this machine, or Slurm (fields of `cluster` in the file go to it)")
    ] = "local",
    jobs: Annotated[int | None, Parameter(help="runs at a time; default: the processors here, on Slurm all")] = None,
    device: Annotated[str, Parameter(help="auto, cpu or cuda")] = "auto",
    map_: Annotated[
        str | None, Parameter(name="--map", help="one or two varied fields of the formation map; default: the first two")
    ] = None,
    json_output: Annotated[bool, Parameter(name="--json", help="print the table as JSON")] = False,
) -> None:
    """Train variants x seeds x any configuration fields; what is finished is never trained again.

    The file names a preset (or a configuration file) and what to vary:

        preset: trigger-bigram
        stream: [none, value]
        seeds: 0:4
        vary:
          task.n_triggers: [3, 5, 8]
          train.batch_size: [32, 64]
        set: {train.steps: 900}

    Each member is an ordinary run, OUT/<variant>/<field=value,...>/seed_<n>; results stand in OUT/sweep.parquet and .csv, and the
    formation map (when in-context learning forms, by the fields) in OUT/formation_map.html. The same call again goes on where it
    stopped, and tries failed members again.
    """
    plan = Sweep.from_yaml(file)
    out = out or Path("runs") / file.stem
    fields = list(plan.vary)[:2] if map_ is None else [part.strip() for part in map_.split(",") if part.strip()]
    for name in fields:
        if name not in plan.vary:
            raise unknown_name("varied field", name, plan.vary)
    if map_ is not None and not 1 <= len(fields) <= 2:
        raise UsageError(f"--map expects one or two fields, got {map_!r}")
    table = run_sweep(plan, out, where=cluster, jobs=jobs, device=device)

    page = None
    if fields and "formed_step" in table and (table["status"] == "finished").any():
        from workbench.figures.formation_map import formation_map
        from workbench.report.blocks import Block, Section
        from workbench.report.build import write_page

        section = Section("formation-map", "Formation map", [Block("figure", figure=formation_map(table, fields))])
        page = write_page(f"Sweep: {out.name}", [section], out / PAGE)
    if json_output:
        print(table.to_json(orient="records", indent=2))
    else:
        counts = table["status"].value_counts()
        print(f"{out}: " + ", ".join(f"{counts[state]} {state}" for state in counts.index))
        print(f"  table: {Tables(out).file(TABLE)}")
        if page is not None:
            print(f"  formation map: {page}")
    if failed := failures(table):
        raise Incomplete(f"{len(failed)} of {len(table)} members failed: " + "; ".join(failed[:3]))
    if (table["status"] != "finished").any():
        raise Incomplete(f"{int((table['status'] != 'finished').sum())} of {len(table)} members are not finished; the same call goes on")
