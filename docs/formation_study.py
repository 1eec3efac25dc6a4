"""The table of docs/results.md on the formation of circuits with and without a stream, from trained runs.

    workbench train trigger-bigram --stream none,value,value-scrambled,value-detached,value-0.5-0.5 --seeds 0:8 --out runs/study
    python docs/formation_study.py runs/study

Analyses the runs that have no tables yet (about half a minute each), and prints the table in Markdown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from workbench import Run, analyze
from workbench.analysis.seeds import over_seeds

SECTIONS = ("formation", "probes", "stream", "causal", "attribution")
EVENTS = ("copying", "trigger match", "direct contribution", "previous-token head", "in-context accuracy")
PATHS = {"wire": "the wire", "residual": "the residual stream"}
REFERENCE = "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="a folder of runs, variants by seeds")
    parser.add_argument("--part", default="0/1", help="analyse the i-th of n shares only, and print nothing: i/n")
    arguments = parser.parse_args()
    share, of = map(int, arguments.part.split("/"))
    # Seed by seed, so that a study that was stopped has as many seeds of each variant.
    runs = sorted(Run.find(arguments.runs), key=lambda run: run.config.model.seed)
    for number, run in enumerate(runs):
        if number % of == share and run.table("emergence") is None:
            print(f"{run.path}", file=sys.stderr)
            sections = [name for name in SECTIONS if name != "stream" or run.config.model.stream != "none"]
            analyze(run, only=sections, causal_every=5)
    if of == 1:
        print(markdown([run for run in runs if run.table("emergence") is not None]))


def markdown(runs: list[Run]) -> str:
    """One row a variant: the step at which each event is at its threshold, with its t interval over seeds, the difference from
    the model without a stream, paired by seed, and what is lost when a path is cut."""
    events = over_seeds(pd.concat([_events(run) for run in runs], ignore_index=True), reference=REFERENCE)
    cuts = over_seeds(pd.concat([_cuts(run) for run in runs], ignore_index=True))
    variants = list(dict.fromkeys(events["variant"]))
    seeds = events.groupby("variant")["n"].max()
    head = ["variant", "seeds", *EVENTS, *(f"lost along {name}" for name in PATHS.values())]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for variant in variants:
        cells = [variant, str(seeds[variant])]
        cells += [_event(events[(events["variant"] == variant) & (events["part"] == event)]) for event in EVENTS]
        cells += [_cut(cuts[(cuts["variant"] == variant) & (cuts["part"] == path)]) for path in PATHS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _events(run: Run) -> pd.DataFrame:
    """The step at which each event is at its threshold, each kind by its strongest head (the first row). An event whose heads
    do not exist at the end of the run has no row there: it did not take place."""
    table = run.table("emergence")
    assert table is not None
    rows = table[table["metric"] == "threshold_step"].drop_duplicates("part").set_index("part")["value"]
    names = {"variant": run.config.model.variant, "seed": run.config.model.seed, "metric": "threshold_step"}
    return pd.DataFrame([{**names, "part": event, "value": rows.get(event, float("nan"))} for event in EVENTS])


def _cuts(run: Run) -> pd.DataFrame:
    """The share of in-context accuracy that is lost, at the last checkpoint, with another sequence's values along a path."""
    table = run.table("stream")
    if table is None:
        return pd.DataFrame(columns=["variant", "seed", "metric", "part", "value"])
    chosen = (table["metric"] == "path_accuracy_share") & (table["intervention"] == "resample") & (table["step"] == run.steps[-1])
    return table.loc[chosen & table["part"].isin(list(PATHS)), ["variant", "seed", "metric", "part", "value"]]


def _event(rows: pd.DataFrame) -> str:
    row = rows.iloc[0]
    if row["censored"]:
        return f"not reached by {row['censored']} of {row['n']}"
    text = f"{row['mean']:.0f} [{row['ci_low']:.0f}, {row['ci_high']:.0f}]"
    if row["variant"] == REFERENCE or pd.isna(row["difference"]):
        return text
    return f"{text}; {row['difference']:+.0f} [{row['difference_low']:+.0f}, {row['difference_high']:+.0f}]"


def _cut(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "no wire"
    row = rows.iloc[0]
    return f"{row['mean']:.0%} [{row['ci_low']:.0%}, {row['ci_high']:.0%}]"


if __name__ == "__main__":
    main()
