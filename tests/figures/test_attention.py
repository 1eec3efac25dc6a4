"""CircuitsVis snippets: exact patterns, harmless text, and errors before a browser sees them."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.figures.synthetic import SMALL, attention_table
from workbench.errors import UsageError, WorkbenchError
from workbench.figures import attention

NASTY = ["</script>", "<img src=x onerror=alert(1)>", "'\"`", "a b\n", "שלום", "👩‍👩‍👧", "\u2028", "<!--", "\u202eabc", "\ud800", ""]


def props(html: str) -> dict[str, Any]:
    match = re.fullmatch(
        r'<div class="circuitsvis" id="(\w+)"></div>\n<script>CircuitsVis\.render\("\1", CircuitsVis\.AttentionHeads, (.*)\);</script>',
        html,
    )
    assert match
    return json.loads(match[2])


def test_patterns_are_the_values_of_the_table_in_their_places() -> None:
    table = attention_table()
    patterns = attention.attention_patterns(table.sample(frac=1, random_state=0))
    assert (patterns.step, patterns.sequence) == (SMALL.steps[-1], 0)
    assert patterns.head_names == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]
    assert patterns.values.shape == (6, SMALL.n_tokens, SMALL.n_tokens)
    expected = np.zeros_like(patterns.values)
    for row in table[(table["step"] == patterns.step) & (table["sequence"] == 0)].itertuples():
        expected[patterns.head_names.index(f"L{row.layer}H{row.head}"), row.destination, row.source] = row.attention  # type: ignore[index]
    np.testing.assert_array_equal(patterns.values, expected)
    np.testing.assert_allclose(patterns.values.sum(axis=-1), 1, rtol=1e-5)


def test_a_step_and_a_sequence_can_be_chosen() -> None:
    table = attention_table()
    chosen = attention.attention_patterns(table, step=SMALL.steps[-2], sequence=1)
    assert (chosen.step, chosen.sequence) == (SMALL.steps[-2], 1)
    assert not np.array_equal(chosen.values, attention.attention_patterns(table).values)


def test_patterns_of_several_runs_or_of_no_step_are_refused() -> None:
    with pytest.raises(UsageError, match="one run, got 2"):
        attention.attention_patterns(pd.concat([attention_table("a"), attention_table("b")]))
    with pytest.raises(UsageError, match="no step 7"):
        attention.attention_patterns(attention_table(), step=7)
    with pytest.raises(UsageError, match="lacks the columns attention"):
        attention.attention_patterns(attention_table().drop(columns="attention"))


def test_the_script_cannot_end_its_element_and_asks_for_nothing() -> None:
    script = attention.circuitsvis_script()
    assert "AttentionHeads" in script
    assert "</script" not in script and "<!--" not in script and "sourceMappingURL" not in script


def test_a_missing_circuitsvis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    attention.circuitsvis_script.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WorkbenchError, match="install circuitsvis"):
        attention.circuitsvis_script()


def test_values_are_rounded_to_four_decimals_and_no_further() -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 3))
    given = props(attention.attention_heads_html(["a", "b", "c"], values, ["L0H0", "L0H1"], "heads"))
    np.testing.assert_array_equal(given["attention"], values.round(4))
    assert given["attentionHeadNames"] == ["L0H0", "L0H1"]
    assert given["tokens"] == ["a", "b", "c"]


def test_no_token_can_leave_its_string() -> None:
    html = attention.attention_heads_html(NASTY, np.zeros((1, len(NASTY), len(NASTY))), ["L0H0"], "heads")
    assert html.count("<") == 4  # the div, the script and their ends
    assert html.isascii()
    assert props(html)["tokens"] == [attention.visible_token(text) for text in NASTY]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "␣the"),
        ("\n", "⏎"),
        ("\t", "⇥"),
        ("\u202eabc", "\\u202eabc"),
        ("\x00", "\\u0000"),
        ("👩‍👩‍👧", "👩‍👩‍👧"),
        ("שלום", "שלום"),
        ("<b>", "<b>"),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
        ("", "∅"),
    ],
)
def test_visible_token(text: str, shown: str) -> None:
    assert attention.visible_token(text) == shown


@pytest.mark.parametrize(
    ("shape", "div_id", "message"),
    [
        ((2, 3, 3), "heads", r"shape \(1, 3, 3\)"),
        ((1, 3, 5), "heads", r"got \(1, 3, 5\)"),
        ((1, 3, 3), '"><script>', "div_id"),
        ((1, 3, 3), "1heads", "div_id"),
    ],
)
def test_wrong_sizes_and_ids_are_refused(shape: tuple[int, ...], div_id: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attention.attention_heads_html(["a", "b", "c"], np.zeros(shape), ["L0H0"], div_id)


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="finite"):
        attention.attention_heads_html(["a"], [[[float("nan")]]], ["L0H0"], "heads")
