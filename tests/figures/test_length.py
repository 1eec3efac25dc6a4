"""The circuit by position: which rows are drawn, means over runs, looks, and the training length."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.figures.synthetic import BEYOND, INSIDE
from tests.figures.synthetic import length_table as table
from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.length import PANELS, accuracy_by_position


def lines(figure, panel: int = 1):
    axis = "y" if panel == 1 else f"y{panel}"
    return {trace.legendgroup: trace for trace in figure.data if trace.yaxis == axis and trace.name != "interval"}


def test_one_run_at_its_last_step():
    figure = accuracy_by_position(table())
    assert [note.text for note in figure.layout.annotations][:3] == list(PANELS.values())
    accuracy, previous, hijack = (lines(figure, panel)["none"] for panel in (1, 2, 3))
    assert list(accuracy.x) == [*INSIDE, *BEYOND] and list(accuracy.y) == pytest.approx([0.9 - at / 100 for at in (*INSIDE, *BEYOND)])
    assert list(previous.y) == pytest.approx([0.4 - 0.001 * at for at in (*INSIDE, *BEYOND)])
    assert list(hijack.x) == [6, 12, 25, 51] and list(hijack.y) == pytest.approx([0.06, 0.12, 0.25, 0.51])
    band = next(trace for trace in figure.data if trace.name == "interval" and trace.yaxis == "y")
    assert list(band.x) == [*accuracy.x, *accuracy.x[::-1]]
    assert list(band.y) == pytest.approx([*(np.array(accuracy.y) + 0.02), *(np.array(accuracy.y) - 0.02)[::-1]])
    assert [trace.showlegend for trace in figure.data if trace.name != "interval"] == [True, False, False]
    assert "over sequences or prompts." in theme.caption(figure) and "t interval" not in theme.caption(figure)


def test_several_runs_are_averaged_at_the_positions_that_all_have():
    both = pd.concat([table("a"), table("b", shift=0.1), table("c", shift=0.3, positions=(*INSIDE, 13))])
    figure = accuracy_by_position(both)
    trace = lines(figure)["none"]
    assert trace.name == "none (mean of 3)" and list(trace.x) == [0, 5, 10, 13]
    assert list(trace.y) == pytest.approx([0.9 - at / 100 - 0.4 / 3 for at in (0, 5, 10, 13)])
    half = stats.t.ppf(0.975, 2) * np.std([0, 0.1, 0.3], ddof=1) / 3**0.5
    band = next(trace for trace in figure.data if trace.name == "interval" and trace.yaxis == "y")
    assert list(band.y[:4]) == pytest.approx(np.array(trace.y) + half)
    assert "t interval over runs" in theme.caption(figure) and "over sequences" not in theme.caption(figure)


def test_position_types_have_a_colour_and_a_dash_each():
    variants = ["none", "none-sinusoidal", "none-relative", "none-rotary", "none-nopos"]
    figure = accuracy_by_position(pd.concat([table(name, name) for name in variants]))
    drawn = lines(figure)
    assert {name: (trace.line.color, trace.line.dash) for name, trace in drawn.items()} == {
        name: theme.POSITION_LOOKS[theme.position_type(name)] for name in variants
    }
    assert len({trace.line.color for trace in drawn.values()}) == len({trace.line.dash for trace in drawn.values()}) == 5
    # No line is below a band.
    kinds = [trace.name == "interval" for trace in figure.data if trace.yaxis == "y"]
    assert kinds == [True] * 5 + [False] * 5


def test_lines_of_one_position_type_differ_by_their_dashes():
    runs = {"a": ("none", "2 layers"), "b": ("none-rotary", "rotary, 2 layers"), "c": ("none-rotary", "rotary, 3 layers")}
    tables = pd.concat([table(run, variant) for run, (variant, _) in runs.items()])
    drawn = lines(accuracy_by_position(tables, {run: label for run, (_, label) in runs.items()}))
    assert list(drawn) == ["2 layers", "rotary, 2 layers", "rotary, 3 layers"]
    assert drawn["rotary, 2 layers"].line.color == drawn["rotary, 3 layers"].line.color != drawn["2 layers"].line.color
    assert drawn["rotary, 2 layers"].line.dash != drawn["rotary, 3 layers"].line.dash


def test_streams_of_one_position_type_keep_their_colours():
    drawn = lines(accuracy_by_position(pd.concat([table("a", "none"), table("b", "value"), table("c", "value-first")])))
    for name, trace in drawn.items():
        assert (trace.line.color, trace.line.dash) == (theme.variant_colour(name), theme.variant_dash(name))


def training_length(figure):
    marks = [note.text for note in figure.layout.annotations if note.text.startswith("training length")]
    assert len(marks) == (1 if figure.layout.shapes else 0)
    return marks


def test_the_training_length_is_marked_where_the_runs_agree_on_it():
    assert training_length(accuracy_by_position(table())) == ["training length 13"]
    within = table("b", positions=INSIDE)
    assert training_length(accuracy_by_position(pd.concat([table(), within]))) == ["training length 13"]
    assert training_length(accuracy_by_position(within)) == [] and "Dashed grey" not in theme.caption(accuracy_by_position(within))
    other = table("c", positions=(0, 19))
    other["part"] = other["part"].where(other["position"] != 19, "1x to 2x")
    assert training_length(accuracy_by_position(pd.concat([table(), other]))) == []


def test_panels_without_rows_are_left_out():
    whole = table()
    figure = accuracy_by_position(whole[whole["metric"] != "hijack_rate_by_position"])
    assert set(lines(figure, 3)) == set() and set(lines(figure, 2)) == {"none"} and "Hijack" not in theme.caption(figure)


def test_what_cannot_be_drawn_is_told():
    whole = table()
    with pytest.raises(UsageError, match="lacks the columns part"):
        accuracy_by_position(whole.drop(columns="part"))
    with pytest.raises(UsageError, match="no rows of accuracy_by_position; analyse the section length"):
        accuracy_by_position(whole[whole["metric"] == "hijack_rate_by_position"])
    with pytest.raises(UsageError, match="the run 'a' has no label; there are labels for b"):
        accuracy_by_position(whole, {"b": "x"})
