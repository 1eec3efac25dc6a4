"""How words become tokens: the strings of a task (`TaskWords`), or a language model's tokenizer (`TokenizerWords`)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from workbench.errors import UsageError

WORD = re.compile(r"' '|\S+")
"""a word of a task's vocabulary; the blank has a name with a blank in it"""


@runtime_checkable
class Vocabulary(Protocol):
    """How words become tokens. Both raise UsageError, with the reason, for words that do not."""

    def tokens(self, text: str) -> list[int]:
        """The tokens of a prompt."""
        ...

    def next_token(self, text: str | None, word: str) -> int:
        """The one token that a word is, where it follows this text (None: a prompt that was given as ids)."""
        ...

    def word(self, token: int) -> str:
        """How a token is written."""
        ...


class TaskWords:
    """The vocabulary of a task: words stand between white space.

    >>> TaskWords(["red", "green"]).tokens("green green red")
    [1, 1, 0]
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = list(strings)
        self._ids = {string: token for token, string in enumerate(strings)}

    def tokens(self, text: str) -> list[int]:
        """The tokens of a prompt; raises UsageError for a word that is none."""
        return [self.next_token(text, word) for word in WORD.findall(text)]

    def next_token(self, text: str | None, word: str) -> int:
        """The token of a word; raises UsageError, with the nearest words, where it is none."""
        if word not in self._ids:
            near = difflib.get_close_matches(word, self.strings, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the {len(self.strings)} words are {', '.join(self.strings[:8])}, ..."
            raise UsageError(f"unknown word {word!r}; {hint}")
        return self._ids[word]

    def word(self, token: int) -> str:
        """The string of a token."""
        return self.strings[token]


class TokenizerWords:
    """The vocabulary of a language model (a TransformerBridge, or what has its `to_tokens` and `tokenizer`). A word that follows a
    text is what its tokens add to those of the text, with a blank between (after a line's end: without)."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def tokens(self, text: str) -> list[int]:
        """The tokens of a prompt, with what the model puts at the start of every text."""
        # Never cut to the model's length: a prompt that is too long is refused.
        return self.model.to_tokens(text, truncate=False)[0].tolist() if text.strip() else []

    def next_token(self, text: str | None, word: str) -> int:
        """The one token that a word adds; raises UsageError where it adds several."""
        if text is not None and text.endswith(" "):
            raise UsageError("the prompt ends with a blank, but the next word brings its own; leave the blank off")
        before = [] if text is None else self._plain(text)
        apart = "" if (text is not None and text[-1:].isspace()) or word[:1].isspace() else " "
        after = self._plain(f"{text or ''}{apart}{word}")
        if after[: len(before)] != before:
            raise UsageError(f"the tokenizer joins {word!r} to the end of the prompt; let the prompt end with a whole word")
        added = after[len(before) :]
        if len(added) != 1:
            raise UsageError(
                f"{word!r} is {len(added)} tokens here ({', '.join(repr(self.word(token)) for token in added)}), but one is compared with "
                "one; choose a word that is a single token"
            )
        return added[0]

    def word(self, token: int) -> str:
        """A token as text, with its blank."""
        return self.model.tokenizer.decode([token])

    def _plain(self, text: str) -> list[int]:
        return self.model.tokenizer.encode(text, add_special_tokens=False)
