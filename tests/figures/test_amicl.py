"""Figures of AMICL: the lines and their numbers, what the captions say, and what cannot be drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.amicl import AmiclConfig
from workbench.amicl.attention import attention_table
from workbench.errors import UsageError
from workbench.figures import theme
from workbench.figures.amicl import SIMILARITIES, accuracy_by_size, accuracy_by_strength, attention_matrices

A = [0.0, 0.5, 1.0, 2.0]


def table(similarities=tuple(SIMILARITIES), n: int = 1000) -> pd.DataFrame:
    rows = [
        {"similarity": name, "a": a, "value": a / 2 - 0.01 * k, "ci_low": a / 2 - 0.05, "ci_high": a / 2 + 0.02}
        for k, name in enumerate(similarities)
        for a in reversed(A)
    ]
    return pd.DataFrame(rows).assign(metric="amicl_accuracy", d=100, n_classes=512, n_tokens=20, n=n)


def sizes(values=(10, 40, 1000)) -> pd.DataFrame:
    rows = pd.DataFrame([{"n_tokens": n, "d": d, "value": d / (n + d), "n": 1000 if n * d < 1e5 else 100} for n in values for d in values])
    return rows.assign(ci_low=rows["value"] - 0.04, ci_high=rows["value"] + 0.02, metric="amicl_accuracy", a=2.0, n_classes=50)


def lines(figure) -> dict:
    return {trace.name: trace for trace in figure.data if trace.name != "interval"}


def test_a_line_for_each_similarity_in_the_order_of_a():
    figure = accuracy_by_strength(table(), {1.0: 0.32, 2.0: 1.0}, 0.887)
    drawn = lines(figure)
    assert set(drawn) == {*SIMILARITIES.values(), "published (dot product)"}
    for k, name in enumerate(SIMILARITIES.values()):
        assert list(drawn[name].x) == A and list(drawn[name].y) == pytest.approx([a / 2 - 0.01 * k for a in A])
    # The two of the paper's figure are thick, and on top.
    widths = [trace.line.width for trace in figure.data if trace.name in SIMILARITIES.values()]
    assert widths == sorted(widths) and drawn["dot product"].line.width == drawn["Pearson"].line.width > 2 * drawn["Manhattan"].line.width
    assert len({trace.line.color for trace in drawn.values()}) == 5
    published = drawn["published (dot product)"]
    assert (published.mode, list(published.x), list(published.y)) == ("markers", [1.0, 2.0], [0.32, 1.0])
    assert [(shape.y0, shape.y1) for shape in figure.layout.shapes] == [(0.887, 0.887)]
    assert figure.layout.annotations[0].text == "ceiling of Pearson 0.887"


def test_bands_of_the_two_thick_lines_are_their_intervals():
    bands = {trace.legendgroup: trace for trace in accuracy_by_strength(table()).data if trace.name == "interval"}
    assert set(bands) == {"dot", "pearson"}
    assert list(bands["dot"].x) == [*A, *A[::-1]]
    assert list(bands["dot"].y) == pytest.approx([*(a / 2 + 0.02 for a in A), *(a / 2 - 0.05 for a in A[::-1])])


def test_the_caption_speaks_of_what_is_drawn():
    whole = theme.caption(accuracy_by_strength(table(), {1.0: 0.32}, 0.887)).replace("\u00a0", " ")
    assert "D = 100, K = 512, n = 20. 1,000 trials a point." in whole
    assert all(word in whole for word in ("Pearson", "Dotted", "Diamonds", "distances"))
    alone = theme.caption(accuracy_by_strength(table(("dot",), n=211)))
    assert not any(word in alone for word in ("Pearson", "Dotted", "Diamonds", "distances")) and "211 trials a point." in alone


def test_sizes_both_ways():
    figure = accuracy_by_size(sizes())
    left, right = ([trace for trace in figure.data if trace.xaxis == axis] for axis in ("x", "x2"))
    for traces, value in ((left, lambda x, line: line / (x + line)), (right, lambda x, line: x / (x + line))):
        assert [trace.name for trace in traces] == ["10", "40", "1,000"]
        for trace, size in zip(traces, (10, 40, 1000), strict=True):
            assert list(trace.x) == [10, 40, 1000] and list(trace.y) == pytest.approx([value(x, size) for x in trace.x])
            assert list(trace.error_y.array) == pytest.approx([0.02] * 3) and list(trace.error_y.arrayminus) == pytest.approx([0.04] * 3)
    # One size has one colour, and one entry of the legend for both panels.
    assert [trace.line.color for trace in left] == [trace.line.color for trace in right] and len({trace.line.color for trace in left}) == 3
    assert [trace.showlegend for trace in (*left, *right)] == [True] * 3 + [False] * 3
    assert [trace.legendgroup for trace in left] == [trace.legendgroup for trace in right]
    assert list(figure.layout.xaxis.tickvals) == list(figure.layout.xaxis2.tickvals) == [10, 40, 1000]
    text = theme.caption(figure).replace("\u00a0", " ")
    assert "K = 50, a = 2." in text and "1,000 trials a point, down to 100 where n times D is large" in text


def test_sizes_that_are_not_the_same_both_ways():
    figure = accuracy_by_size(sizes().query("d != 40"))
    assert {trace.name for trace in figure.data if trace.showlegend} == {"10", "40", "1,000"}


def test_matrices_are_those_of_the_table():
    attention = attention_table(AmiclConfig(n_tokens=12, d=53), seed=1).sample(frac=1, random_state=0)
    figure = attention_matrices(attention)
    assert len(figure.data) == 12
    rows = attention.query("similarity == 'euclidean' and part == 'softmax'")
    matrix = np.array(figure.data[10].z)
    for row in rows.sample(31, random_state=0).to_dict("records"):
        assert matrix[row["dst"], row["src"]] == row["value"]
    titles = [note.text for note in figure.layout.annotations]
    assert titles[10] == f"Euclidean: softmax<br>{matrix.min():.2f} to {matrix.max():.2f}" and titles[2] == "dot product: argmax"
    assert titles[9].endswith("to 0.00") and "−" in titles[9]
    # The box is where the label of the query stands, in the last row, which is the lowest.
    answer = int(attention[attention["answered"]]["src"].iloc[0])
    assert {(box.x0, box.x1, box.y0, box.y1) for box in figure.layout.shapes} == {(answer - 0.5, answer + 0.5, 10.5, 11.5)}
    assert len(figure.layout.shapes) == 12 and list(figure.layout.yaxis.range) == [11.5, -0.5]
    name = figure.layout.xaxis.ticktext[answer]
    assert figure.layout.xaxis.ticktext[-2] == f"{name.upper()}?" and f"red box, at {name}." in theme.caption(figure)
    assert len(attention_matrices(attention[attention["similarity"] == "dot"]).data) == 3


def test_what_cannot_be_drawn_is_told():
    with pytest.raises(UsageError, match="lacks the columns similarity"):
        accuracy_by_strength(table().drop(columns="similarity"))
    with pytest.raises(UsageError, match="no rows of amicl_accuracy"):
        accuracy_by_size(sizes().assign(metric="loss"))
    with pytest.raises(UsageError, match="lacks the columns dst"):
        attention_matrices(attention_table().drop(columns="dst"))
    with pytest.raises(UsageError, match="none of the similarities dot, pearson, manhattan, euclidean"):
        attention_matrices(attention_table().assign(similarity="cosine"))
