"""Panels of attention patterns: the values of the table in their places, tokens by name, nothing above the diagonal."""

import itertools

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UsageError
from workbench.figures.patterns import COLUMNS, pattern_panels

LAYERS, HEADS, LENGTH = 2, 3, 5
TOKENS = ["<b>", " ", "a", "b", "a"]


def attention(steps=(7,), named=True) -> pd.DataFrame:
    rows = [
        {"run": "r", "step": step, "sequence": 11, "layer": layer, "head": head, "destination": to, "source": at, "attention": np.nan}
        for step, layer, head in itertools.product(steps, range(LAYERS), range(HEADS))
        for to in range(LENGTH)
        for at in range(to + 1)
    ]
    table = pd.DataFrame(rows)
    table["attention"] = np.random.default_rng(0).random(len(table))
    texts = {"destination_token": [TOKENS[i] for i in table["destination"]], "source_token": [TOKENS[i] for i in table["source"]]}
    return table.assign(**texts) if named else table


def test_each_value_stands_in_its_place():
    table = attention(steps=(3, 7))
    figure = pattern_panels(table)
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:6] == [f"L{layer}H{head}" for layer in range(LAYERS) for head in range(HEADS)] and len(figure.data) == 6
    for row in table[table["step"] == 7].itertuples():
        trace = figure.data[row.layer * HEADS + row.head]
        assert trace.z[row.destination][row.source] == row.attention
        assert list(trace.customdata[row.destination][row.source]) == [
            f"{place}: {TOKENS[place].replace('<b>', '&lt;b&gt;').replace(' ', '␣')}" for place in (row.destination, row.source)
        ]
    assert all(np.isnan(trace.z[to][at]) for trace in figure.data for to in range(LENGTH) for at in range(to + 1, LENGTH))
    assert figure.layout.title.text == "Attention at step 7, sequence 11" and len({trace.xaxis for trace in figure.data}) == 6
    assert COLUMNS < 6 and figure.layout.yaxis.autorange == "reversed"


def test_one_head_has_its_tokens_along_the_axes():
    figure = pattern_panels(attention(), ["L1H2"], step=7, sequence=11)
    assert len(figure.data) == 1 and list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;", "␣", "a", "b", "a"]
    unnamed = pattern_panels(attention(named=False), ["L1H2"])
    assert list(unnamed.layout.yaxis.ticktext) == ["0", "1", "2", "3", "4"]
    assert pattern_panels(attention()).layout.xaxis.ticktext is None


def test_what_is_refused():
    with pytest.raises(UsageError, match="unknown head 'L2H0'; did you mean"):
        pattern_panels(attention(), ["L2H0"])
    with pytest.raises(UsageError, match="no step 5"):
        pattern_panels(attention(), step=5)
    with pytest.raises(UsageError, match="lacks the columns run"):
        pattern_panels(attention().drop(columns="run"))
