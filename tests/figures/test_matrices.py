"""The circuit's matrices as drawn: the table's cells in their places, on colours that are the same where panels are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.figures.synthetic_circuits import OF_KEY, OF_VALUE, TEXTS, matrices_table
from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.matrices import circuit_matrices


def panels(figure: Any) -> dict[str, Any]:
    """title -> heat map, by the subplot that each stands in."""
    titles = [note.text.partition("<br>")[0] for note in figure.layout.annotations]
    return dict(zip(titles, figure.data, strict=True))


def cells(table: pd.DataFrame, matrix: str, part: str) -> np.ndarray:
    rows = table[(table["matrix"] == matrix) & (table["part"] == part)]
    return rows.pivot(index="row", columns="column", values="value").to_numpy()


def test_each_panel_holds_its_matrix() -> None:
    table = matrices_table().sample(frac=1, random_state=0)  # in whatever order the rows come
    found = panels(circuit_matrices(table))
    assert list(found) == [
        "OV of L1H2, own weights", "OV of L1H2, weights along the wire", "QK of L1H2 through L0H1", "QK of L0H1 on positions",
    ]  # fmt: skip
    for trace, (matrix, part, *_) in zip(found.values(), OF_VALUE, strict=True):
        expected = cells(table, matrix, part)
        if matrix == "positions":
            assert all(value is None for at, row in enumerate(trace.z) for value in row[at + 1 :])
            expected = np.where(np.tri(len(expected), dtype=bool), expected, np.nan)
        np.testing.assert_allclose(np.array(trace.z, dtype=float), expected, atol=0.5 * np.nanmax(np.abs(expected)) / 20)
        np.testing.assert_allclose(np.array(trace.z, dtype=float), expected, atol=0.021)


def test_rows_and_columns_have_their_tokens_and_no_two_fall_together() -> None:
    trace = panels(circuit_matrices(matrices_table()))["OV of L1H2, own weights"]
    assert list(trace.x) == list(trace.y) == ["' '", "e", "t", "&lt;b&gt;", "1", "x (5)", "x (6)"]
    table = matrices_table(texts=("a", "b", "c"))
    table = table[~((table["matrix"] == "OV") & (table["column"] == 2))]
    trace = panels(circuit_matrices(table))["OV of L1H2, own weights"]
    assert list(trace.x) == ["a", "b"] and list(trace.y) == ["a", "b", "c"]
    assert "token attended to %{y}" in trace.hovertemplate and "token whose logit changes %{x}" in trace.hovertemplate


def test_compared_panels_share_their_colours_and_others_do_not() -> None:
    table = matrices_table()
    figure = circuit_matrices(table)
    found = panels(figure)
    axes = [trace.coloraxis for trace in found.values()]
    assert axes[0] == axes[1] and len(set(axes)) == 3
    for trace, (matrix, _, *_) in zip(found.values(), OF_VALUE, strict=True):
        scale = figure.layout[trace.coloraxis]
        drawn = [cells(table, name, part) for name, part, *_ in OF_VALUE if name == matrix]
        drawn = [np.tril(values) if matrix == "positions" else values for values in drawn]
        assert scale.cmax == -scale.cmin == pytest.approx(max(np.abs(values).max() for values in drawn))
    assert [figure.layout[axis].showscale for axis in dict.fromkeys(axes)] == [True, False, False]
    middle = figure.layout[axes[0]].colorscale[1]
    assert tuple(middle) == (0.5, "#FFFFFF")


def test_pairs_stand_side_by_side_and_cells_are_square() -> None:
    figure = circuit_matrices(matrices_table(specs=OF_KEY))
    assert list(panels(figure)) == [
        "QK of L1H2, own weights",
        "QK of L1H2, weights along the wire",
        "OV of L1H2",
        "QK of L1H2 through L0H1",
    ]
    for number, name in enumerate(("", "2", "3", "4")):
        axis = figure.layout[f"yaxis{name}"]
        assert axis.scaleanchor == f"x{name}" == figure.data[number].xaxis.replace("x1", "x") and axis.autorange == "reversed"
        assert figure.layout[f"xaxis{name}"].type == axis.type == "category"
    three = circuit_matrices(matrices_table(specs=(OF_VALUE[0], *OF_VALUE[2:])))
    assert list(panels(three)) == ["OV of L1H2", "QK of L1H2 through L0H1", "QK of L0H1 on positions"]


def test_the_caption_speaks_of_what_is_drawn() -> None:
    everything = theme.caption(circuit_matrices(matrices_table()))
    assert "step 400" in everything and "along the wire" in everything and "through L0H1" in everything and "L0H1 looks" in everything
    plain = theme.caption(circuit_matrices(matrices_table(specs=OF_VALUE[:1])))
    assert "copies" in plain and "wire" not in plain and "positions" not in plain.lower()
    assert "equal tokens" in theme.caption(circuit_matrices(matrices_table(specs=OF_KEY))) and "equal tokens" not in everything


def test_a_matrix_of_zeros_and_names_from_outside() -> None:
    table = matrices_table(run="<i>", specs=OF_VALUE[:1]).assign(value=0.0)
    figure = circuit_matrices(table)
    assert figure.layout.title.text == "Circuit matrices: &lt;i&gt;"
    assert np.array_equal(figure.data[0].z, np.zeros((len(TEXTS), len(TEXTS)))) and figure.layout.coloraxis.cmax == 1


@pytest.mark.parametrize(("largest", "words"), [(400.0, "max 400"), (0.9075, "max 0.91"), (2345.6, "max 2,346"), (0.00123, "max 0.0012")])
def test_the_largest_value_is_written_out(largest: float, words: str) -> None:
    figure = circuit_matrices(matrices_table(specs=OF_VALUE[:1]).assign(value=-largest))
    assert words in figure.layout.annotations[0].text
    np.testing.assert_allclose(figure.data[0].z, -largest, rtol=0.005)


def test_wrong_calls() -> None:
    table = matrices_table()
    with pytest.raises(UsageError, match="no head of the run is named"):
        circuit_matrices(table.iloc[:0])
    with pytest.raises(UsageError, match="lacks the columns part"):
        circuit_matrices(table.drop(columns="part"))
    with pytest.raises(UsageError, match="holds 2 runs"):
        circuit_matrices(pd.concat([table, table.assign(run="other")]))
