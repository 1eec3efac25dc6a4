"""A comparison in words and as text tables: no sentence claims more than its interval allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

Row = Mapping[str, Any]


def number(value: float, unit: str, *, sign: bool = False) -> str:
    """A number of a table: whole steps, otherwise three digits after the point. -0.000 is a number below 0.

    >>> number(-190.6, "steps", sign=True), number(0.98154, "")
    ('-191', '0.982')
    """
    if math.isinf(value):
        return "unbounded"
    return f"{value:{'+' if sign else ''}.{0 if unit else 3}f}"


def with_interval(value: float, low: float, high: float, unit: str, *, sign: bool = False) -> str:
    """A value with its interval; without one where there is none.

    >>> with_interval(369.0, 320.2, 417.8, "steps")
    '369 [320, 418]'
    """
    text = number(value, unit, sign=sign)
    if math.isnan(low) or math.isnan(high):
        return text
    return f"{text} [{number(low, unit, sign=sign)}, {number(high, unit, sign=sign)}]"


def own_cell(row: Row, unit: str = "", missing: str = "no value in") -> str:
    """What a variant has: the mean with its interval, or how many seeds have no value, with the median where it is known."""
    if not row["censored"]:
        return with_interval(row["mean"], row["ci_low"], row["ci_high"], unit)
    text = f"{missing} {int(row['censored'])} of {int(row['n'])}"
    if math.isnan(row["median"]) or math.isinf(row["median"]):
        return text
    return f"{text}; median {with_interval(row['median'], row['median_low'], row['median_high'], unit)}"


def difference_cell(row: Row, unit: str = "") -> str:
    """The difference from the reference with its interval; the median's where a pair is censored; a dash where there is none."""
    if not row["pairs"]:
        return "–"
    if not row["censored_pairs"]:
        return with_interval(row["difference"], row["difference_low"], row["difference_high"], unit, sign=True)
    low, high = row["median_difference_low"], row["median_difference_high"]
    if math.isfinite(low) and math.isfinite(high):
        return f"median between {number(low, unit, sign=True)} and {number(high, unit, sign=True)}"
    if math.isfinite(low):
        return f"median at least {number(low, unit, sign=True)}"
    return f"median at most {number(high, unit, sign=True)}" if math.isfinite(high) else "not known"


def sentence(row: Row, reference: str, quantity: str, *, event: str = "", unit: str = "") -> str:
    """One variant against the reference in a quantity ("final loss", "steps to 0.95") with its unit; `event` ("reaches 0.95") where the
    quantity is the steps to it.

    >>> row = {"variant": "value", "pairs": 8, "censored_pairs": 0, "difference": -191.0}
    >>> row |= {"difference_low": -260.0, "difference_high": -123.0, "percent": -34.0}
    >>> sentence(row, "none", "steps to 0.95", event="reaches 0.95", unit="steps")
    'value reaches 0.95 191 [123, 260] steps (34 %) earlier than none (8 pairs).'
    """
    variant, pairs = row["variant"], int(row["pairs"])
    words = ("later", "earlier") if event else ("higher", "lower")
    about, several = f"{variant}, {quantity}", f"{pairs} pair{'s' * (pairs != 1)}"
    if row["censored_pairs"]:
        return _censored(row, reference, about, words, unit, several)
    difference, low, high = row["difference"], row["difference_low"], row["difference_high"]
    alone = f"{number(difference, unit, sign=True)}{_of(unit)} from {reference}"
    if pairs < 2:
        return f"{about}: one pair, {alone}; one pair has no interval."
    if math.isnan(low):
        if difference == 0:
            return f"{about}: no difference from {reference} in any of {several}."
        return f"{about}: {alone} in each of {several}; without spread there is no interval."
    if low <= 0 <= high:
        shown = with_interval(difference, low, high, unit, sign=True)
        return f"{about}: no difference that {several} can tell from {reference}: {shown}{_of(unit)}."
    way = words[difference < 0]
    if difference < 0:
        difference, low, high = -difference, -high, -low
    shown = with_interval(difference, low, high, unit) + _of(unit)
    share = "" if math.isnan(row["percent"]) else f" ({abs(row['percent']):.0f} %)"
    if event:
        return f"{variant} {event} {shown}{share} {way} than {reference} ({several})."
    return f"{variant}: {quantity} is {shown}{share} {way} than that of {reference} ({several})."


def _censored(row: Row, reference: str, about: str, words: tuple[str, str], unit: str, several: str) -> str:
    """Where a seed of a pair has no value: at most that the median pair is on one side, and by how much at least."""
    count = int(row["censored_pairs"])
    missing = f"{count} of {several} {'has' if count == 1 else 'have'} no value on one side or both"
    start = f"{about}: {missing}, so there is no mean difference from {reference}"
    low, high = row["median_difference_low"], row["median_difference_high"]
    if high < 0 or low > 0:
        side, least = (words[0], low) if low > 0 else (words[1], -high)
        return f"{start}; the median pair is at least {number(least, unit)}{_of(unit)} {side}."
    return f"{start}, and no side that can be told."


def _of(unit: str) -> str:
    return f" {unit}" if unit else ""


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a terminal: columns as wide as their widest cell.

    >>> print(aligned(["variant", "n"], [["none", "8"], ["value-first", "8"]]))
    variant      n
    none         8
    value-first  8
    """
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same table in Markdown.

    >>> print(markdown(["variant", "n"], [["none", "8"]]))
    | variant | n |
    |---|---|
    | none | 8 |
    """
    lines = [list(head), ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("|" + "|".join(row) + "|" if row[0] == "---" else "| " + " | ".join(row) + " |" for row in lines)


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dicts."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
