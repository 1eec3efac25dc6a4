"""Wang & Sato's comparison of positions, inside the training length and beyond it, from trained runs.

    workbench train positions --stream none-standard,none-sinusoidal,none-relative,none-rotary,none-nopos --seeds 0:3 --out runs/positions/2
    (the same with --model.n-layers 3 --out runs/positions/3)
    python docs/length_study.py runs/positions

Analyses the last checkpoint of the runs that have no tables yet (a second each), and prints the table in Markdown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from workbench import Run, analyze
from workbench.analysis.seeds import SeedMean, t_interval
from workbench.analysis.stretches import STRETCHES
from workbench.figures.theme import position_type

SECTIONS = ("length", "formation")
ORDER = ("standard", "sinusoidal", "relative", "rotary", "nopos")
SHORT = {"accuracy_by_position": "accuracy", "previous_token_by_position": "previous token", "hijack_rate_by_position": "hijack rate"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="a folder of runs")
    parser.add_argument("--png", type=Path, help="also save the figure there (needs kaleido)")
    arguments = parser.parse_args()
    runs = Run.find(arguments.runs)
    for run in runs:
        if run.table("length") is None:
            print(f"{run.path}", file=sys.stderr)
            analyze(run, only=SECTIONS, steps=run.steps[-1:])
    print(markdown(runs))
    if arguments.png is not None:
        from workbench.figures.length import accuracy_by_position

        tables = [_table(run).assign(run=str(run.path)) for run in runs]
        accuracy_by_position(pd.concat(tables, ignore_index=True), {str(run.path): _name(run) for run in runs}).write_image(arguments.png)


def markdown(runs: list[Run]) -> str:
    """One row for each position type and number of layers: each quantity in each stretch, its mean over seeds with the t interval."""
    groups: dict[tuple[int, int], list[Run]] = {}
    for run in runs:
        model = run.config.model
        groups.setdefault((model.n_layers, ORDER.index(position_type(model.variant))), []).append(run)
    columns = [(metric, stretch) for metric in SHORT for stretch in STRETCHES]
    head = ["positions", "layers", "seeds", *(f"{SHORT[metric]}, {stretch}" for metric, stretch in columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (layers, position), members in sorted(groups.items()):
        tables = [_table(run) for run in members]
        cells = [ORDER[position], str(layers), str(len(members))]
        cells += [_cell(t_interval([in_stretch(table, *column) for table in tables])) for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_stretch(table: pd.DataFrame, metric: str, stretch: str) -> float:
    """A quantity over a whole stretch: previous-token scores are those of the head with the highest inside the training length; the
    hijack rate is that of the longest prompts of the stretch."""
    of_metric = table[table["metric"] == metric]
    if metric == "hijack_rate_by_position":
        rows = of_metric[of_metric["part"] == stretch].sort_values("position").tail(1)
    else:
        whole = of_metric[of_metric["position"].isna()]
        rows = whole[whole["part"] == stretch]
        if metric == "previous_token_by_position":
            best = whole[whole["part"] == "inside"].sort_values("value").tail(1)
            rows = rows.merge(best[["layer", "head"]], on=["layer", "head"])
    return float(rows["value"].iloc[0]) if len(rows) else float("nan")


def _table(run: Run) -> pd.DataFrame:
    table = run.table("length")
    assert table is not None
    return table[table["step"] == run.steps[-1]]


def _name(run: Run) -> str:
    return f"{position_type(run.config.model.variant)}, {run.config.model.n_layers} layers"


def _cell(found: SeedMean) -> str:
    return "none" if found.censored else f"{found.mean:.2f} [{found.ci_low:.2f}, {found.ci_high:.2f}]"


if __name__ == "__main__":
    main()
