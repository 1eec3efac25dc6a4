"""The section `circuits`: what the weights would do, read without running the model (Elhage et al. 2021).

What a head does with tokens (copying, matching), how strongly an earlier head's output enters a later head through the
residual stream (composition), and what a value stream adds to a head's output-value circuit, which is no composition through
the residual stream. Norms enter as token_space.py says. The ratios of a circuit that is zero are defined as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix

from workbench.analysis.data import AnalysisData
from workbench.analysis.metrics import metric
from workbench.analysis.roles import Roles
from workbench.analysis.rows import Row
from workbench.analysis.token_space import TokenSpace, token_space
from workbench.model import HookedTransformer

ELHAGE = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
BURNS = "second OV circuit of a value stream, Burns et al. 2024 (2412.15113), section 3"
RELATIVE_ERROR = 0.005
"""standard error of the baselines of random matrices, as a share of the baseline"""
ROUNDINGS = 8
"""A product counts as zero below so many rounding errors, relative to the product of its factors' norms."""
DRAWS = 64
"""random matrices drawn at a time"""


@metric(
    "circuits",
    "head",
    formula="sum of re(lambda) / sum of |lambda|, lambda the eigenvalues of W_E W_OV W_U",
    range="-1 to 1; 0 for a circuit that writes nothing to the logits",
    source=ELHAGE,
)
def copying_score(
    W_E: Float[Tensor, "d_vocab d_model"], OV: FactoredMatrix, W_U: Float[Tensor, "d_model d_vocab"]
) -> Float[Tensor, " head"]:
    """How far a head raises the logit of the token it attends to: 1 where its output-value circuit copies every combination
    of tokens, -1 where it suppresses them, about 0 where it does neither.

    `part`: own is the head's own values, streamed those that arrive along a value stream, total both. OV [head, d_model,
    d_model] gives one value a head.

    >>> copies = FactoredMatrix(torch.eye(3)[None], 2 * torch.eye(3)[None])
    >>> copying_score(torch.eye(3), copies, -torch.eye(3))
    tensor([-1.])
    """
    return _positivity(FactoredMatrix(W_E @ OV.A, OV.B @ W_U), (W_E, OV.A, OV.B, W_U))


@metric(
    "circuits",
    "head",
    formula="sum of re(lambda) / sum of |lambda|, lambda the eigenvalues of W_E W_QK W_E^T",
    range="-1 to 1; 0 where scores between tokens are all 0",
    source=ELHAGE,
)
def qk_match_score(W_E: Float[Tensor, "d_vocab d_model"], QK: FactoredMatrix) -> Float[Tensor, " head"]:
    """How far a head's attention goes from a token to equal tokens: positive where tokens match themselves, negative where
    they avoid themselves, about 0 where the scores have nothing to do with equality.

    `part`: own is the head's own query and key, streamed has what arrives along a query or key stream in their place, total
    their sum. With rotary positions, the score is that at distance 0. QK [head, d_model, d_model] gives one value a head.

    >>> qk_match_score(torch.eye(3), FactoredMatrix(torch.eye(3)[None], torch.eye(3)[None]))
    tensor([1.])
    """
    return _positivity(FactoredMatrix(W_E @ QK.A, QK.B @ W_E.T), (W_E, QK.A, QK.B, W_E))


@metric(
    "circuits",
    "pair of heads",
    formula="||W_OV^A W_QK^B|| / (||W_OV^A|| ||W_QK^B||), A the earlier head, Frobenius norms, row vectors",
    range="0 to 1",
    source=ELHAGE,
)
def q_composition(OV: FactoredMatrix, QK: FactoredMatrix) -> Float[Tensor, "source_head head"]:
    """How strongly what an earlier head (`source_layer`, `source_head`) writes enters the queries of a later one, through the
    residual stream.

    `baseline` is the mean for random matrices of these shapes. OV [source_head, d_model, d_model] and QK [head, d_model,
    d_model] give one value for each pair; 0 where a circuit is zero.

    >>> QK = FactoredMatrix(torch.eye(3)[None, :, :1], torch.eye(3)[None, 1:2])
    >>> writes = FactoredMatrix(torch.eye(3)[:2, :, None], torch.eye(3)[:2, None])
    >>> q_composition(writes, QK)
    tensor([[1.],
            [0.]])
    """
    return _composition(OV.collapse_l(), QK.collapse_r(), _size(OV)[:, None] * _size(QK))


@metric(
    "circuits",
    "pair of heads",
    formula="||W_OV^A (W_QK^B)^T|| / (||W_OV^A|| ||W_QK^B||), A the earlier head, Frobenius norms, row vectors",
    range="0 to 1",
    source=ELHAGE,
)
def k_composition(OV: FactoredMatrix, QK: FactoredMatrix) -> Float[Tensor, "source_head head"]:
    """How strongly what an earlier head (`source_layer`, `source_head`) writes enters the keys of a later one, through the
    residual stream: a previous-token head into an induction head.

    `baseline` is the mean for random matrices of these shapes. OV [source_head, d_model, d_model] and QK [head, d_model,
    d_model] give one value for each pair; 0 where a circuit is zero.

    >>> QK = FactoredMatrix(torch.eye(3)[None, :, :1], torch.eye(3)[None, 1:2])
    >>> writes = FactoredMatrix(torch.eye(3)[:2, :, None], torch.eye(3)[:2, None])
    >>> k_composition(writes, QK)
    tensor([[0.],
            [1.]])
    """
    return _composition(OV.collapse_l(), QK.collapse_l().transpose(-1, -2), _size(OV)[:, None] * _size(QK))


@metric(
    "circuits",
    "pair of heads",
    formula="||W_OV^A W_OV^B|| / (||W_OV^A|| ||W_OV^B||), A the earlier head, Frobenius norms, row vectors",
    range="0 to 1",
    source=ELHAGE,
)
def v_composition(OV: FactoredMatrix, later: FactoredMatrix) -> Float[Tensor, "source_head head"]:
    """How strongly what an earlier head (`source_layer`, `source_head`) writes enters the values of a later one, through the
    residual stream. The later head's values are its own: a value stream is another path (stream_composition).

    `baseline` is the mean for random matrices of these shapes. OV [source_head, d_model, d_model] and later [head, d_model,
    d_model] give one value for each pair; 0 where a circuit is zero.

    >>> later = FactoredMatrix(torch.eye(3)[None, :, :1], torch.eye(3)[None, 1:2])
    >>> writes = FactoredMatrix(torch.eye(3)[:2, :, None], torch.eye(3)[:2, None])
    >>> v_composition(writes, later)
    tensor([[1.],
            [0.]])
    """
    return _composition(OV.collapse_l(), later.collapse_r(), _size(OV)[:, None] * _size(later))


@metric(
    "circuits",
    "pair of heads",
    formula="||W_V[source, h'] W_O[layer, h]|| / (||W_V[source, h']|| ||W_O[layer, h]||), Frobenius norms",
    range="0 to 1",
    source=BURNS,
)
def stream_composition(streamed: FactoredMatrix) -> Float[Tensor, " head"]:
    """How strongly the values that an earlier head (`source_layer`, `source_head`) computes enter what a later head writes,
    along the value stream that joins the two.

    `baseline` is the mean for random matrices of these shapes. streamed [head, d_model, d_model] has the factors W_V and
    W_O; one value a head; 0 where either is zero, as with a wire whose mixing scalar is 0.

    >>> W_V = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> W_O = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    >>> stream_composition(FactoredMatrix(W_V, W_O))
    tensor([0.7071])
    """
    return _ratio(_size(streamed), _norm(streamed.A) * _norm(streamed.B))


@metric(
    "circuits",
    "head",
    formula="||S|| / (||S|| + ||a W_V W_O||), ||S||^2 the sum over source layers of ||b W_V[source] W_O||^2",
    range="0 to 1; 0 where both circuits are zero",
    source=BURNS,
)
def streamed_ov_share(own: FactoredMatrix, streamed: list[FactoredMatrix]) -> Float[Tensor, " head"]:
    """How much of a head's output-value circuit came along the value stream: 0 where the head writes its own values only,
    1 where it writes streamed values only.

    The sources' circuits read different residual streams, so their squared norms are added, not the matrices. All are
    [head, d_model, d_model], and give one value a head.

    >>> circuit = FactoredMatrix(torch.eye(2)[None], torch.eye(2)[None])
    >>> streamed_ov_share(circuit, [3 * circuit])
    tensor([0.7500])
    """
    arriving = torch.stack([_size(circuit) for circuit in streamed]).pow(2).sum(dim=0).sqrt()
    return _ratio(arriving, arriving + _size(own))


@lru_cache
def random_composition(d_model: int, d_head: int) -> float:
    """The mean composition score of two circuits whose four factors have independent standard normal entries."""

    def draw(generator: torch.Generator) -> Tensor:
        V, W, Q, K = (torch.randn(DRAWS, d_model, d_head, generator=generator, dtype=torch.float64) for _ in range(4))
        left, right = FactoredMatrix(V, W.transpose(-1, -2)).collapse_l(), FactoredMatrix(Q, K.transpose(-1, -2)).collapse_r()
        return _ratio(_norm(left @ right), _norm(left) * _norm(right))

    return _mean_of(draw)


@lru_cache
def random_stream_composition(d_model: int, d_head: int) -> float:
    """The mean of ||A B|| / (||A|| ||B||) for standard normal A [d_model, d_head] and B [d_head, d_model]."""

    def draw(generator: torch.Generator) -> Tensor:
        A, B = (torch.randn(DRAWS, d_model, d_head, generator=generator, dtype=torch.float64) for _ in range(2))
        return _ratio(FactoredMatrix(A, B.transpose(-1, -2)).norm(), _norm(A) * _norm(B))

    return _mean_of(draw)


def measure(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> Iterator[Row]:
    """Rows of every circuit metric: plain numbers, which depend on the weights alone. Streamed parts only where a value, query
    or key stream arrives; none where heads are permuted by position, since no one matrix describes what arrives.

    `baseline` is the mean for random matrices; for copying and matching it is 0.
    """
    with torch.no_grad():
        space = token_space(model)
        rows = [*_tokens(space), *_pairs(space), *_stream(space)]
    for row in rows:
        yield {"task": data.own, **row}


def _tokens(space: TokenSpace) -> Iterator[Row]:
    for layer in range(space.model.config.n_layers):
        for part, circuit in space.OV_parts(layer).items():
            place = {"layer": layer, "part": part, "baseline": 0.0}
            yield from _heads(copying_score(space.W_E, circuit, space.W_U), metric="copying_score", **place)
        for part, circuit in space.QK_parts(layer).items():
            place = {"layer": layer, "part": part, "baseline": 0.0}
            yield from _heads(qk_match_score(space.W_E, circuit), metric="qk_match_score", **place)


def _pairs(space: TokenSpace) -> Iterator[Row]:
    config = space.model.config
    OV = [space.own_OV(layer) for layer in range(config.n_layers)]
    baseline = random_composition(space.dimensions, config.head_width) if config.n_layers > 1 else 0.0
    for layer in range(1, config.n_layers):
        QK = space.QK(layer)
        for source_layer in range(layer):
            scores = {
                "q_composition": q_composition(OV[source_layer], QK),
                "k_composition": k_composition(OV[source_layer], QK),
                "v_composition": v_composition(OV[source_layer], OV[layer]),
            }
            for name, values in scores.items():
                for source_head, of_source in enumerate(values):
                    place = {"layer": layer, "source_layer": source_layer, "source_head": source_head, "baseline": baseline}
                    yield from _heads(of_source, metric=name, **place)


def _stream(space: TokenSpace) -> Iterator[Row]:
    config = space.model.config
    for layer in range(config.n_layers):
        if not space.receives("v", layer) or not space.one_matrix:
            continue
        streamed = space.streamed_OV(layer)
        baseline = random_stream_composition(space.dimensions, config.head_width)
        for source_layer, circuit in streamed.items():
            place = {"layer": layer, "source_layer": source_layer, "baseline": baseline}
            for row in _heads(stream_composition(circuit), metric="stream_composition", **place):
                yield {**row, "source_head": space.source_head(source_layer, layer, row["head"])}
        yield from _heads(streamed_ov_share(space.own_OV(layer), list(streamed.values())), metric="streamed_ov_share", layer=layer)


def _heads(values: Float[Tensor, " head"], **place: object) -> Iterator[Row]:
    for head, value in enumerate(values.tolist()):
        yield {**place, "head": head, "value": value}


def _positivity(circuit: FactoredMatrix, factors: tuple[Tensor, ...]) -> Float[Tensor, " head"]:
    """Sum of the eigenvalues' real parts over the sum of their sizes, for a circuit that is the product of some factors.

    The eigenvalues that are not zero are those of the two halves' product in the other order, [d_head, d_head], which
    FactoredMatrix takes."""
    eigenvalues = circuit.eigenvalues
    return _ratio(eigenvalues.real.sum(dim=-1), _unless_rounding(eigenvalues.abs().sum(dim=-1), factors))


def _composition(
    left: Float[Tensor, "source_head r d_model"], right: Float[Tensor, "head d_model s"], sizes: Float[Tensor, "source_head head"]
) -> Float[Tensor, "source_head head"]:
    """||L R|| over the product of the circuits' norms, for every pair, from factors without the orthogonal outer sides that
    leave norms as they are."""
    return _ratio(_norm(left[:, None] @ right), sizes)


def _norm(matrix: Float[Tensor, "*what m n"]) -> Float[Tensor, "*what"]:
    return torch.linalg.matrix_norm(matrix)


def _size(circuit: FactoredMatrix) -> Float[Tensor, "*what"]:
    """The norm of a circuit."""
    return _unless_rounding(circuit.norm(), (circuit.A, circuit.B))


def _unless_rounding(size: Float[Tensor, "*what"], factors: tuple[Tensor, ...]) -> Float[Tensor, "*what"]:
    """The size of a product of factors; 0 where it is no more than rounding may have left of a product that is zero: a ratio
    of such remains would tell nothing."""
    rounding = torch.finfo(size.dtype).eps * ROUNDINGS * torch.stack([_norm(factor).expand_as(size) for factor in factors]).prod(dim=0)
    return torch.where(size > rounding, size, torch.zeros_like(size))


def _ratio(part: Float[Tensor, "*what"], whole: Float[Tensor, "*what"]) -> Float[Tensor, "*what"]:
    """part / whole; 0 where the whole is 0."""
    return torch.where(whole > 0, part / whole, torch.zeros_like(part))


def _mean_of(draw: Callable[[torch.Generator], Tensor]) -> float:
    """The mean of enough draws that its standard error is below RELATIVE_ERROR of it."""
    generator = torch.Generator().manual_seed(0)
    values = draw(generator)
    while values.std() / len(values) ** 0.5 > RELATIVE_ERROR * values.mean():
        values = torch.cat([values, draw(generator)])
    return values.mean().item()
