"""Figures of a comparison show the numbers of its tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.compare import comparison_curves, paired_differences


def curves(*variants: str) -> pd.DataFrame:
    rows = [
        {"variant": name, "step": step, "mean": 0.1 * place, "ci_low": 0.1 * place - 0.05, "ci_high": 0.1 * place + 0.05, "n": 5}
        for place, name in enumerate(variants, start=1)
        for step in (7, 0)
    ]
    return pd.DataFrame(rows)


def test_the_reference_is_in_every_panel():
    figure = comparison_curves(curves("none", "value", "key", "query"), metric="in_context_accuracy", reference="none", threshold=0.95)
    lines = [trace for trace in figure.data if trace.name != "interval"]
    assert [(trace.xaxis, trace.legendgroup) for trace in lines] == [
        (axis, name) for axis, other in (("x", "value"), ("x2", "key"), ("x3", "query")) for name in ("none", other)
    ]
    assert [trace.name for trace in lines if trace.showlegend] == ["none (5 seeds)"]
    assert list(lines[1].x) == [0, 7] and list(lines[1].y) == pytest.approx([0.2, 0.2])
    band = next(trace for trace in figure.data if trace.name == "interval")
    assert list(band.x) == [0, 7, 7, 0] and list(band.y) == pytest.approx([0.15, 0.15, 0.05, 0.05])
    assert [shape.y0 for shape in figure.layout.shapes] == [0.95] * 3 and "0.95" in theme.caption(figure)


def test_two_variants_share_one_panel_and_its_legend():
    figure = comparison_curves(curves("none", "value"), metric="loss", reference="none")
    assert [trace.name for trace in figure.data if trace.showlegend] == ["none (5 seeds)", "value (5 seeds)"]
    assert len(comparison_curves(curves("none"), metric="loss").data) == 2
    single = curves("none").assign(ci_low=math.nan, ci_high=math.nan, n=1)
    assert [trace.name for trace in comparison_curves(single, metric="loss").data] == ["none (1 seed)"]
    with pytest.raises(UsageError, match="no rows"):
        comparison_curves(curves("none").iloc[:0], metric="loss")


def test_differences_and_bounds():
    seeds = pd.DataFrame({"variant": "value", "seed": [0, 1, 2], "difference": [-30.0, np.nan, np.nan]})
    seeds = seeds.assign(low=[-30.0, 50.0, -math.inf], high=[-30.0, math.inf, -70.0])
    table = pd.DataFrame({"variant": ["none", "value"], "difference": math.nan, "difference_low": math.nan, "difference_high": math.nan})
    figure = paired_differences(seeds, table, quantity="steps", reference="none", unit="steps")
    drawn = [(trace.marker.symbol, list(trace.x), list(trace.customdata)) for trace in figure.data]
    assert drawn == [("circle", [-30], [0]), ("triangle-right-open", [50], [1]), ("triangle-left-open", [-70], [2])]
    assert "censored" in theme.caption(figure) and list(figure.layout.yaxis.ticktext) == ["value"]


def test_the_mean_and_its_interval():
    seeds = pd.DataFrame({"variant": "value", "seed": [0, 1], "difference": [-30.0, -10.0], "low": [-30.0, -10.0], "high": [-30.0, -10.0]})
    table = pd.DataFrame({"variant": ["value"], "difference": [-20.0], "difference_low": [-45.0], "difference_high": [5.0]})
    figure = paired_differences(seeds, table, quantity="steps", reference="none")
    mean = figure.data[-1]
    assert list(mean.x) == [-20] and mean.error_x.array[0] == 25 and mean.error_x.arrayminus[0] == 25
    assert "censored" not in theme.caption(figure)
