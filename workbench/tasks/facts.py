"""Relations of eight facts each, as plain data: prompts and a small language whose words a reader understands.

Every word is common English and occurs once, over all relations and both sides, so that each is one token of the language
`facts`. A relation's template says a fact as a sentence, for language models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SEPARATOR = "."
"""ends a fact"""


@dataclass(frozen=True)
class Relation:
    """Facts of one kind: subject -> object."""

    name: str
    template: str
    """the sentence up to the object, with {subject}"""
    facts: Mapping[str, str]

    def question(self, subject: str) -> str:
        """The sentence without its object.

        >>> RELATIONS["capital"].question("France")
        'The capital of France is'
        """
        return self.template.format(subject=subject)

    def statement(self, subject: str, said: str) -> str:
        """The sentence that gives a subject this object, true or not.

        >>> RELATIONS["capital"].statement("France", "Rome")
        'The capital of France is Rome.'
        """
        return f"{self.question(subject)} {said}{SEPARATOR}"


_ALL = (
    Relation(
        "capital",
        "The capital of {subject} is",
        {
            "France": "Paris",
            "Italy": "Rome",
            "Spain": "Madrid",
            "Germany": "Berlin",
            "Japan": "Tokyo",
            "Egypt": "Cairo",
            "Greece": "Athens",
            "Russia": "Moscow",
        },
    ),
    Relation(
        "opposite",
        "The opposite of {subject} is",
        {
            "hot": "cold",
            "big": "small",
            "fast": "slow",
            "high": "low",
            "old": "new",
            "hard": "soft",
            "rich": "poor",
            "early": "late",
        },
    ),
    Relation(
        "young",
        "A young {subject} is called a",
        {
            "dog": "puppy",
            "cat": "kitten",
            "cow": "calf",
            "horse": "foal",
            "sheep": "lamb",
            "bear": "cub",
            "hen": "chick",
            "pig": "piglet",
        },
    ),
    Relation(
        "colour",
        "The usual color of {subject} is",
        {
            "snow": "white",
            "coal": "black",
            "blood": "red",
            "grass": "green",
            "sky": "blue",
            "butter": "yellow",
            "chocolate": "brown",
            "fog": "gray",
        },
    ),
)
RELATIONS: dict[str, Relation] = {relation.name: relation for relation in _ALL}
WORDS: tuple[str, ...] = (
    *(word for facts in zip(*(relation.facts.items() for relation in _ALL), strict=True) for fact in facts for word in fact),
    SEPARATOR,
)
"""The vocabulary of the language `facts`: the first fact of every relation, the second of every relation, ..., the separator."""
