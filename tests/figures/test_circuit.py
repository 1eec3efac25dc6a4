"""The circuit's curves are rows of the tables, each chosen by its head or part, and say what they are."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.circuit import STYLES, circuit_curves, circuit_rows

STEPS = [0, 50, 100]


def table(*curves: tuple[str, float, dict[str, Any]], run: str = "a") -> pd.DataFrame:
    rows = [
        {"run": run, "task": "own", "step": step, "metric": metric, "value": end * step / 100, "ci_low": 0.0, "ci_high": 1.0, **place}
        for metric, end, place in curves
        for step in STEPS
    ]
    made = pd.DataFrame(rows)
    return made.astype({name: "Int64" for name in ("layer", "head") if name in made})


def tables(run: str = "a") -> dict[str, pd.DataFrame | None]:
    formation = table(
        ("in_context_accuracy", 0.97, {}),
        ("previous_token_at_answers", 0.61, {"layer": 0, "head": 1}),
        ("previous_token_at_answers", 0.11, {"layer": 0, "head": 0}),
        ("prefix_matching_score", 0.91, {"layer": 1, "head": 2}),
        ("prefix_matching_score", 0.13, {"layer": 1, "head": 0}),
        ("prefix_matching_score", 0.17, {"layer": 1, "head": 2, "task": "equal-repeats"}),
        run=run,
    )
    probes = table(
        ("copying_probe", 0.23, {"layer": 1, "part": "own"}),
        ("copying_probe", 0.83, {"layer": 1, "part": "total"}),
        ("copying_probe", 0.29, {"layer": 1, "head": 2, "part": "total"}),
        ("copying_probe", 0.31, {"layer": 0, "part": "own"}),
        run=run,
    )
    causal = table(
        ("ablation_accuracy_loss", 0.89, {"part": "induction heads", "intervention": "mean"}),
        ("ablation_accuracy_loss", 0.79, {"part": "induction heads", "intervention": "zero"}),
        ("ablation_accuracy_loss", 0.01, {"layer": 1, "head": 2, "intervention": "mean"}),
        run=run,
    )
    stream = table(
        ("cut_accuracy_share", 0.71, {"intervention": "mean"}),
        ("cut_accuracy_share", 0.02, {"layer": 1, "head": 2, "intervention": "mean"}),
        run=run,
    )
    return {"formation": formation, "probes": probes, "causal": causal, "stream": stream}


ENDS = {
    "previous-token head": 0.61,
    "trigger match": 0.91,
    "copying": 0.83,
    "in-context accuracy": 0.97,
    "lost without the induction heads": 0.89,
    "lost when the wire is cut": 0.71,
}


def ends(rows: pd.DataFrame) -> dict[str, float]:
    last = rows[rows["step"] == 100]
    assert not last["curve"].duplicated().any()
    return dict(zip(last["curve"], last["value"], strict=True))


def test_each_curve_is_its_own_row_of_the_tables() -> None:
    assert ends(circuit_rows(tables(), "L0H1", "L1H2")) == ENDS
    assert set(ENDS) == set(STYLES)


def test_what_a_run_does_not_have_is_left_out() -> None:
    without_heads = circuit_rows(tables(), None, None)
    assert set(without_heads["curve"]) == {"in-context accuracy", "lost when the wire is cut"}
    plain = tables() | {"stream": None, "causal": None}
    plain["probes"] = table(("copying_probe", 0.23, {"layer": 1, "part": "own"}))
    found = ends(circuit_rows(plain, "L0H1", "L1H2"))
    assert found["copying"] == 0.23 and "lost when the wire is cut" not in found
    assert circuit_rows({}, "L0H1", "L1H2").empty


def test_a_panel_for_each_run_and_a_legend_entry_for_each_curve() -> None:
    rows = pd.concat([circuit_rows(tables(run), "L0H1", "L1H2") for run in ("a", "b")], ignore_index=True)
    figure = circuit_curves(rows)
    assert [annotation.text for annotation in figure.layout.annotations] == ["a", "b"]
    lines = [trace for trace in figure.data if trace.name != "interval"]
    assert [trace.name for trace in lines if trace.showlegend] == list(STYLES)
    for trace in lines:
        assert list(trace.x) == STEPS and trace.y[-1] == ENDS[trace.name]
        assert (trace.line.color, trace.line.dash) == STYLES[trace.name]
    assert {trace.yaxis for trace in lines} == {"y", "y2"}
    assert "depends on it" in theme.caption(figure)


def test_wrong_calls() -> None:
    with pytest.raises(UsageError, match="no rows"):
        circuit_curves(pd.DataFrame(columns=["run", "curve", "step", "value"]))
    with pytest.raises(UsageError, match="lacks the columns curve"):
        circuit_curves(pd.DataFrame({"run": ["a"], "step": [0], "value": [0.0]}))
    with pytest.raises(UsageError, match="no style for the curve 'loss'"):
        circuit_curves(pd.DataFrame({"run": ["a"], "curve": ["loss"], "step": [0], "value": [0.0]}))
    with pytest.raises(UsageError, match="'H3' is no name of a head"):
        circuit_rows(tables(), "H3", None)
