"""The section on positions: who gets one, and which runs make a line together."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from tests.figures.synthetic import length_table
from tests.report.conftest import FakeRun, make_run
from workbench.config import ModelConfig
from workbench.report.blocks import entries
from workbench.report.build import render_report
from workbench.report.sections import length_section


def run_of(name: str, **fields: Any) -> FakeRun:
    model = ModelConfig(**fields)
    run = make_run(name=name)
    run.tables["length"] = length_table(name, model.variant)
    return replace(run, config=run.config.replace(model=model))


def drawn(*runs: FakeRun) -> list[str]:
    """The lines of the section's figure, as the legend names them."""
    section = length_section(entries(runs))
    assert section is not None and (section.id, section.title) == ("length", "Length") and len(section.blocks) == 1
    figure = section.blocks[0].figure
    assert figure is not None
    return [trace.name for trace in figure.data if trace.showlegend]  # type: ignore[union-attr]


def test_it_stands_between_attention_and_provenance() -> None:
    ids = re.findall(r'<section id="([\w-]+)">', render_report([run_of("a")]))
    assert ids[ids.index("attention") :] == ["attention", "length", "tables", "provenance"]


def test_runs_of_one_variant_are_averaged() -> None:
    assert drawn(run_of("a")) == ["none"]
    rotary: dict[str, Any] = {"positional_embedding_type": "rotary"}
    assert drawn(run_of("a"), run_of("b", seed=1), run_of("c", **rotary)) == ["none (mean of 2)", "none-rotary"]


def test_numbers_of_layers_are_told_apart() -> None:
    runs = [run_of("a"), run_of("b", n_layers=3), run_of("c", n_layers=3, seed=1)]
    assert drawn(*runs) == ["none, 2 layers", "none, 3 layers (mean of 2)"]
    assert drawn(runs[1]) == ["none"]


def test_runs_without_the_table_are_passed_over() -> None:
    without = make_run(name="x")
    assert length_section(entries([without])) is None
    assert drawn(without, run_of("a")) == ["none"]
    other = make_run(name="y")
    table = length_table("y")
    other.tables["length"] = table[table["metric"] == "hijack_rate_by_position"]
    assert length_section(entries([other])) is None
