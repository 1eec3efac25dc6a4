"""The page of a comparison: sentences, table, curves, paired differences, and the learning rates that were tried."""

from __future__ import annotations

from pathlib import Path

from workbench.analysis.comparison import Comparison
from workbench.figures.compare import comparison_curves, paired_differences
from workbench.figures.tables import where
from workbench.report.blocks import Block, Section
from workbench.report.build import write_page


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write the page to `path`, and return `path`. A file already there is replaced at once or not at all."""
    variants = list(dict.fromkeys(comparison.table["variant"]))
    title = f"{', '.join(variants[:3])}{', ...' * (len(variants) > 3)}: {comparison.quantities[0].name}"
    return write_page(title, comparison_sections(comparison), path)


def comparison_sections(comparison: Comparison) -> list[Section]:
    """What the page shows."""
    words = [Block("note", text=text) for text in comparison.sentences]
    # An interval stays on one line, a heading need not.
    head = [name.replace("_", "_\N{ZERO WIDTH SPACE}") for name in comparison.head]
    cells = [[cell.replace(", ", ",\N{NO-BREAK SPACE}") for cell in row] for row in comparison.rows]
    table = Block("table", data={"head": head, "rows": cells})
    notes = [Block("note", text=text) for text in (*comparison.legend, *comparison.notes)]
    sections = [Section("summary", "Summary", [*words, table, *notes])]
    if not comparison.curves.empty:
        asked = {"reference": comparison.reference, "threshold": comparison.threshold}
        figure = comparison_curves(comparison.curves, metric=comparison.metric, **asked)
        sections.append(Section("curves", "Curves", [Block("figure", figure=figure)]))
    if comparison.reference is not None:
        figures = [
            paired_differences(
                where(comparison.seeds, quantity=quantity.name),
                where(comparison.table, quantity=quantity.name),
                quantity=quantity.name,
                reference=comparison.reference,
                unit=quantity.unit,
            )
            for quantity in comparison.quantities
        ]
        sections.append(Section("differences", "Paired differences", [Block("figure", figure=figure) for figure in figures]))
    if not comparison.rates.empty:
        sections.append(_rates(comparison))
    return sections


def _rates(comparison: Comparison) -> Section:
    """Every learning rate of every variant, the chosen one marked."""
    head = ["variant", "lr", "seeds", "not reached", "mean steps", ""]
    rows = [
        [str(row.variant), f"{row.lr:g}", str(row.n), str(row.censored), f"{row.mean:.0f}", "chosen" if row.best else ""]
        for row in comparison.rates.sort_values(["variant", "lr"]).itertuples()
    ]
    note = Block("note", text="A seed that did not reach the threshold is counted as its last step.")
    return Section("rates", "Learning rates", [Block("table", data={"head": head, "rows": rows}), note])
