"""`workbench compare`"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from workbench.commands.terminal import paragraphs
from workbench.errors import UsageError

if TYPE_CHECKING:
    from workbench.analysis.comparison import Comparison

Column = Annotated[str | None, Parameter(group="Which rows of the metric (none: those in which the column is empty)")]


def compare(
    targets: Annotated[list[Path], Parameter(help="runs, or folders of them: variants by seeds")],
    *,
    metric: Annotated[
        str | None,
        Parameter(
            help="a metric of training or of any table; default: in_context_accuracy and the steps to --threshold (of numbers: excess_loss)"
        ),
    ] = None,
    threshold: Annotated[float | None, Parameter(help="compare the steps until the metric is at least so high; default 0.95")] = None,
    falling: Annotated[bool, Parameter(help="the threshold is passed downwards, as by a loss")] = False,
    reference: Annotated[str | None, Parameter(help="the variant that the others are compared with; default: none")] = None,
    over: Annotated[str | None, Parameter(help="of several rows of a run (heads, say): first, mean, max or min")] = None,
    task: Column = None,
    part: Column = None,
    layer: Column = None,
    head: Column = None,
    source_layer: Column = None,
    source_head: Column = None,
    position: Column = None,
    condition: Column = None,
    intervention: Column = None,
    out: Annotated[Path | None, Parameter(help="a folder for compare.html, compare.md and the tables")] = None,
    json_output: Annotated[bool, Parameter(name="--json", help="print the comparison as JSON")] = False,
) -> None:
    """Compare variants over seeds, paired by seed, each at its own best learning rate where several were tried.

    Prints a table (means with 95 % t intervals over seeds; runs that did not get there are counted, not dropped) and one
    sentence for each variant. With --out, also a page with curves and paired differences, and the table in Markdown.
    """
    if falling and threshold is None:
        raise UsageError("--falling needs a --threshold")
    given = {
        "task": task, "part": part, "condition": condition, "intervention": intervention, "layer": layer, "head": head,
        "source_layer": source_layer, "source_head": source_head, "position": position,
    }  # fmt: skip
    place = {name: None if value == "none" else value for name, value in given.items() if value is not None}

    from workbench.analysis.compare_words import aligned
    from workbench.analysis.comparison import compare as compare_runs

    found = compare_runs(targets, metric=metric, place=place, over=over, threshold=threshold, falling=falling, reference=reference)
    files = {} if out is None else _write(found, out)
    if json_output:
        print(json.dumps({**_as_json(found), "files": {name: str(path) for name, path in files.items()}}, indent=2))
        return
    print(aligned(found.head, found.rows))
    if found.sentences:
        print("\n" + paragraphs(found.sentences, indent=""))
    print("\n" + paragraphs([*found.legend, *found.notes], indent=""))
    if files:
        print(f"\npage: {files['page']}")
    elif sys.stdout.isatty():
        print("\n--out DIR writes a page with curves and differences, and the table in Markdown", file=sys.stderr)


def _write(found: Comparison, out: Path) -> dict[str, Path]:
    """The page, the Markdown table and the tidy tables."""
    from workbench.report.compare import write_comparison
    from workbench.storage import write_text
    from workbench.tables import Tables

    tables = Tables(out)
    files = {
        "page": write_comparison(found, out / "compare.html"),
        "markdown": out / "compare.md",
        "comparison": tables.write("comparison", found.table),
        "seeds": tables.write("seeds", found.seeds),
    }
    write_text(out / "compare.md", found.markdown)
    return files


def _as_json(found: Comparison) -> dict[str, Any]:
    from workbench.analysis.compare_words import rows_of

    quantities = [vars(quantity) for quantity in found.quantities]
    facts = {"metric": found.metric, "threshold": found.threshold, "reference": found.reference, "source": found.source}
    tables = {name: [_plain(row) for row in rows_of(getattr(found, name))] for name in ("table", "seeds", "rates")}
    return {**facts, "quantities": quantities, **tables, "sentences": found.sentences, "notes": list(found.notes)}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no nan and no infinity: null stands for both, what is not known and what has no bound."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
