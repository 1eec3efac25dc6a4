"""Which heads are named for what they do. Heads are named by their scores on one half of the sequences (`selection`), and
reported with their scores on the other, so that a lucky head does not report its luck."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workbench.analysis.rows import Row

PREVIOUS_TOKEN = 0.4
"""Score previous_token_at_answers from which a head is called a previous-token head. A choice: in four trained
models (two tasks, one seed each) the strongest head scored 0.42 to 0.82; of the others one scored 0.67, the rest 0.23 or less."""
PREFIX_MATCHING = 0.5
"""Prefix-matching score from which a head is called an induction head: most of its attention, where the answer has
been seen."""


@dataclass(frozen=True, order=True)
class Head:
    """A head by its place; written L1H3."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"


@dataclass(frozen=True)
class Roles:
    """The heads of a model that a score names, strongest first."""

    previous_token: tuple[Head, ...] = ()
    induction: tuple[Head, ...] = ()
    positional: tuple[Head, ...] = ()
    """heads with a high prefix-matching score that cannot be matching, as the controls show"""

    @property
    def groups(self) -> dict[str, tuple[Head, ...]]:
        """The roles that carry a behaviour, by the name that tables give them; only those that some head has."""
        groups = {"previous-token heads": self.previous_token, "induction heads": self.induction}
        return {name: heads for name, heads in groups.items() if heads}


def name_heads(rows: Iterable[Row], own: str, control: str | None) -> Roles:
    """The roles of the heads in the rows of the section formation at one checkpoint, on the task `own`.

    A head with a high prefix-matching score is positional, not an induction head: in layer 0, where no earlier head can
    have told it what came before; where the score does not hold on `control` (the name of the non-periodic repeats,
    given where the own repeats all stand at one distance); and, otherwise, where the head's pattern scores
    as high at the places of another sequence (`baseline`): then it does not depend on the tokens.
    """
    scores = {(row["task"], row["metric"], Head(row["layer"], row["head"])): row for row in rows if row.get("head") is not None}
    previous = _strongest(scores, own, "previous_token_at_answers", PREVIOUS_TOKEN)
    matching = _strongest(scores, own, "prefix_matching_score", PREFIX_MATCHING)

    def positional(head: Head) -> bool:
        if head.layer == 0:
            return True
        if control is not None:
            return not scores[control, "prefix_matching_score", head]["selection"] >= PREFIX_MATCHING
        row = scores[own, "prefix_matching_score", head]
        return row["baseline"] > row["selection"] / 2

    unmasked = tuple(head for head in matching if positional(head))
    return Roles(previous, tuple(head for head in matching if head not in unmasked), unmasked)


def _strongest(scores: dict[tuple[str, str, Head], Row], task: str, metric: str, threshold: float) -> tuple[Head, ...]:
    found = {head: row["selection"] for (of, name, head), row in scores.items() if (of, name) == (task, metric)}
    return tuple(sorted((head for head in found if found[head] >= threshold), key=lambda head: -found[head]))
