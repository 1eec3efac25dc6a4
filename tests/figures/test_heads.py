"""Scores of heads: curves and heat map show the table's numbers, at the step that the slider names."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from tests.figures.synthetic import HEAD_METRICS, SMALL, formation_table
from workbench.errors import UsageError
from workbench.figures import head_curves, heads

TASK = "trigger-bigram"


def score(table: pd.DataFrame, run: str, metric: str, step: int, layer: int, head: int, task: str = TASK) -> float:
    wanted = {"run": run, "metric": metric, "step": step, "layer": layer, "head": head, "task": task}
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table["value"].iloc[0]


def expected_grid(table: pd.DataFrame, run: str, metric: str, step: int, task: str = TASK) -> list[list[float]]:
    return [[score(table, run, metric, step, layer, head, task) for head in range(SMALL.n_heads)] for layer in range(SMALL.n_layers)]


@pytest.fixture
def two_runs() -> pd.DataFrame:
    return pd.concat([formation_table("a", "none"), formation_table("b", "value")], ignore_index=True)


@pytest.mark.parametrize("task", ["trigger-bigram", "equal-repeats"])
def test_every_slider_step_holds_that_steps_values(two_runs: pd.DataFrame, task: str) -> None:
    figure = heads.score_heat_map(two_runs.sample(frac=1, random_state=1).sort_values("run"), task=task)
    (slider,) = figure.layout.sliders
    assert [int(step.label) for step in slider.steps] == SMALL.steps
    for step in slider.steps:
        changes, traces = step.args
        assert list(traces) == list(range(6))
        expected = [expected_grid(two_runs, run, metric, int(step.label), task) for run in "ab" for metric in HEAD_METRICS]
        assert [[list(row) for row in panel] for panel in changes["z"]] == expected


@pytest.mark.parametrize("step", [None, 200])
def test_the_first_picture_is_that_of_the_active_step(two_runs: pd.DataFrame, step: int | None) -> None:
    figure = heads.score_heat_map(two_runs, task=TASK, step=step)
    shown = SMALL.steps[-1] if step is None else step
    assert SMALL.steps[figure.layout.sliders[0].active] == shown
    drawn = [[list(row) for row in trace.z] for trace in figure.data]
    assert drawn == [expected_grid(two_runs, run, metric, shown) for run in "ab" for metric in HEAD_METRICS]
    assert all(list(trace.x) == ["H0", "H1", "H2"] and list(trace.y) == ["L0", "L1"] for trace in figure.data)


def test_the_colours_span_zero_to_one_at_every_step(two_runs: pd.DataFrame) -> None:
    figure = heads.score_heat_map(two_runs, task=TASK)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}


def test_a_run_without_a_checkpoint_at_a_step_has_empty_cells(two_runs: pd.DataFrame) -> None:
    table = two_runs[(two_runs["run"] == "a") | (two_runs["step"] != 100)]
    step = heads.score_heat_map(table, task=TASK).layout.sliders[0].steps[1]
    assert step.label == "100"
    panels = [[list(row) for row in panel] for panel in step.args[0]["z"]]
    assert panels[0] == expected_grid(two_runs, "a", HEAD_METRICS[0], 100)
    assert panels[3:] == [[[None] * SMALL.n_heads] * SMALL.n_layers] * 3


def test_heat_map_errors(two_runs: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="several tasks"):
        heads.score_heat_map(two_runs)
    with pytest.raises(UsageError, match="no step 7"):
        heads.score_heat_map(two_runs, task=TASK, step=7)
    with pytest.raises(UsageError, match="did you mean equal-repeats"):
        heads.score_heat_map(two_runs, task="equal-repeat")
    with pytest.raises(UsageError, match="not a score of heads"):
        heads.score_heat_map(two_runs, metrics=["loss"])
    with pytest.raises(UsageError, match="none of the scores"):
        heads.score_heat_map(two_runs[two_runs["metric"] == "loss"])


def test_score_curves_hold_the_values_of_every_head(two_runs: pd.DataFrame) -> None:
    figure = head_curves.score_curves(two_runs, task=TASK)
    axes = {("previous_token_score", "a"): "x", ("previous_token_score", "b"): "x2"}
    axes |= {("prefix_matching_score", "a"): "x3", ("prefix_matching_score", "b"): "x4"}
    for (metric, run), axis in axes.items():
        panel = {trace.meta["head"]: trace for trace in figure.data if trace.xaxis == axis}
        assert set(panel) == {f"L{layer}H{head}" for layer in range(SMALL.n_layers) for head in range(SMALL.n_heads)}
        for name, trace in panel.items():
            layer, head = int(name[1]), int(name[3])
            assert list(trace.x) == SMALL.steps
            assert list(trace.y) == [score(two_runs, run, metric, step, layer, head) for step in SMALL.steps]


def test_heads_with_a_role_stand_out_in_their_own_run_only(two_runs: pd.DataFrame) -> None:
    roles = {"a": {"L0H1": "previous-token head", "L1H2": "induction head"}, "b": {"L1H0": "induction head"}}
    figure = head_curves.score_curves(two_runs, task=TASK, roles=roles)
    for trace in figure.data:
        role = roles[trace.meta["run"]].get(trace.meta["head"])
        assert trace.name == (role or head_curves.OTHER_HEADS)
        assert (trace.line.color in head_curves.ROLE_COLOURS.values()) == (role is not None)
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(legend) == ["induction head", "other heads", "previous-token head"]
    labels = [note.text for note in figure.layout.annotations]
    assert labels.count("L0H1") == labels.count("L1H2") == labels.count("L1H0") == 2


def test_end_labels_do_not_lie_upon_each_other(two_runs: pd.DataFrame) -> None:
    roles = {"a": {f"L1H{head}": "induction head" for head in range(SMALL.n_heads)}}
    figure = head_curves.score_curves(two_runs, task=TASK, roles=roles, metrics=["duplicate_token_score"])
    heights = sorted(note.y for note in figure.layout.annotations if note.text.startswith("L1H"))
    assert len(heights) == SMALL.n_heads
    assert all(above - below >= 0.099 for below, above in itertools.pairwise(heights))


def test_an_unknown_role_is_refused(two_runs: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="did you mean induction head"):
        head_curves.score_curves(two_runs, task=TASK, roles={"a": {"L1H2": "inductionhead"}})


def test_names_of_runs_are_shown_as_they_are() -> None:
    figure = heads.score_heat_map(formation_table("<b>run</b>", "none"), task=TASK)
    assert "&lt;b&gt;run&lt;/b&gt;" in [note.text for note in figure.layout.annotations]
