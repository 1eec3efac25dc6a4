"""The formation map: means over the seeds of a cell, what is not drawn, and differences paired by seed."""

import math

import pandas as pd
import pytest

from workbench.analysis.seeds import t_interval
from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.formation_map import formation_map

X, Y = "train.batch_size", "task.n_triggers"


def sweep_table() -> pd.DataFrame:
    rows = []
    for variant, head_start in (("none", 0.0), ("value", 100.0)):
        for x in (16, 32, 64):
            for y in (5, 3):
                for seed in (0, 1, 2):
                    step = 300.0 + x + 10 * y + 7 * seed - head_start - (3 * seed if variant == "value" else 0)
                    rows.append({"variant": variant, "seed": seed, X: x, Y: y, "status": "finished", "formed_step": step})
    table = pd.DataFrame(rows)
    table.loc[(table["variant"] == "none") & (table[X] == 16) & (table[Y] == 3) & (table["seed"] == 2), "formed_step"] = math.nan
    table.loc[(table[X] == 64) & (table["seed"] == 2), "status"] = "failed"
    return table


def test_each_cell_is_the_mean_over_its_finished_seeds():
    figure = formation_map(sweep_table(), [X, Y])
    none, value, apart = figure.data
    assert [title.text for title in figure.layout.annotations[:3]] == ["none", "value", "value − none"]
    assert list(none.x) == ["16", "32", "64"] and list(none.y) == ["3", "5"]  # numbers in their order, not in that of the rows
    found = t_interval([382.0, 389.0, 396.0])
    assert none.z[1][1] == pytest.approx(found.mean) and none.text[1][1] == f"{found.mean:.0f} ± {found.ci_high - found.mean:.0f}"
    assert value.z[0][2] == pytest.approx(300 + 64 + 30 - 100 + (0 + 4) / 2)  # the failed seed is left out
    assert apart.z[1][0] == pytest.approx(-100 - 3) and apart.text[1][0].startswith("-103 ± ")
    assert figure.layout.coloraxis2.cmax == -figure.layout.coloraxis2.cmin == pytest.approx(103)
    assert none.coloraxis == value.coloraxis == "coloraxis" and apart.coloraxis == "coloraxis2"


def test_a_cell_with_a_seed_that_has_not_formed_has_no_mean():
    figure = formation_map(sweep_table(), [X, Y])
    none, value, apart = figure.data
    assert none.z[0][0] is None and apart.z[0][0] is None and value.z[0][0] is not None
    assert none.text[0][0] == "2 of 3" and apart.text[0][0] == "2 of 3"


def test_one_field_is_a_line_a_variant():
    table = sweep_table()
    figure = formation_map(table[table[Y] == 3], [X])
    none, value = figure.data
    assert list(none.x) == ["16", "32", "64"] and none.y[0] is None and "none at 16: 2 of 3" in theme.caption(figure)
    assert value.y[1] == pytest.approx(300 + 32 + 30 - 100 + 4)
    assert none.line.color == theme.variant_colour("none") and value.line.color == theme.variant_colour("value")


def test_without_a_reference_there_is_no_difference():
    table = sweep_table()
    assert len(formation_map(table[table["variant"] == "value"], [X, Y]).data) == 1


def test_wrong_calls():
    table = sweep_table()
    for wrong, fields, message in (
        (table, [], "one or two fields, got 0"),
        (table, [X, Y, "seed"], "got 3"),
        (table, ["train.lr"], "unknown column"),
        (table.assign(status="failed"), [X], "no finished member"),
        (table.drop(columns="formed_step"), [X], "lacks the columns formed_step"),
    ):
        with pytest.raises(UsageError, match=message):
            formation_map(wrong, fields)
