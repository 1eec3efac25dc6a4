"""The whole matrices of a model's induction circuit, as tables: what its heads do with every token and position, read off the weights
(Elhage et al. 2021; papers.md sections 1 and 7).

Norms enter as token_space.py says: centring and learned scales are in the matrices, the positive divisors are not, nor is that
of the scores. The signs and the pattern of a row are therefore those of the model, the unit is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix

from workbench.analysis.data import AnalysisData
from workbench.analysis.roles import Head, Roles
from workbench.analysis.token_space import TokenSpace, token_space
from workbench.model import HookedTransformer

LARGEST = 128
"""Tokens or positions above which a matrix is left out: it could not be read as a picture, and its table would be large."""
COLUMNS = ["matrix", "part", "layer", "head", "source_layer", "source_head", "row", "column", "row_text", "column_text", "value"]
OV, QK, COMPOSED, POSITIONS = "OV", "QK", "K-composition", "positions"


@dataclass(frozen=True)
class CircuitMatrix:
    """One matrix of one head; `source` is the earlier head whose output its keys read."""

    name: str
    part: str
    head: Head
    values: Float[Tensor, "row column"]
    source: Head | None = None


def ov_matrix(
    W_E: Float[Tensor, "d_vocab d_model"], OV: FactoredMatrix, W_U: Float[Tensor, "d_model d_vocab"]
) -> Float[Tensor, "d_vocab d_vocab"]:
    """W_E W_OV W_U: what a head that attends to a token (row) adds to the logit of each token (column). OV is [d_model, d_model].

    >>> ov_matrix(torch.eye(2), FactoredMatrix(torch.eye(2), 3 * torch.eye(2)), torch.eye(2))
    tensor([[3., 0.],
            [0., 3.]])
    """
    return (W_E @ OV.A) @ (OV.B @ W_U)


def qk_matrix(
    rows: Float[Tensor, "row d_model"], QK: FactoredMatrix, columns: Float[Tensor, "column d_model"]
) -> Float[Tensor, "row column"]:
    """The score that a query (row) gives each key (column): rows W_QK columns^T. QK is [d_model, d_model].

    With tokens or positions in both places this is what a head matches directly; with W_E W_OV^A as the columns it is K-composition, the
    score of a position to which an earlier head A has moved a token.

    >>> before = FactoredMatrix(torch.eye(3)[:, :2], torch.eye(3)[1:])
    >>> qk_matrix(torch.eye(3), before, torch.eye(3)).nonzero().tolist()
    [[0, 1], [1, 2]]
    """
    return (rows @ QK.A) @ (QK.B @ columns.T)


def matrices_table(model: HookedTransformer, data: AnalysisData, roles: Roles) -> pd.DataFrame:
    """The matrices of the first named induction head and of the previous-token head before it, a row for each cell, with the columns

    matrix      OV (row: the token attended to, column: the token whose logit changes); K-composition (row: the query's token, column:
                the token that the previous-token head moved there); QK (row: the query's token, column: the token of the key's own
                position; where a key stream arrives, which reads that); positions (row: the query's position, column: the key's)
    part        own, or streamed: with the matrix that arrives along the stream in place of the head's own; positions: what attention
                uses, which is total where it is a sum
    layer, head, source_layer, source_head      the head, and the previous-token head of a K-composition
    row, column, row_text, column_text          tokens (or positions) by number, and as text
    value       float32

    There are no rows where no head is named, for more than `LARGEST` tokens (or positions), and for a model that reads vectors.
    """
    task = data.tasks[data.own]
    config = model.config
    if task.config.d_input is not None or config.readout == "classifier" or not (roles.induction or roles.previous_token):
        return pd.DataFrame(columns=COLUMNS)
    texts = task.to_strings(range(task.config.d_vocab)) if task.config.d_vocab <= LARGEST else []
    with torch.no_grad():
        space = token_space(model)
        found = [*(_of_tokens(space, roles) if texts else ()), *_of_positions(space, roles, task.config.seq_len)]
    tables = [_cells(matrix, texts) for matrix in found]
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(tables, ignore_index=True).astype({"row_text": "category", "column_text": "category"})


def _of_tokens(space: TokenSpace, roles: Roles) -> Iterator[CircuitMatrix]:
    """What the first induction head does with tokens."""
    if not roles.induction:
        return
    named = roles.induction[0]
    layer, head = named.layer, named.head
    W_E = space.W_E
    for part, circuit in _own_and_streamed(space.OV_parts(layer)).items():
        yield CircuitMatrix(OV, part, named, ov_matrix(W_E, _one(circuit, head), space.W_U))
    parts = _own_and_streamed(space.QK_parts(layer))
    if space.receives("k", layer):
        for part, circuit in parts.items():
            yield CircuitMatrix(QK, part, named, qk_matrix(W_E, _one(circuit, head), W_E))
    source = _before(roles, layer)
    values = None if source is None else space.used("v", source.layer)
    if source is None or values is None:
        return
    if space.receives("k", layer):
        parts = {"own": parts["own"]} | _reading(space, layer, source.layer)
    moved = W_E @ values[source.head] @ space.W_O(source.layer)[source.head]
    for part, circuit in parts.items():
        yield CircuitMatrix(COMPOSED, part, named, qk_matrix(W_E, _one(circuit, head), moved), source)


def _of_positions(space: TokenSpace, roles: Roles, length: int) -> Iterator[CircuitMatrix]:
    """How the previous-token head scores positions, of those that training reached."""
    if not roles.previous_token or space.W_pos is None or length > LARGEST:
        return
    named = (_before(roles, roles.induction[0].layer) if roles.induction else None) or roles.previous_token[0]
    parts = space.QK_parts(named.layer)
    part = "total" if "total" in parts else "own"
    W_pos = space.W_pos[:length]
    yield CircuitMatrix(POSITIONS, part, named, qk_matrix(W_pos, _one(parts[part], named.head), W_pos))


def _before(roles: Roles, layer: int) -> Head | None:
    """The strongest previous-token head in a layer before this one."""
    return next((head for head in roles.previous_token if head.layer < layer), None)


def _own_and_streamed(parts: dict[str, FactoredMatrix]) -> dict[str, FactoredMatrix]:
    return {part: circuit for part, circuit in parts.items() if part != "total"}


def _reading(space: TokenSpace, layer: int, source_layer: int) -> dict[str, FactoredMatrix]:
    """The QK circuit of the keys that arrive from layers after `source_layer`: the others read the residual stream before it writes."""
    keys = [weight for source, weight in space.arriving("k", layer).items() if source > source_layer] if space.one_matrix else []
    return {"streamed": FactoredMatrix(space.own("q", layer), torch.stack(keys).sum(dim=0).transpose(-1, -2))} if keys else {}


def _one(circuit: FactoredMatrix, head: int) -> FactoredMatrix:
    """The circuit of one head."""
    return FactoredMatrix(circuit.A[head], circuit.B[head])


def _cells(matrix: CircuitMatrix, texts: list[str]) -> pd.DataFrame:
    values = matrix.values.float().cpu().numpy()
    row, column = (index.reshape(-1).astype(np.int16) for index in np.indices(values.shape))
    source = (None, None) if matrix.source is None else (matrix.source.layer, matrix.source.head)
    words = np.array([str(number) for number in range(len(values))] if matrix.name == POSITIONS else texts, dtype=object)
    return pd.DataFrame(
        {
            "matrix": matrix.name,
            "part": matrix.part,
            "layer": matrix.head.layer,
            "head": matrix.head.head,
            "source_layer": pd.array([source[0]] * values.size, dtype="Int64"),
            "source_head": pd.array([source[1]] * values.size, dtype="Int64"),
            "row": row,
            "column": column,
            "row_text": words[row],
            "column_text": words[column],
            "value": values.reshape(-1),
        },
        columns=COLUMNS,
    )
