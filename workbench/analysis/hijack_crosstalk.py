"""How far an associative-memory transformer with random, nearly orthonormal vectors is from the theory of hijack.py.

All that the model computes depends on the inner products of its vectors (embeddings, their images, positions, unembeddings): G, the
identity where they are orthonormal. With independent entries N(0, 1/d), an inner product of two of the N vectors has variance
1/d and a squared length 2/d, and to first order in these

    Var logit(v) = |S_v|^2 / (2 d)        S_v = (J_v + J_v') / 2,  J_v = d logit(v) / d X at X = identity

with X the N vectors as rows and |.| the Frobenius norm: rows of I + E have the products I + E + E'. So the deviation falls as
1/sqrt(d), by how much the derivatives say: those of the model itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call

from workbench.errors import UsageError
from workbench.model.constructed import Strengths, Vectors, associative_memory, log_probabilities, memories


def expected_deviation(
    tokens: Int[Tensor, " pos"],
    bigram: Float[np.ndarray, "d_vocab d_vocab"],
    strengths: Strengths,
    d_model: int,
    triggers: Sequence[int] | None = None,
    *,
    positions: str = "standard",
    stream: bool = False,
) -> Float[Tensor, " d_vocab"]:
    """The standard deviation, over random near-orthonormal vectors of dimension d_model, of each logit at the last position.

    It holds to first order, for d_model far above the number of vectors that a sum runs over (d_vocab). Raises UsageError for an
    infinite t1: among equal scores any crosstalk then decides, in every dimension.
    """
    if math.isinf(strengths.t1):
        raise UsageError(
            "with t1=inf any crosstalk between near-orthonormal vectors decides where layer 1 attends; give t1 a finite strength"
        )
    d_vocab = len(bigram)
    model = associative_memory(bigram, len(tokens), strengths, triggers, positions=positions, stream=stream)
    n_positions = len(tokens) if positions == "standard" else 0
    rows = torch.eye(3 * d_vocab + n_positions, dtype=torch.float64, requires_grad=True)
    embedded, noted, outputs, places = rows.split([d_vocab, d_vocab, d_vocab, n_positions])
    wanted = range(d_vocab) if triggers is None else triggers
    state = memories(model, Vectors(embedded, noted, places, outputs), log_probabilities(bigram), strengths, list(wanted))
    logits = functional_call(model, state, (tokens[None],))[0, -1]
    variances = []
    for logit in logits:
        (slope,) = torch.autograd.grad(logit, rows, retain_graph=True)
        variances.append(((slope + slope.T) / 2).square().sum() / (2 * d_model))
    return torch.stack(variances).sqrt()
