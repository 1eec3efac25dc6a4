"""The tables of docs/results.md on knowledge hijack with and without a value stream, from trained runs.

    workbench train hijack --stream none,value --seeds 0:5 --out runs/hijack
    python docs/hijack_study.py runs/hijack

Analyses the runs that have no tables yet (about half a minute each), and prints tables in Markdown: each quantity at a
checkpoint, its mean over seeds with the 95 % t interval, and the difference from the model without a stream, paired by seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import Run, analyze
from workbench.analysis.seeds import over_seeds

SECTIONS = ("formation", "hijack")
REFERENCE = "none"
AGAINST = "log_odds above 0"
QUANTITIES: tuple[tuple[str, str, dict[str, str], str], ...] = (
    ("hijacked, all prompts that show c", "hijack_rate", {}, ".0%"),
    ("... shown once", "hijack_rate", {"condition": "n_context 1"}, ".0%"),
    ("... shown four times", "hijack_rate", {"condition": "n_context 4"}, ".0%"),
    ("... bigrams prefer g", "hijack_rate", {"condition": AGAINST}, ".0%"),
    ("margin where bigrams prefer g, global part", "hijack_causal_part", {"condition": AGAINST, "part": "global"}, ".2f"),
    ("... in-context part", "hijack_causal_part", {"condition": AGAINST, "part": "in context"}, ".2f"),
    ("context overtakes for good, step", "overtaking_step", {"part": "context over bigrams"}, ".0f"),
    ("t1", "hijack_strength", {"part": "t1"}, ".2f"),
    ("t2", "hijack_strength", {"part": "t2"}, ".2f"),
    ("t3", "hijack_strength", {"part": "t3"}, ".2f"),
    ("boundary t3 / t2", "hijack_boundary", {"part": "closed form"}, ".3f"),
    ("R² of the closed form", "hijack_r2", {"part": "closed form"}, ".2f"),
    ("winner named by it", "hijack_sign_agreement", {"part": "closed form"}, ".0%"),
    ("R² of the induction heads' attention", "hijack_r2", {"part": "attention of the induction heads"}, ".2f"),
    ("winner named by it", "hijack_sign_agreement", {"part": "attention of the induction heads"}, ".0%"),
)
"""name, metric, place, format"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="a folder of runs, variants by seeds")
    parser.add_argument("--steps", type=int, nargs="*", help="checkpoints to tabulate; default: the last")
    arguments = parser.parse_args()
    runs = Run.find(arguments.runs)
    for run in runs:
        if run.table("hijack") is None:
            print(f"{run.path}", file=sys.stderr)
            analyze(run, only=SECTIONS)
    for step in arguments.steps or [runs[0].steps[-1]]:
        print(markdown(runs, step) + "\n")


def markdown(runs: list[Run], step: int) -> str:
    """A row for each quantity at a checkpoint, a column for each variant."""
    tables = pd.concat([table for run in runs for table in (_at_step(run, "hijack", step), run.table("emergence")) if table is not None])
    found = over_seeds(tables[tables["layer"].isna()], reference=REFERENCE)
    variants = list(dict.fromkeys(found["variant"]))
    head = [f"at step {step}", *variants, *(f"{variant} - {REFERENCE}" for variant in variants if variant != REFERENCE)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, metric, place, style in QUANTITIES:
        chosen = found[(found["metric"] == metric) & _at(found, place)].set_index("variant")
        if chosen.empty:
            continue
        cells = [_mean(chosen, variant, style) for variant in variants]
        cells += [_difference(chosen, variant, style) for variant in variants if variant != REFERENCE]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def _at_step(run: Run, name: str, step: int) -> pd.DataFrame | None:
    table = run.table(name)
    return None if table is None else table[table["step"] == step]


def _at(found: pd.DataFrame, place: dict[str, str]) -> Any:
    chosen = pd.Series(True, index=found.index)
    for column in ("part", "condition"):
        chosen &= found[column] == place[column] if column in place else found[column].isna()
    return chosen


def _mean(chosen: pd.DataFrame, variant: str, style: str) -> str:
    if variant not in chosen.index:
        return "none"
    row: Any = chosen.loc[variant]
    if row["censored"]:
        return f"not within the run for {row['censored']} of {row['n']} seeds"
    return f"{row['mean']:{style}} [{row['ci_low']:{style}}, {row['ci_high']:{style}}]"


def _difference(chosen: pd.DataFrame, variant: str, style: str) -> str:
    if variant not in chosen.index or pd.isna(chosen.loc[variant, "difference"]):
        return ""
    row: Any = chosen.loc[variant]
    signed = f"+{style}"
    return f"{row['difference']:{signed}} [{row['difference_low']:{signed}}, {row['difference_high']:{signed}}]"


if __name__ == "__main__":
    main()
