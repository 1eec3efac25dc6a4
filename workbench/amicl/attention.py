"""The attention of AMICL in one sequence, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.amicl import model
from workbench.amicl.accuracy import chunks
from workbench.amicl.config import PAPER, AmiclConfig
from workbench.amicl.data import Sequences, draw
from workbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd


def attention_table(config: AmiclConfig = PAPER, seed: int = 0) -> pd.DataFrame:
    """Who looks at whom in one sequence, for every similarity: the first of the seed whose query's class occurs once in the context, at
    neither end.

    Columns: similarity, part (scores, softmax or argmax), dst, src, dst_token, src_token, answered (whether src holds the right label),
    value. A token's name is a letter for its class: A is an object, a its label, A? the query, _ the empty slot.

    Raises UsageError where no such sequence is found, as with fewer than three pairs.
    """
    import pandas as pd

    one, empty = _plain_case(config, seed)
    names, n = token_names(one), config.n_tokens
    places = np.indices((n, n)).reshape(2, -1)
    answer = 2 * int(one.answered[0].argmax()) + 1
    where = {"dst": places[0], "src": places[1], "dst_token": [names[t] for t in places[0]], "src_token": [names[s] for s in places[1]]}
    tables = []
    for similarity in model.SIMILARITIES:
        scores = model.scores(config.replace(similarity=similarity), one.tokens, empty)
        largest = np.arange(n) == scores.argmax(axis=2, keepdims=True)[0]
        for part, matrix in (("scores", scores[0]), ("softmax", model.softmax(scores, config.beta)[0]), ("argmax", largest)):
            values = {"answered": places[1] == answer, "value": matrix.astype(float).ravel()}
            tables.append(pd.DataFrame({"similarity": similarity, "part": part, **where, **values}))
    return pd.concat(tables, ignore_index=True)


def _plain_case(config: AmiclConfig, seed: int) -> tuple[Sequences, np.ndarray]:
    """A sequence of which the theory says the same for every similarity, and its empty slot's key."""
    for sequences, empty in chunks(config, 1000, seed, draw):
        answered = sequences.answered
        inside = (answered.sum(axis=1) == 1) & ~answered[:, 0] & ~answered[:, -1]
        if inside.any():
            at = slice(int(inside.argmax()), int(inside.argmax()) + 1)
            return Sequences(sequences.tokens[at], sequences.labels[at]), empty[at]
    raise UsageError(f"no sequence has the query's class once, inside the context (n_tokens={config.n_tokens})")


def token_names(sequence: Sequences) -> list[str]:
    """Names of the tokens of one sequence: letters for classes in the order of their first object."""
    labels = sequence.tokens[0, 1:-2:2]
    first = [int((labels == label).all(axis=1).argmax()) for label in labels]
    ranks = {pair: rank for rank, pair in enumerate(dict.fromkeys(first))}
    letters = [_letter(ranks[pair]) for pair in first]
    pairs = [name for letter in letters for name in (letter, letter.lower())]
    return [*pairs, f"{letters[int(sequence.answered[0].argmax())]}?", "_"]


def _letter(rank: int) -> str:
    """A to Z, then A1 to Z1, and so on."""
    return chr(ord("A") + rank % 26) + (str(rank // 26) if rank >= 26 else "")
