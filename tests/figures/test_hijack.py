"""The map and the margins show the prompts of the table, each with its winner, at the step that the slider names."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import plotly.io
import pytest
import torch

from tests.figures.synthetic_hijack import N_CONTEXT, STEPS, hijack_table, prompts_table, strengths
from workbench.analysis.hijack_measure import hijack_margin
from workbench.errors import UsageError
from workbench.figures import hijack, theme

LAST = STEPS[-1]
CLOSED, ATTENDED = "closed form", "attention of the induction heads"


def followed(prompts: pd.DataFrame) -> pd.DataFrame:
    """Prompts that are there at the first step and show c, at every step."""
    ids = set(prompts.loc[prompts["step"] == STEPS[0], "prompt"])
    return prompts[prompts["prompt"].isin(ids) & (prompts["n_context"] > 0)].sort_values(["step", "prompt"])


def drawn_points(figure: Any, changes: dict[str, Any] | None = None) -> dict[tuple[int, ...], list[tuple[float, float, str]]]:
    """(height, margin, winner) of each point, by its design; from the picture itself or from a step of the slider."""
    points: dict[tuple[int, ...], list[tuple[float, float, str]]] = {}
    for number, winner in enumerate(hijack.WINNERS):
        trace = figure.data[number]
        heights = trace.y if changes is None else changes["y"][number]
        margins = trace.marker.color if changes is None else changes["marker.color"][number]
        for facts, height, margin in zip(trace.customdata, heights, margins, strict=True):
            if height is not None:
                points.setdefault(tuple(int(value) for value in facts[:6]), []).append((height, margin, winner))
    return points


def expected_points(prompts: pd.DataFrame, step: int, column: str = "gap") -> dict[tuple[int, ...], list[tuple[float, float, str]]]:
    rows = followed(prompts)
    points: dict[tuple[int, ...], list[tuple[float, float, str]]] = {}
    for row in rows[rows["step"] == step].to_dict("records"):
        design = tuple(int(row[name]) for name in ("trigger", "context", "prior", "n_context", "n_prior", "distance"))
        winner = "context wins" if row["margin"] >= 0 else "hijacked"
        points.setdefault(design, []).append((round(row[column], 2), round(row["margin"], 2), winner))
    return points


def same(left: dict[tuple[int, ...], list], right: dict[tuple[int, ...], list]) -> bool:
    return {key: sorted(value) for key, value in left.items()} == {key: sorted(value) for key, value in right.items()}


def test_every_slider_step_holds_the_prompts_of_that_step_and_the_last_is_shown_first() -> None:
    prompts = prompts_table()
    figure = hijack.hijack_map(prompts.sample(frac=1, random_state=3), hijack_table())
    (slider,) = figure.layout.sliders
    assert [int(step.label) for step in slider.steps] == list(STEPS)
    assert slider.active == len(STEPS) - 1
    assert same(drawn_points(figure), expected_points(prompts, LAST))
    for step in slider.steps:
        changes, traces = step.args
        assert list(traces) == [0, 1, 2, 3]
        assert same(drawn_points(figure, changes), expected_points(prompts, int(step.label)))
    won = {winner for points in drawn_points(figure).values() for _, _, winner in points}
    assert won == {"context wins", "hijacked"}


def test_points_stand_at_their_log_odds_but_for_a_small_known_offset() -> None:
    prompts = prompts_table()
    trace = hijack.hijack_map(prompts).data[0]
    for x, facts in zip(trace.x, trace.customdata, strict=True):
        offset = {1: -hijack.OFFSET, 2: 0.0, 4: hijack.OFFSET}[facts[3]]
        assert x == pytest.approx(facts[6] + offset, abs=0.011)


def test_the_boundaries_are_lines_of_the_slope_in_the_table() -> None:
    figure = hijack.hijack_map(prompts_table(), hijack_table())
    for step in figure.layout.sliders[0].steps:
        t = strengths(int(step.label))
        for number, factor in ((2, 1.0), (3, 0.8)):
            heights = step.args[0]["y"][number]
            x = figure.data[number].x
            assert (heights[1] - heights[0]) / (x[1] - x[0]) == pytest.approx(factor * t["t3"] / t["t2"], abs=0.005)
            assert heights[0] == pytest.approx(factor * t["t3"] / t["t2"] * x[0], abs=0.006)
    assert [trace.line.dash for trace in figure.data if trace.mode == "lines"] == ["solid", "dash"]
    slope = strengths(LAST)["t3"] / strengths(LAST)["t2"]
    assert f"closed form: gap = {slope:.2g} [{slope - 0.05:.2g}, {slope + 0.05:.2g}]" in figure.data[2].name


def test_a_boundary_without_a_value_is_not_drawn_at_that_step() -> None:
    table = hijack_table()
    table.loc[(table["metric"] == "hijack_boundary") & (table["step"] == 100) & (table["part"] == CLOSED), "value"] = np.inf
    table = table[~((table["metric"] == "hijack_boundary") & (table["part"] == ATTENDED))]
    figure = hijack.hijack_map(prompts_table(), table)
    assert len([trace for trace in figure.data if trace.mode == "lines"]) == 1
    at = figure.layout.sliders[0].steps[1].args[0]
    assert list(at["y"][2]) == [None, None] and "none at this step" in at["name"][2]
    assert "dashed" not in theme.caption(figure)


def test_colours_are_symmetric_and_the_same_at_every_step() -> None:
    axis = hijack.hijack_map(prompts_table()).layout.coloraxis
    assert axis.cmin == -axis.cmax < 0
    assert axis.colorscale[0][1] == theme.VERMILION and axis.colorscale[-1][1] == theme.BLUE


def test_without_induction_heads_the_closed_forms_gap_is_drawn_and_the_figure_says_so() -> None:
    prompts = prompts_table(gap=False)
    figure = hijack.hijack_map(prompts, hijack_table())
    assert same(drawn_points(figure), expected_points(prompts, LAST, "theory_gap"))
    assert "of the closed form" in figure.layout.yaxis.title.text and "no induction heads" in theme.caption(figure)
    assert "of the induction heads" in hijack.hijack_map(prompts_table()).layout.yaxis.title.text


def test_a_prompt_without_a_number_at_one_step_is_left_out_there_only() -> None:
    prompts = prompts_table()
    row = followed(prompts).iloc[0]
    prompts.loc[(prompts["prompt"] == row["prompt"]) & (prompts["step"] == 100), "margin"] = np.nan
    figure = hijack.hijack_map(prompts)
    drawn = [sum(map(len, drawn_points(figure, step.args[0]).values())) for step in figure.layout.sliders[0].steps]
    assert drawn[1] == drawn[0] or drawn[1] == drawn[0] - 1
    assert "NaN" not in plotly.io.to_json(figure)


def test_a_single_checkpoint_has_no_slider_and_at_most_so_many_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_table(steps=(0,))
    figure = hijack.hijack_map(prompts, hijack_table(steps=(0,)))
    assert not figure.layout.sliders and len(figure.data[0].x) == 144
    monkeypatch.setattr(hijack, "MAX_POINTS", 53)
    fewer = hijack.hijack_map(prompts)
    assert len(fewer.data[0].x) == 53
    assert {facts[5] for facts in fewer.data[0].customdata} == {2, 8, 24}
    assert "53 prompts" in theme.caption(fewer)


def test_forty_one_checkpoints_of_the_largest_map_stay_small() -> None:
    steps = tuple(range(0, 1025, 25))
    copies = [prompts_table(seed=seed, steps=steps) for seed in range(6)]
    prompts = pd.concat([copy.assign(prompt=copy["prompt"] + 1000 * seed, seed=0) for seed, copy in enumerate(copies)], ignore_index=True)
    figure = hijack.hijack_map(prompts, hijack_table(steps=steps))
    assert len(figure.data[0].x) == hijack.MAX_POINTS
    assert len(plotly.io.to_html(figure, include_plotlyjs=False, full_html=False)) < 350_000


def test_margins_by_context_are_means_of_the_prompts_with_the_interval_of_the_tables() -> None:
    prompts = prompts_table()
    figure = hijack.margin_by_context(prompts)
    rows = prompts[(prompts["step"] == LAST) & (prompts["n_prior"] == 0)]
    points = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines" and trace.legendgroup}
    assert set(points) == {"log-odds -2", "log-odds 0", "log-odds 2", "log-odds 4"}
    for level in (-2, 0, 2, 4):
        trace = points[f"log-odds {level}"]
        for at, pairs in enumerate(N_CONTEXT):
            cell = rows[(rows["n_context"] == pairs) & (rows["log_odds"].round() == level)]
            assert len(cell) == 6
            estimate = hijack_margin(torch.tensor(cell["margin"].to_numpy())).estimate()
            assert trace.y[at] == pytest.approx(estimate.value.item())
            assert trace.error_y.array[at] == pytest.approx((estimate.ci_high - estimate.value).item())
            assert abs(trace.x[at] - pairs) < 0.1
            assert lines[f"log-odds {level}, closed form"].y[at] == pytest.approx(cell["predicted"].mean())
    colours = [trace.marker.color for trace in points.values()]
    assert len(set(colours)) == 4 and [line.line.color for line in lines.values()] == colours
    assert {"context wins ↑", "hijacked ↓"} <= {note.text for note in figure.layout.annotations}


def test_margins_without_a_prediction_or_a_cell_are_drawn_as_far_as_they_go() -> None:
    prompts = prompts_table(steps=(0,)).assign(predicted=np.nan)
    prompts = prompts[(prompts["n_context"] != 2) | (prompts["log_odds"].round() != 4)]
    figure = hijack.margin_by_context(prompts)
    assert all(trace.mode == "markers" for trace in figure.data)
    assert figure.data[-1].y[2] is None and figure.data[-1].y[3] is not None
    assert "NaN" not in json.dumps(json.loads(plotly.io.to_json(figure)))


@pytest.mark.parametrize("draw", [hijack.hijack_map, hijack.margin_by_context])
def test_tables_that_cannot_be_drawn_are_refused(draw: Any) -> None:
    prompts = prompts_table()
    with pytest.raises(UsageError, match="lacks the columns margin"):
        draw(prompts.drop(columns="margin"))
    with pytest.raises(UsageError, match="no rows"):
        draw(prompts.iloc[:0])
    with pytest.raises(UsageError, match=r"2 runs \(a, b\)"):
        draw(pd.concat([prompts_table("a"), prompts_table("b")]))


def test_a_table_without_any_gap_or_plain_prompt_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no prompt .* has an attention gap"):
        hijack.hijack_map(prompts_table(gap=False).assign(theory_gap=np.nan))
    with pytest.raises(UsageError, match="no prompt with n_prior 0"):
        hijack.margin_by_context(prompts_table().query("n_prior == 1"))


def test_names_of_runs_are_shown_as_they_are() -> None:
    for draw in (hijack.hijack_map, hijack.margin_by_context):
        assert "&lt;b&gt;" in draw(prompts_table("<b>")).layout.title.text
