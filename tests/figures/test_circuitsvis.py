"""Views in a notebook: the script goes with the first alone, and each draws where it stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.browser import Visit
from tests.figures.synthetic import SMALL, attention_table, predictions_table, tokens_table
from workbench.errors import UsageError
from workbench.figures import circuitsvis
from workbench.figures.circuitsvis import attention_heads, token_log_probs

TEXTS = [chr(ord("a") + position) for position in range(SMALL.n_tokens)]
LIBRARY = "var CircuitsVis="


@pytest.fixture(autouse=True)
def new_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuitsvis, "_shown", False)


def run(**tables: Any) -> Any:
    held = {"attention": attention_table(), "tokens": tokens_table(TEXTS), "predictions": predictions_table(TEXTS)} | tables
    return SimpleNamespace(name="r", table=held.get)


def test_the_script_goes_with_the_first_view_alone() -> None:
    views = [attention_heads(run()), token_log_probs(run()), attention_heads(run())]
    pages = [view._repr_html_() for view in views]
    assert [page.count(LIBRARY) for page in pages] == [1, 0, 0]
    assert all(len(page) < 60_000 for page in pages[1:])
    assert token_log_probs(run(), script=True)._repr_html_().count(LIBRARY) == 1
    assert repr(views[1]) == "CircuitsVisView(TokenLogProbs)"


def test_a_view_told_to_leave_the_script_out_does_not_count_as_the_first() -> None:
    assert LIBRARY not in attention_heads(run(), script=False)._repr_html_()
    assert LIBRARY in attention_heads(run())._repr_html_()


def test_views_draw_from_runs_and_from_tables(visit: Visit, tmp_path: Path) -> None:
    # As `run.attention` gives it, with its texts.
    table = (
        attention_table()
        .query("sequence == 1 and step == step.max()")
        .assign(source_token=lambda rows: [TEXTS[::-1][at] for at in rows["source"]])
    )
    assert attention_heads(table).props == attention_heads(run(), sequence=1).props
    assert attention_heads(table).props["tokens"] == TEXTS[::-1]
    tables = token_log_probs(predictions_table(TEXTS), tokens_table(TEXTS))
    first, second = attention_heads(table), token_log_probs(run())
    assert tables.props == second.props
    # The first call runs before the script is there, as where cells were run in another order.
    pages = [replace(tables, script=False)._repr_html_(), first._repr_html_(), second._repr_html_()]
    path = tmp_path / "page.html"
    path.write_text("<!DOCTYPE html><meta charset=utf-8>" + "\n".join(pages), encoding="utf-8")
    visit.page.goto(path.as_uri())
    visit.page.wait_for_function(f"() => document.querySelectorAll('.token-log-probs > div > span').length === {2 * SMALL.n_tokens}")
    # The large pattern is as wide as there is room.
    visit.page.wait_for_function("() => [...document.querySelectorAll('.circuitsvis canvas')].pop()?.clientWidth > 500")
    assert visit.problems == []


def test_a_page_without_the_script_says_so(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(attention_heads(run(), script=False)._repr_html_().replace("draw, 100,", "draw, 1,"), encoding="utf-8")
    visit.page.goto(path.as_uri())
    visit.page.wait_for_function("() => document.querySelector('.circuitsvis').textContent.includes('script=True')")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="r has no table predictions"):
        token_log_probs(run(predictions=None))
    with pytest.raises(UsageError, match="no text of its tokens"):
        attention_heads(attention_table())
    with pytest.raises(UsageError, match="needs the run's table tokens"):
        token_log_probs(predictions_table(TEXTS))
