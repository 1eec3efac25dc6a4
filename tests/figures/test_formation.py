"""Accuracy and loss curves show the table's numbers, and say what they cannot show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.figures.synthetic import SMALL, formation_table, training_metrics
from workbench.errors import UsageError
from workbench.figures import formation, theme


def values(table: pd.DataFrame, metric: str, run: str) -> list[float]:
    return table[(table["metric"] == metric) & (table["run"] == run)].sort_values("step")["value"].tolist()


def lines(figure: Any) -> dict[str, Any]:
    """The visible line traces by name, without bands and markers."""
    return {trace.name: trace for trace in figure.data if trace.mode == "lines" and trace.fill is None}


@pytest.fixture
def two_variants() -> pd.DataFrame:
    return pd.concat([formation_table("a", "none"), formation_table("b", "value")], ignore_index=True)


def test_accuracy_lines_hold_the_values_of_the_table(two_variants: pd.DataFrame) -> None:
    shuffled = two_variants.sample(frac=1, random_state=0)
    found = lines(formation.accuracy_curves(shuffled))
    assert set(found) == {"none", "value"}
    for run, variant in (("a", "none"), ("b", "value")):
        assert list(found[variant].x) == SMALL.steps
        assert list(found[variant].y) == values(two_variants, "in_context_accuracy", run)
        assert found[variant].line.color == theme.variant_colour(variant)


def test_band_goes_along_the_upper_and_back_along_the_lower_bound() -> None:
    table = formation_table()
    figure = formation.accuracy_curves(table)
    rows = table[table["metric"] == "in_context_accuracy"]
    (band,) = [trace for trace in figure.data if trace.name == "interval"]
    assert list(band.y) == [*rows["ci_high"], *rows["ci_low"][::-1]]
    assert list(band.x) == [*rows["step"], *rows["step"][::-1]]
    assert "n = 257" in theme.caption(figure)


def test_no_band_and_no_word_of_it_without_intervals() -> None:
    figure = formation.accuracy_curves(formation_table().assign(ci_low=np.nan, ci_high=np.nan))
    assert [trace.name for trace in figure.data] == ["none"]
    assert "Shaded" not in theme.caption(figure)


def test_several_seeds_are_thin_lines_and_their_mean() -> None:
    tables = [formation_table(f"seed_{seed}", "value", seed) for seed in range(3)]
    table = pd.concat(tables, ignore_index=True)
    figure = formation.accuracy_curves(table)
    found = lines(figure)
    assert set(found) == {"seed_0", "seed_1", "seed_2", "value (mean of 3 seeds)"}
    seeds = np.array([values(table, "in_context_accuracy", f"seed_{seed}") for seed in range(3)])
    mean = found["value (mean of 3 seeds)"]
    np.testing.assert_allclose(mean.y, seeds.mean(axis=0))
    assert all(found[f"seed_{seed}"].line.width < mean.line.width for seed in range(3))
    assert not any(trace.name == "interval" for trace in figure.data)


def test_the_mean_stops_where_a_run_stops() -> None:
    longer, shorter = formation_table("a", "value", 0), formation_table("b", "value", 1)
    table = pd.concat([longer, shorter[shorter["step"] < SMALL.steps[-1]]])
    assert list(lines(formation.accuracy_curves(table))["value (mean of 2 seeds)"].x) == SMALL.steps[:-1]


def test_a_single_checkpoint_is_a_visible_point() -> None:
    table = formation_table()
    figure = formation.accuracy_curves(table[table["step"] == 0])
    assert [list(trace.y) for trace in figure.data if trace.mode == "markers"] == [values(table, "in_context_accuracy", "none")[:1]]


def test_the_formed_step_is_marked_on_the_curve_and_named(two_variants: pd.DataFrame) -> None:
    figure = formation.accuracy_curves(two_variants, formed={"a": 300, "b": None}, threshold=0.95)
    (marker,) = [trace for trace in figure.data if trace.name == "formed"]
    assert list(marker.x) == [300]
    assert list(marker.y) == [values(two_variants, "in_context_accuracy", "a")[3]]
    assert set(lines(figure)) == {"none: formed at step 300", "value: not formed by step 400"}
    dotted = [shape for shape in figure.layout.shapes if shape.x0 == shape.x1 == 300]
    assert len(dotted) == 1


def test_runs_that_did_not_form_are_counted() -> None:
    table = pd.concat([formation_table(f"seed_{seed}", "value", seed) for seed in range(3)])
    figure = formation.accuracy_curves(table, formed={"seed_0": 200, "seed_1": None, "seed_2": 300})
    assert "value (mean of 3 seeds): 2 of 3 formed, at steps 200 to 300" in lines(figure)


def test_losses_have_a_panel_each_and_a_floor_where_one_is_given() -> None:
    table = formation_table()
    figure = formation.loss_curves(table, references={"bigram_loss": 2.31})
    panels = {trace.xaxis: list(trace.y) for trace in figure.data if trace.fill is None}
    assert panels == {axis: values(table, metric, "none") for axis, metric in zip(("x", "x2", "x3"), formation.LOSS_TITLES, strict=True)}
    floors = [(shape.y0, shape.y1, shape.yref) for shape in figure.layout.shapes]
    assert floors == [(2.31, 2.31, "y3")]
    assert "floor 2.31" in [note.text for note in figure.layout.annotations]


def test_losses_without_floors_draw_none() -> None:
    figure = formation.loss_curves(formation_table())
    assert not figure.layout.shapes
    assert "floor" not in theme.caption(figure)


def test_evaluations_of_the_training_loop_make_the_same_curves() -> None:
    metrics = training_metrics()
    table = formation.from_metrics(metrics, run="r", variant="key", seed=7)
    evaluated = metrics.dropna(subset="in_context_accuracy")
    line = lines(formation.accuracy_curves(table))["key"]
    assert list(line.x) == evaluated["step"].tolist()
    assert list(line.y) == evaluated["in_context_accuracy"].tolist()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda table: table.drop(columns="value"), "lacks the columns value"),
        (lambda table: table.iloc[:0], "has no rows"),
        (lambda table: table[table["metric"] == "loss"], "unknown metric"),
    ],
)
def test_a_table_that_lacks_something_is_refused(broken: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        formation.accuracy_curves(broken(formation_table()))


def test_a_table_without_losses_is_refused() -> None:
    table = formation_table()
    with pytest.raises(UsageError, match="none of the losses"):
        formation.loss_curves(table[table["metric"] == "in_context_accuracy"])


def test_metrics_without_an_evaluation_are_refused() -> None:
    with pytest.raises(UsageError, match="no rows"):
        formation.from_metrics(training_metrics()[["step", "train_loss"]].assign(loss=np.nan), run="r", variant="none", seed=0)
