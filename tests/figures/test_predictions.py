"""CircuitsVis's token log probabilities: the table's values in their places, and tokens that stay text."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.browser import Visit
from tests.figures.synthetic import predictions_table, tokens_table
from workbench.errors import UsageError
from workbench.figures.attention import circuitsvis_script, visible_token
from workbench.figures.predictions import sequence_predictions, token_log_probs_html

TEXTS = ["a", "b", "c", "d", "e", "f", "g"]
NASTY = [
    "<img src=x onerror='window.executed = 1'>",
    "</script><script>window.executed = 2</script>",
    "&lt;b&gt;",
    "a\n b",
    "",
    "\u202eabc",
    "שלום",
    "<!--",
    "'\"`",
    "👩‍👩‍👧",
]


def props(html: str) -> dict[str, Any]:
    match = re.search(
        r'<div class="token-log-probs" id="(\w+)"></div>\n<script>CircuitsVis\.render\("\1", CircuitsVis\.TokenLogProbs, (.*)\);', html
    )
    assert match
    return json.loads(match[2])


def test_values_are_those_of_the_table_in_their_places() -> None:
    table, tokens = predictions_table(TEXTS), tokens_table(TEXTS)
    given = props(token_log_probs_html(table.sample(frac=1, random_state=0), tokens, "here", sequence=1))
    rows = table[table["sequence"] == 1]
    right = rows[rows["target"]]
    assert given["prompt"] == [*TEXTS[::-1], right["text"].iloc[-1]]
    assert given["correctTokenRank"] == right["rank"].tolist()
    np.testing.assert_array_equal(given["correctTokenLogProb"], right["log_prob"].round(4))
    for position in range(len(TEXTS)):
        top = rows[(rows["position"] == position) & (rows["rank"] < 3)]
        assert given["topKTokens"][position] == top["text"].tolist()
        np.testing.assert_array_equal(given["topKLogProbs"][position], top["log_prob"].round(4))


def test_positions_are_capped_and_answers_underlined() -> None:
    html = token_log_probs_html(predictions_table(TEXTS), tokens_table(TEXTS), "here", positions=5)
    given = props(html)
    assert len(given["prompt"]) == 6 and {len(given[name]) for name in given if name != "prompt"} == {5}
    assert "\n#here > div > span:nth-of-type(5) > span {" in html
    unanswered = tokens_table(TEXTS).assign(answered=False)
    assert "nth-of-type" not in token_log_probs_html(predictions_table(TEXTS), unanswered, "here")


def test_what_cannot_be_drawn_is_refused() -> None:
    table, tokens = predictions_table(TEXTS), tokens_table(TEXTS)
    for wrong, message in (
        (pd.concat([table, table.assign(run="other")]), "one run, got 2"),
        (pd.concat([table, table.assign(step=7)]), "one step, got 2"),
        (table.drop(columns="log_prob"), "lacks the columns log_prob"),
        (table[~table["target"] | (table["position"] != 4)], "no sequence 0 with one target at each position"),
        (table.assign(log_prob=math.nan), "finite"),
    ):
        with pytest.raises(UsageError, match=message):
            sequence_predictions(wrong, tokens)
    with pytest.raises(UsageError, match="no sequence 2"):
        sequence_predictions(table, tokens, sequence=2)
    with pytest.raises(UsageError, match="div_id"):
        token_log_probs_html(table, tokens, '"><script>')


def test_the_component_shows_the_numbers_and_executes_no_token(visit: Visit, tmp_path: Path) -> None:
    table = predictions_table(NASTY)
    html = token_log_probs_html(table, tokens_table(NASTY), "here")
    assert html.isascii() and "<img" not in html
    path = tmp_path / "page.html"
    path.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><script>window.executed = 0;{circuitsvis_script()}</script>{html}", encoding="utf-8"
    )
    visit.page.goto(path.as_uri())
    shown = visit.page.locator("#here > div > span")
    shown.first.wait_for()
    # The first token is no prediction; the last target is the sequence's first token again.
    assert [text.replace("\xa0", " ") for text in shown.all_text_contents()] == [visible_token(text) for text in [*NASTY[1:], NASTY[0]]]
    for position in (0, 6):
        shown.nth(position).hover()
        shown_rows = visit.page.locator("#here table tr")
        shown_rows.nth(4).wait_for()
        rows = table[(table["sequence"] == 0) & (table["position"] == position)]
        right = rows[rows["target"]]
        expected = [
            [f"#{rank}", f"{100 * math.exp(round(log_prob, 4)):.2f}%", f"{round(log_prob, 4):.3f}", visible_token(text)]
            for rank, log_prob, text in pd.concat([right, rows[rows["rank"] < 3]])[["rank", "log_prob", "text"]].itertuples(index=False)
        ]
        found = [shown_rows.nth(row).locator("td").all_text_contents() for row in range(1, 5)]
        assert [[text.replace("\xa0", " ") for text in row] for row in found] == expected
        visit.page.mouse.move(0, 0)
        visit.page.locator("#here table").wait_for(state="detached")
    assert visit.page.evaluate("window.executed") == 0 and visit.page.locator("img").count() == 0
    assert visit.problems == [] and visit.dialogs == [] and [url for url in visit.requests if not url.startswith("file:")] == []
