"""What a model predicts along one sequence, drawn by CircuitsVis: the tokens, coloured by the log probability that the model gave them.

Like attention's patterns (attention.py), it needs `circuitsvis_script` in the page before it, once.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UsageError
from workbench.figures.attention import DECIMALS, component_html, visible_token
from workbench.figures.tables import distinct, numbers, require_columns, where

PREDICTION_COLUMNS = ("run", "step", "sequence", "position", "rank", "text", "log_prob", "target")
MAX_POSITIONS = 96
"""positions that are drawn, as in the attention section"""
PLACE = "token-log-probs"
STYLE = f"""\
.{PLACE} > div {{ font: 14px/1.9 ui-monospace, "DejaVu Sans Mono", monospace; }}
.{PLACE} > div > span > span {{ min-width: 1.1em; padding: 3px 4px !important; text-align: center; unicode-bidi: isolate; }}
.{PLACE} > div > div {{ z-index: 3; font: 13px/1.4 system-ui, "Liberation Sans", "DejaVu Sans", sans-serif; }}
.{PLACE} table {{ width: 100%; margin: 6px 0 0; border-collapse: collapse; font: inherit; font-variant-numeric: tabular-nums; }}
.{PLACE} :is(th, td) {{ padding: 1px 8px; border: 0; color: inherit; text-align: right; white-space: nowrap; }}
.{PLACE} tr[style*="orange"] {{ background-color: #1f2933 !important; }}
.{PLACE} tr:has(+ hr) > td {{ border-bottom: 5px solid #eeeeee; }}
.{PLACE} hr {{ display: none; }}"""


@dataclass(frozen=True)
class Predictions:
    """The predictions along one sequence at one step: at each position the most probable tokens, and the right one.

    `tokens` is the sequence and, behind it, its last target; `top_tokens` and `top_log_probs` are [position][rank], in nats;
    `target_ranks` and `target_log_probs` are of tokens[1:]; `answered` lists the positions at which the context has shown the answer.
    """

    step: int
    sequence: int
    tokens: list[str]
    top_tokens: list[list[str]]
    top_log_probs: list[list[float]]
    target_ranks: list[int]
    target_log_probs: list[float]
    answered: list[int]


def sequence_predictions(predictions: pd.DataFrame, tokens: pd.DataFrame, *, sequence: int | None = None) -> Predictions:
    """The predictions of one run on one sequence (default: the first), from its tables `predictions` and `tokens`.

    Raises:
        UsageError: columns are missing, the table holds several runs or steps, has no such sequence or not all of its positions,
            or a value is not finite.
    """
    require_columns(predictions, PREDICTION_COLUMNS, "predictions")
    require_columns(tokens, ("sequence", "position", "text", "answered"), "tokens")
    for column in ("run", "step"):
        if (found := len(distinct(predictions, column))) != 1:
            raise UsageError(f"expected the predictions of one {column}, got {found}; select one by its column {column}")
    sequence = int(numbers(predictions, "sequence").min()) if sequence is None else sequence
    rows = where(predictions, sequence=sequence).sort_values(by=["position", "rank"])
    words = where(tokens, sequence=sequence).sort_values(by="position")
    right = where(rows, target=True)
    length = len(words)
    if not length or any(numbers(table, "position").tolist() != list(range(length)) for table in (words, right)):
        raise UsageError(f"the tables have no sequence {sequence} with one target at each position")
    if not np.isfinite(numbers(rows, "log_prob")).all():
        raise UsageError("log probabilities must be finite numbers")
    # A target that ranks below the top makes its position one row longer, with or without a gap before it.
    top = rows[rows["rank"] < _top(rows)].groupby("position")
    return Predictions(
        step=int(numbers(rows, "step")[0]),
        sequence=sequence,
        tokens=[str(words["text"].iloc[0]), *(str(text) for text in right["text"])],
        top_tokens=[[str(text) for text in texts] for _, texts in top["text"]],
        top_log_probs=[numbers(part, "log_prob").tolist() for _, part in top],
        target_ranks=numbers(right, "rank").astype(int).tolist(),
        target_log_probs=numbers(right, "log_prob").tolist(),
        answered=np.flatnonzero(words["answered"].to_numpy(dtype=bool)).tolist(),
    )


def _top(rows: pd.DataFrame) -> int:
    """How many of the most probable tokens every position has."""
    without_gap = rows[rows["rank"] == rows.groupby("position").cumcount()]
    return int(without_gap.groupby("position").size().min())


def token_log_probs_props(found: Predictions, positions: int = MAX_POSITIONS) -> dict[str, Any]:
    """What CircuitsVis's TokenLogProbs takes, of the first `positions` predictions. It puts tokens into the page as HTML, so here they
    are escaped."""
    shown = slice(0, positions)
    return {
        "prompt": _escaped(found.tokens[: positions + 1]),
        "topKLogProbs": np.round(found.top_log_probs[shown], DECIMALS).tolist(),
        "topKTokens": [_escaped(texts) for texts in found.top_tokens[shown]],
        "correctTokenRank": found.target_ranks[shown],
        "correctTokenLogProb": np.round(found.target_log_probs[shown], DECIMALS).tolist(),
    }


def token_log_probs_html(
    predictions: pd.DataFrame, tokens: pd.DataFrame, div_id: str, *, sequence: int | None = None, positions: int = MAX_POSITIONS
) -> str:
    """HTML that draws a run's predictions with CircuitsVis; the page includes `circuitsvis_script` before it, once. The tokens whose
    answer the context has shown are underlined.

    Args:
        predictions: the table `predictions` of one run.
        tokens: the table `tokens` of the same run.
        div_id: unique in the page; letters, digits, - and _, a letter first.
        sequence: default: the first.
        positions: predictions that are drawn, at most.

    Raises:
        UsageError: as `sequence_predictions`, and where `div_id` cannot be one.
    """
    found = sequence_predictions(predictions, tokens, sequence=sequence)
    return predictions_html(found, div_id, positions)


def predictions_html(found: Predictions, div_id: str, positions: int = MAX_POSITIONS) -> str:
    """The same, of predictions that have been read from the tables."""
    drawn = component_html("TokenLogProbs", token_log_probs_props(found, positions), div_id, kind=PLACE)
    return f"<style>{predictions_style(found, div_id)}</style>\n{drawn}"


def predictions_style(found: Predictions, div_id: str) -> str:
    """How the component looks in any page, and the underlines: the n-th token that it shows is the n-th target."""
    marks = ", ".join(f"#{div_id} > div > span:nth-of-type({position + 1}) > span" for position in found.answered)
    return STYLE + (f"\n{marks} {{ box-shadow: 0 4px 0 #0072b2; }}" if marks else "")


def _escaped(texts: Sequence[str]) -> list[str]:
    return [html.escape(visible_token(text)) for text in texts]
