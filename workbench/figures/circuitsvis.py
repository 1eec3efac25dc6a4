"""CircuitsVis in a notebook: views of a run, with CircuitsVis's script in the first one that a kernel shows and in no other.

>>> view = attention_heads(run.attention())  # doctest: +SKIP
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.errors import UsageError
from workbench.figures.attention import attention_heads_props, attention_patterns, circuitsvis_script, script_json
from workbench.figures.predictions import PLACE, predictions_style, sequence_predictions, token_log_probs_props
from workbench.figures.tables import where

if TYPE_CHECKING:
    from workbench.runs import Run

HEADS_STYLE = """\
.circuitsvis > div { max-width: 100% !important; }
.circuitsvis div[style*="aspect-ratio"] { width: 100% !important; }"""
"""Without it the large pattern takes its width from its own canvas, and does not grow."""

_shown = False
"""whether this kernel has put the script into a page"""


@dataclass(frozen=True)
class CircuitsVisView:
    """One of CircuitsVis's components, as the last line of a cell shows it.

    `script` says whether the script (1.3 MB) goes with it: None leaves it to the first view that this kernel shows. Where outputs cannot
    see each other's scripts, or the cell that held it has gone, True brings it again.
    """

    component: str
    props: Mapping[str, Any]
    kind: str = "circuitsvis"
    style: Callable[[str], str] = lambda div_id: ""
    script: bool | None = None

    def _repr_html_(self) -> str:
        global _shown
        included = not _shown if self.script is None else self.script
        _shown = _shown or included
        div_id = f"view-{secrets.token_hex(6)}"
        style = f"<style>{self.style(div_id)}</style>\n"
        script = f"<script>{circuitsvis_script()}</script>\n" if included else ""
        # A notebook may run the call before its cell, or another cell's script, is in the page. Its ground may be dark; this one is light.
        call = f"""(function draw(left) {{
    const place = document.getElementById({script_json(div_id)});
    if (place && window.CircuitsVis) CircuitsVis.render(place.id, CircuitsVis.{self.component}, {script_json(self.props)});
    else if (left) setTimeout(draw, 100, left - 1);
    else if (place) place.textContent = "CircuitsVis's script is not in this page: make this view with script=True.";
}})(50);"""
        place = f'<div class="{self.kind}" id="{div_id}"></div>'
        card = f'<div style="max-width: 780px; padding: 10px; background: #ffffff; color: #1f2933; color-scheme: light">{place}</div>'
        return f"{script}{style}{card}\n<script>{call}</script>"

    def __repr__(self) -> str:
        return f"CircuitsVisView({self.component})"


def attention_heads(
    source: Run | pd.DataFrame,
    tokens: pd.DataFrame | None = None,
    *,
    step: int | None = None,
    sequence: int | None = None,
    script: bool | None = None,
) -> CircuitsVisView:
    """The patterns of every head on one sequence at one step (default: the last), one head large beside all.

    Args:
        source: an analysed run, or a table of attention, such as `run.attention(step)`.
        tokens: the run's table `tokens`; left out where the table has the tokens' text itself, as that of `run.attention` does.

    Raises:
        UsageError: no such step or sequence, a table of several runs or without text, or a run that was not analysed.
    """
    table, tokens = (source, tokens) if isinstance(source, pd.DataFrame) else (_table(source, "attention"), _table(source, "tokens"))
    found = attention_patterns(table, step=step, sequence=sequence)
    if tokens is not None:
        words = where(tokens, sequence=found.sequence).sort_values(by="position")["text"]
    elif "source_token" in table:
        words = where(table, step=found.step, sequence=found.sequence).groupby("source")["source_token"].first()
    else:
        raise UsageError("this attention table has no text of its tokens; pass the run's table tokens too")
    props = attention_heads_props([str(word) for word in words], found.values, found.head_names)
    return CircuitsVisView("AttentionHeads", props, style=lambda _: HEADS_STYLE, script=script)


def token_log_probs(
    source: Run | pd.DataFrame, tokens: pd.DataFrame | None = None, *, sequence: int | None = None, script: bool | None = None
) -> CircuitsVisView:
    """A sequence (default: the first) coloured by what the last checkpoint predicted: the redder, the more probable the token was.
    Underlined: its answer had been shown by the context.

    Args:
        source: an analysed run, or its table `predictions` together with its table `tokens`.

    Raises:
        UsageError: as `workbench.figures.predictions.sequence_predictions`, or a run that has no such table.
    """
    if not isinstance(source, pd.DataFrame):
        source, tokens = _table(source, "predictions"), _table(source, "tokens")
    if tokens is None:
        raise UsageError("a table of predictions needs the run's table tokens too")
    found = sequence_predictions(source, tokens, sequence=sequence)
    props = token_log_probs_props(found, len(found.target_ranks))
    return CircuitsVisView("TokenLogProbs", props, PLACE, lambda div_id: predictions_style(found, div_id), script)


def _table(run: Run, name: str) -> pd.DataFrame:
    table = run.table(name)
    if table is None or table.empty:
        raise UsageError(f"{run.name} has no table {name}; analyse it first (tasks of vectors have no predictions)")
    return table
