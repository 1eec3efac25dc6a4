"""Attention patterns of one checkpoint, drawn by CircuitsVis (https://github.com/TransformerLensOrg/CircuitsVis).

CircuitsVis's Python package imports torch and may fetch its script from the network, so only the script that it
installs is used: include `circuitsvis_script` once in a page, then an `attention_heads_html` for each model.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UsageError, WorkbenchError
from workbench.figures.tables import distinct, numbers, require_columns, where

ATTENTION_COLUMNS = ("run", "step", "sequence", "layer", "head", "destination", "source", "attention")
DECIMALS = 4
"""Patterns in a page are rounded to this many decimals; the attention table holds the exact values."""

ZERO_WIDTH_JOINER = "\u200d"


@dataclass(frozen=True)
class Patterns:
    """The attention of every head on one sequence at one step.

    `values` is [head, destination, source], each row a distribution over source positions up to the destination.
    """

    step: int
    sequence: int
    head_names: list[str]
    values: np.ndarray


def attention_patterns(attention: pd.DataFrame, *, step: int | None = None, sequence: int | None = None) -> Patterns:
    """The patterns of one run from its attention table; default: the last step, the first sequence.

    Raises:
        UsageError: columns are missing, the table holds several runs, or has no such step and sequence.
    """
    require_columns(attention, ATTENTION_COLUMNS, "attention")
    runs = len(distinct(attention, "run"))
    if runs != 1:
        raise UsageError(f"expected the attention of one run, got {runs}; select one by its column run")
    step = int(numbers(attention, "step").max()) if step is None else step
    rows = where(attention, step=step)
    if sequence is None and not rows.empty:
        sequence = int(numbers(rows, "sequence").min())
    rows = where(rows, sequence=sequence)
    if rows.empty or sequence is None:
        raise UsageError(f"the attention table has no step {step} with sequence {sequence}")
    columns = ("layer", "head", "destination", "source")
    layer, head, destination, source = (numbers(rows, column).astype(int) for column in columns)
    heads = sorted(set(zip(layer.tolist(), head.tolist(), strict=True)))
    place = {name: index for index, name in enumerate(heads)}
    index = np.array([place[name] for name in zip(layer.tolist(), head.tolist(), strict=True)])
    length = int(destination.max()) + 1
    values = np.zeros((len(heads), length, length))
    values[index, destination, source] = numbers(rows, "attention")
    return Patterns(step, sequence, [f"L{layer}H{head}" for layer, head in heads], values)


@functools.cache
def circuitsvis_script() -> str:
    """CircuitsVis's script, for one classic `<script>` element of a page. It defines the global `CircuitsVis`.

    Raises:
        WorkbenchError: circuitsvis is not installed, or without its script.
    """
    package = importlib.util.find_spec("circuitsvis")
    folders = list(package.submodule_search_locations or ()) if package else []
    for folder in folders:
        path = Path(folder, "dist", "cdn", "iife.js")
        if path.is_file():
            script = path.read_text(encoding="utf-8")
            # The map that this comment names is not part of the page.
            script = re.sub(r"^//# sourceMappingURL=.*$", "", script, flags=re.MULTILINE)
            return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    raise WorkbenchError("the script of circuitsvis was not found; install circuitsvis >= 1.43")


def visible_token(text: str) -> str:
    """A token as one can see it: spaces and control characters become signs, so that nothing moves or hides its neighbours.

    >>> visible_token("a b\\n")
    'a␣b⏎'
    """
    signs = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(character) or _visible(character) for character in text) or "∅"


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    # Emoji are joined by a format character; the others (direction marks among them) act on text around the token.
    hidden = category in ("Cc", "Cf", "Zl", "Zp", "Zs") and character != ZERO_WIDTH_JOINER
    return f"\\u{ord(character):04x}" if hidden else character


def script_json(value: Any) -> str:
    """JSON that is safe inside a `<script>` element, whatever the strings hold.

    >>> script_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def attention_heads_html(
    tokens: Sequence[str], patterns: np.ndarray | Sequence[Sequence[Sequence[float]]], head_names: Sequence[str], div_id: str
) -> str:
    """HTML that draws the heads' patterns with CircuitsVis; the page includes `circuitsvis_script` before it, once.

    Args:
        tokens: the sequence's tokens as text; each is shown as `visible_token` writes it.
        patterns: attention in [0, 1], [head, destination, source]; drawn with `DECIMALS` decimals.
        head_names: a name for each head, such as "L1H3".
        div_id: unique in the page; letters, digits, - and _, a letter first.

    Raises:
        UsageError: the sizes do not agree, a value is not finite, or `div_id` cannot be one.
    """
    return component_html("AttentionHeads", attention_heads_props(tokens, patterns, head_names), div_id)


def component_html(component: str, props: Mapping[str, Any], div_id: str, *, kind: str = "circuitsvis") -> str:
    """A place in the page, of class `kind`, and the call by which CircuitsVis draws one of its components there.

    Raises:
        UsageError: `div_id` cannot be one.
    """
    if not re.fullmatch(r"[A-Za-z][\w-]*", div_id, flags=re.ASCII):
        raise UsageError(f"div_id must be letters, digits, - and _, beginning with a letter; got {div_id!r}")
    call = f"CircuitsVis.render({script_json(div_id)}, CircuitsVis.{component}, {script_json(props)});"
    return f'<div class="{kind}" id="{div_id}"></div>\n<script>{call}</script>'


def attention_heads_props(
    tokens: Sequence[str], patterns: np.ndarray | Sequence[Sequence[Sequence[float]]], head_names: Sequence[str]
) -> dict[str, Any]:
    """What CircuitsVis's AttentionHeads takes; arguments and errors as of `attention_heads_html`."""
    values = np.asarray(patterns, dtype=float)
    expected = (len(head_names), len(tokens), len(tokens))
    if values.shape != expected or 0 in expected:
        raise UsageError(
            f"expected patterns [head, destination, source] of shape {expected} for these heads and tokens, got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise UsageError("attention patterns must be finite numbers")
    # Whole numbers (most of a causal pattern is zero) are written without a fraction, which saves a third of the page.
    rounded = [[[int(value) if value.is_integer() else value for value in row] for row in head] for head in values.round(DECIMALS).tolist()]
    return {
        "attention": rounded,
        "attentionHeadNames": list(head_names),
        "tokens": [visible_token(token) for token in tokens],
        "maxValue": 1,
        "minValue": -1,
        "maskUpperTri": True,
    }
