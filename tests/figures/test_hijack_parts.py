"""The stacks hold every contribution once and add up to the margin; the curves are rows of the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.figures.synthetic_hijack import AGAINST, STEPS, hijack_table
from workbench.errors import UsageError
from workbench.figures import hijack_curves, hijack_parts, theme

LAST = STEPS[-1]


def value(table: pd.DataFrame, metric: str, step: int = LAST, **place: Any) -> float:
    rows = table[(table["metric"] == metric) & (table["step"] == step)]
    for column in ("layer", "head", "part", "condition"):
        wanted = place.get(column)
        rows = rows[rows[column].isna() if wanted is None else (rows[column] == wanted).fillna(False)]
    assert len(rows) == 1
    return rows["value"].iloc[0]


def bars(figure: Any, axis: str = "x") -> dict[str, list[float]]:
    return {trace.name: list(trace.y) for trace in figure.data if trace.type == "bar" and trace.xaxis == axis}


@pytest.mark.parametrize("variant", ["none", "value"])
@pytest.mark.parametrize("sizes", [{}, {"mlp": True}, {"n_layers": 3, "n_heads": 7, "mlp": True}, {"n_layers": 1}])
def test_every_stack_adds_up_to_the_margin(variant: str, sizes: dict[str, Any]) -> None:
    table = hijack_table(variant=variant, **sizes)
    figure = hijack_parts.margin_parts(table)
    for axis in ("x", "x2"):
        totals = np.sum(list(bars(figure, axis).values()), axis=0)
        (marker,) = [trace for trace in figure.data if trace.type == "scatter" and trace.xaxis == axis]
        assert list(marker.x) == ["0", "1", "2", "4"]
        assert list(marker.y) == pytest.approx(totals)
        for at, pairs in enumerate((1, 2, 4), start=1):
            assert totals[at] == pytest.approx(value(table, "hijack_margin", condition=f"n_context {pairs}"))
    assert figure.layout.barmode == "relative"


def test_parts_are_those_of_the_table_with_layer_0_as_one_and_the_stream_apart() -> None:
    table = hijack_table(variant="value", mlp=True)
    figure = hijack_parts.margin_parts(table)
    stack = bars(figure)
    heads = [f"L1H{head} {share}" for head in range(3) for share in ("own", "streamed")]
    assert list(stack) == [hijack_parts.EMBEDDING, hijack_parts.FIRST_HEADS, "MLP 0", "MLP 1", *heads]
    for at, pairs in enumerate((0, 1, 2, 4)):
        condition = f"n_context {pairs}"
        assert stack["L1H1 streamed"][at] == value(table, "hijack_contribution", layer=1, head=1, part="streamed", condition=condition)
        assert stack["MLP 1"][at] == value(table, "hijack_contribution", layer=1, part="mlp", condition=condition)
        assert stack[hijack_parts.EMBEDDING][at] == pytest.approx(-0.83 + 0.07 - 0.11)
        assert stack[hijack_parts.FIRST_HEADS][at] == pytest.approx(-0.05 * (1 + 2 + 3))
        assert bars(figure, "x2")["causal: global"][at] == value(table, "hijack_causal_part", part="global", condition=condition)
    hatched = {trace.name for trace in figure.data if trace.type == "bar" and trace.marker.pattern.shape}
    assert hatched == {name for name in heads if name.endswith("streamed")}
    assert "hatched" in theme.caption(figure) and "hatched" not in theme.caption(hijack_parts.margin_parts(hijack_table()))


def test_of_many_heads_the_largest_are_told_apart_and_the_others_summed() -> None:
    table = hijack_table(n_layers=2, n_heads=11)
    stack = bars(hijack_parts.margin_parts(table))
    sizes = {head: abs(value(table, "hijack_contribution", layer=1, head=head, condition="n_context 4")) for head in range(11)}
    largest = sorted(sorted(sizes, key=lambda head: -sizes[head])[: hijack_parts.MAX_HEADS])
    assert list(stack)[2:] == [*(f"L1H{head}" for head in largest), hijack_parts.OTHER_HEADS]
    others = [value(table, "hijack_contribution", layer=1, head=head, condition="n_context 2") for head in range(11) if head not in largest]
    assert stack[hijack_parts.OTHER_HEADS][2] == pytest.approx(sum(others))


def test_a_table_with_one_kind_of_rows_has_one_panel_and_one_without_conditions_one_bar() -> None:
    table = hijack_table()
    alone = hijack_parts.margin_parts(table[table["metric"] == "hijack_causal_part"])
    assert set(bars(alone)) == {"causal: global", "causal: in context"} and not bars(alone, "x2")
    whole = hijack_parts.margin_parts(table[table["condition"].isna()].drop(columns="condition"))
    assert len(bars(whole)[hijack_parts.EMBEDDING]) == 1


def test_stacks_that_cannot_be_drawn_are_refused() -> None:
    table = hijack_table()
    with pytest.raises(UsageError, match="no rows hijack_contribution or hijack_causal_part at step 400"):
        hijack_parts.margin_parts(table[table["metric"] == "hijack_rate"])
    with pytest.raises(UsageError, match="lacks the columns part"):
        hijack_parts.margin_parts(table.drop(columns="part"))
    with pytest.raises(UsageError, match="2 runs"):
        hijack_parts.margin_parts(pd.concat([hijack_table("a"), hijack_table("b")]))


def curve(figure: Any, name: str, axis: str, dash: str = "solid") -> Any:
    traces = [trace for trace in figure.data if (trace.name, trace.xaxis, trace.line.dash) == (name, axis, dash)]
    assert len(traces) == 1
    return traces[0]


PLACES = [
    ("x", "solid", "hijack_rate", {}),
    ("x2", "solid", "hijack_causal_part", {"part": "in context", "condition": AGAINST}),
    ("x2", "dash", "hijack_causal_part", {"part": "global", "condition": AGAINST}),
    ("x3", "solid", "hijack_r2", {"part": "closed form"}),
    ("x3", "dash", "hijack_r2", {"part": "attention of the induction heads"}),
    ("x4", "solid", "hijack_boundary", {"part": "closed form"}),
    ("x4", "dash", "hijack_boundary", {"part": "attention of the induction heads"}),
    ("x5", "solid", "hijack_strength", {"part": "t1"}),
    ("x6", "solid", "hijack_strength", {"part": "t2"}),
    ("x7", "solid", "hijack_strength", {"part": "t3"}),
]


def test_each_run_has_its_line_in_every_panel_in_the_colour_of_its_variant() -> None:
    tables = {"a": hijack_table("a", "none"), "b": hijack_table("b", "value", 1)}
    figure = hijack_curves.hijack_curves(pd.concat(tables.values()).sample(frac=1, random_state=5))
    for axis, dash, metric, place in PLACES:
        for run, variant in (("a", "none"), ("b", "value")):
            trace = curve(figure, run, axis, dash)
            assert list(trace.x) == list(STEPS)
            assert list(trace.y) == [value(tables[run], metric, step, **place) for step in STEPS]
            assert trace.line.color == theme.variant_colour(variant)
    assert sorted(trace.name for trace in figure.data if trace.showlegend) == ["a", "b"]
    bands = [trace for trace in figure.data if trace.name == "interval" and trace.xaxis == "x"]
    rate = [value(tables["a"], "hijack_rate", step) for step in STEPS]
    assert any(list(band.y) == pytest.approx([at + 0.03 for at in rate] + [at - 0.03 for at in rate[::-1]]) for band in bands)


def test_runs_of_one_variant_are_told_apart_by_lightness() -> None:
    figure = hijack_curves.hijack_curves(pd.concat([hijack_table(f"seed_{seed}", "value", seed) for seed in range(3)]))
    colours = [curve(figure, f"seed_{seed}", "x").line.color for seed in range(3)]
    assert len(set(colours)) == 3 and colours[0] == theme.variant_colour("value")


def test_many_runs_are_drawn_as_means_with_their_range() -> None:
    tables = [hijack_table(f"{variant}/{seed}", variant, seed) for variant in ("none", "value") for seed in range(3)]
    tables[0] = tables[0][tables[0]["step"] != 100]
    figure = hijack_curves.hijack_curves(pd.concat(tables))
    for first, variant in ((0, "none"), (3, "value")):
        steps = [step for step in STEPS if variant == "value" or step != 100]
        trace = curve(figure, f"{variant} (mean of 3 runs)", "x6")
        values = np.array([[value(table, "hijack_strength", step, part="t2") for step in steps] for table in tables[first : first + 3]])
        assert list(trace.x) == steps
        assert list(trace.y) == pytest.approx(values.mean(axis=0))
        (band,) = [band for band in figure.data if band.name == "interval" and band.xaxis == "x6" and band.legendgroup == trace.name]
        assert list(band.y) == pytest.approx([*values.max(axis=0), *values.min(axis=0)[::-1]])
    assert "their range" in theme.caption(figure) and "95%" not in theme.caption(figure)


def test_a_single_checkpoint_is_drawn_with_markers_and_older_tables_as_far_as_they_go() -> None:
    one = hijack_curves.hijack_curves(hijack_table(steps=(0,)))
    assert {trace.mode for trace in one.data} == {"markers"}
    table = hijack_table()
    older = hijack_curves.hijack_curves(table[table["metric"].isin(["hijack_rate", "hijack_margin"])])
    assert {trace.xaxis for trace in older.data} == {"x"}
    with pytest.raises(UsageError, match="none of hijack_rate"):
        hijack_curves.hijack_curves(table[table["metric"] == "hijack_margin"])
    with pytest.raises(UsageError, match="lacks the columns variant"):
        hijack_curves.hijack_curves(table.drop(columns="variant"))


def test_a_strength_that_means_nothing_at_first_does_not_set_the_scale() -> None:
    steps = tuple(range(0, 4100, 100))
    table = hijack_table(steps=steps)
    table.loc[(table["metric"] == "hijack_strength") & (table["part"] == "t2") & (table["step"] == 0), "value"] = 1e6
    low, high = hijack_curves.hijack_curves(table).layout.yaxis6.range
    assert low < 0 < 60 < high < 100
