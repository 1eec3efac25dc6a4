"""The stream's curves are rows of the tables, each chosen by its head, part and kind of cut."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tests.figures.synthetic_circuits import CONTRASTS, COPYING, CUTS, MATCH, PATHS, STEPS, circuits_table, stream_table
from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.stream import own_and_streamed, split_rows, wire_cuts
from workbench.figures.tables import where


def lines(figure: Any) -> dict[tuple[str, str], list[float]]:
    """(name, y axis) -> values."""
    return {(trace.name, trace.yaxis): list(trace.y) for trace in figure.data if trace.name != "interval"}


def titles(figure: Any) -> list[str]:
    return [note.text for note in figure.layout.annotations]


def split(variant: str = "value", run: str | None = None) -> pd.DataFrame:
    run = variant if run is None else run
    return split_rows(stream_table(run, variant), circuits_table(run, variant), "L1H2")


def rising(end: float) -> Any:
    return pytest.approx([end * step / STEPS[-1] for step in STEPS], abs=1e-4)


def test_of_a_value_stream_copying_and_shares_of_the_one_head() -> None:
    figure = own_and_streamed(split())
    assert titles(figure) == ["Copying score of the weights", "Share that came along the wire", "value<br>L1H2"]
    assert lines(figure) == {
        ("own", "y"): rising(COPYING["own"]),
        ("streamed", "y"): rising(COPYING["streamed"]),
        ("share of what it reads", "y2"): rising(0.67),
        ("share of what it writes", "y2"): rising(0.73),
        ("share of its OV weights", "y2"): rising(0.57),
    }
    words = theme.caption(figure)
    assert "Copying" in words and "its output" in words and "Match" not in words and "contrast" not in words


@pytest.mark.parametrize("variant", ["query", "key-first"])
def test_of_a_query_or_key_stream_the_match_and_the_contrast(variant: str) -> None:
    figure = own_and_streamed(split(variant))
    assert titles(figure)[:3] == ["Match score of the weights", "Share that came along the wire", "Score contrast"]
    assert lines(figure) == {
        **{(part, "y"): rising(MATCH[part]) for part in ("own", "streamed")},
        ("share of what it reads", "y2"): rising(0.67),
        **{(part, "y3"): rising(CONTRASTS[part]) for part in ("own", "streamed")},
    }
    words = theme.caption(figure)
    assert "Match" in words and "contrast" in words and "Copying" not in words and "its output" not in words


def test_each_kind_of_cut_and_path_of_all_layers_together() -> None:
    figure = wire_cuts(stream_table())
    assert lines(figure) == {
        ("cut: mean over sequences", "y"): rising(CUTS["mean"]),
        ("cut: another sequence's", "y"): rising(CUTS["resample"]),
        ("cut: another head's", "y"): rising(CUTS["permuted"]),
        ("path: wire alone", "y2"): rising(PATHS["wire"]),
        ("path: residual stream alone", "y2"): rising(PATHS["residual"]),
        ("path: both", "y2"): rising(PATHS["both"]),
    }
    assert "what layer 0 projects" in theme.caption(figure)
    assert sum(trace.name == "interval" for trace in figure.data) == 6


def test_of_several_source_layers_the_first_is_drawn() -> None:
    found = lines(wire_cuts(stream_table(sources=(1, 0))))
    assert found["path: both", "y2"] == rising(PATHS["both"])


def test_a_row_of_panels_for_each_run_and_one_legend() -> None:
    tables = [stream_table("a"), stream_table("b")]
    for figure in (wire_cuts(pd.concat(tables)), own_and_streamed(pd.concat([split(run="a"), split(run="b")]))):
        curves = [trace for trace in figure.data if trace.name != "interval"]
        assert {trace.yaxis for trace in curves} == {"y", "y2", "y3", "y4"}
        shown = [trace.name for trace in curves if trace.showlegend]
        assert len(shown) == len(set(shown)) == len(curves) / 2
        assert titles(figure)[2].startswith("a") and titles(figure)[3].startswith("b")


def test_a_value_and_a_query_stream_side_by_side_have_their_own_panels() -> None:
    found = lines(own_and_streamed(pd.concat([split("value"), split("query")])))
    assert found["own", "y"] == rising(COPYING["own"]) and found["own", "y6"] == rising(MATCH["own"])
    assert ("own", "y2") not in found and ("own", "y5") not in found


def test_a_single_checkpoint_is_a_marker_and_one_head_has_no_permuted_cut() -> None:
    table = stream_table(steps=(0,))
    figure = wire_cuts(table[table["intervention"] != "permuted"])
    assert {trace.mode for trace in figure.data} == {"markers"} and not any("another head" in trace.name for trace in figure.data)
    assert "control" not in theme.caption(figure) and "control" in theme.caption(wire_cuts(table))
    sizes = [trace.marker.size for trace in figure.data if trace.yaxis == "y"]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)  # none hides another


def test_names_from_outside_are_text() -> None:
    assert "&lt;i&gt;<br>L1H2" in titles(own_and_streamed(split(run="<i>")))
    assert "&lt;i&gt;" in titles(wire_cuts(stream_table("<i>")))


def test_wrong_calls() -> None:
    with pytest.raises(UsageError, match="no rows of cut_accuracy_share"):
        wire_cuts(where(stream_table(), metric="stream_scale"))
    with pytest.raises(UsageError, match="lacks the columns intervention"):
        wire_cuts(stream_table().drop(columns="intervention"))
    with pytest.raises(UsageError, match="no rows"):
        own_and_streamed(split().iloc[:0])
    with pytest.raises(UsageError, match="'H2' is no name of a head"):
        split_rows(stream_table(), None, "H2")
