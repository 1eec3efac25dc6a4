"""`workbench amicl`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from workbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from workbench.report.blocks import Section

PAGE = "amicl.html"


def amicl(
    *,
    out: Annotated[Path, Parameter(help="folder of the tables and the page")] = Path("runs/amicl"),
    trials: Annotated[int, Parameter(help="sequences for each point of a curve")] = 1000,
    seed: Annotated[int, Parameter(help="seed of the sequences")] = 0,
    quick: Annotated[bool, Parameter(help="fewer points, and no size above 100")] = False,
    json_output: Annotated[bool, Parameter(name="--json", help="print the comparison and the files as JSON")] = False,
) -> None:
    """Measure the associative-memory model of in-context learning (Burns et al., arXiv 2412.15113), which nothing trains.

    Prints the proportions of right answers beside the published ones, and writes tables (parquet and CSV) and one page with the paper's
    figures: over the strength of memory, over length and dimension, and the attention in one sequence.
    """
    for option, value, least in (("--trials", trials, 1), ("--seed", seed, 0)):
        if value < least:
            raise UsageError(f"{option} must be at least {least}, got {value}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out must be a folder, and {out} is a file")

    from tqdm import tqdm

    from workbench.amicl.attention import attention_table
    from workbench.amicl.published import by_size, by_strength, comparison
    from workbench.provenance import provenance
    from workbench.report.build import write_page
    from workbench.tables import Tables

    measured = {}
    parts = {
        "published": lambda: comparison(trials, seed),
        "strength": lambda: by_strength(trials, seed, quick=quick),
        "size": lambda: by_size(trials, seed, quick=quick),
        "attention": lambda: attention_table(seed=seed),
    }
    for name in tqdm(parts, desc="amicl", disable=None, leave=False):
        measured[name] = parts[name]()
    tables = Tables(out)
    files = {name: str(tables.write(name, table)) for name, table in measured.items()}
    sections = _sections(measured, out, provenance(trials=trials, seed=seed))
    page = write_page("AMICL: in-context learning by associative memory", sections, out / PAGE)
    if json_output:
        shown = measured["published"][["a", "value", "ci_low", "ci_high", "n", "published"]]
        print(json.dumps({"published": shown.to_dict("records"), "tables": files, "page": str(page)}, indent=2))
        return
    print("proportion right (dot product, argmax, D = 100, K = 512, n = 20)")
    print("\n".join(f"  {line}" for line in _compared(measured["published"])))
    print(f"tables: {out} ({', '.join(files)})\npage: {page}")


def _compared(table: pd.DataFrame) -> list[str]:
    """The measured numbers beside the published ones, a line each."""
    lines = [f"{'a':<6}{'measured':>8}  {'95 % interval':<16}{'published':>9}"]
    for row in table.to_dict("records"):
        interval = f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        lines.append(f"{row['a']:<6.2f}{row['value']:>8.3f}  {interval:<16}{row['published']:>9.3f}")
    return lines


def _sections(measured: dict[str, pd.DataFrame], out: Path, facts: dict[str, Any]) -> list[Section]:
    """What stands on the page."""
    from workbench.amicl.accuracy import pearson_ceiling
    from workbench.amicl.config import PAPER
    from workbench.amicl.published import PUBLISHED, SIZE_SETTING
    from workbench.figures.amicl import accuracy_by_size, accuracy_by_strength, attention_matrices
    from workbench.report.blocks import Block, Section

    about = (
        f"A sequence of n = {PAPER.n_tokens} tokens alternates objects and labels, random vectors of D = {PAPER.d} numbers drawn anew for"
        " each sequence, and ends with a query object and an empty slot. The key and the query of a position are (a x + y) / (a + 1),"
        " with y its token and x the one before; the value is the token. The empty slot answers with the value of the key that is most"
        " like its query. Nothing is trained."
    )
    said = [
        f"a\u00a0=\u00a0{row['a']:g}: {row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}], published {row['published']:.3f}"
        for row in measured["published"].to_dict("records")
    ]
    ceiling = pearson_ceiling(PAPER.n_tokens, PAPER.n_classes)
    strength = [
        Block("note", text=about),
        Block("note", text=f"Proportion right with the dot product, 95 % intervals: {'; '.join(said)}."),
        Block("figure", figure=accuracy_by_strength(measured["strength"], PUBLISHED, ceiling)),
    ]
    settings = {"strength and attention": PAPER.to_dict(), "size": SIZE_SETTING.to_dict()}
    data = {"label": "AMICL", "path": str(out), "config": json.dumps(settings, indent=2), "provenance": json.dumps(facts, indent=2)}
    return [
        Section("strength", "Strength of memory", strength),
        Section("size", "Length and dimension", [Block("figure", figure=accuracy_by_size(measured["size"]))]),
        Section("attention", "Attention", [Block("figure", figure=attention_matrices(measured["attention"]))]),
        Section("provenance", "Configuration and provenance", [Block("provenance", data=data)]),
    ]
