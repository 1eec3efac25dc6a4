"""The section `probes`: do the weights hold the associations of an induction head, and does attention go where they say
(attention_probes.py)? Bietti et al. 2023 (2306.00802), section 4.

Memory-recall probes read weights only: each asks, for every token or position, whether what a matrix scores highest is what
the circuit needs; the tokens or positions are the units of the mean and of its interval. A largest score that is not the only
one is wrong: a head of zeros recalls nothing. Norms enter as token_space.py says.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import FactoredMatrix

from workbench.analysis.attention_probes import attention_rows
from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import PerSequence
from workbench.analysis.metrics import metric
from workbench.analysis.roles import Roles
from workbench.analysis.rows import SAMPLE, Row, each_row, numbers
from workbench.analysis.token_space import TokenSpace, token_space
from workbench.model import HookedTransformer
from workbench.tasks.base import Task
from workbench.tasks.trigger_bigram import TriggerBigram

BIETTI = "Bietti et al. 2023 (2306.00802), section 4"
LARGEST_TABLE = 2**24
"""Scores that are held at a time."""


@metric(
    "probes",
    "head",
    formula="mean over t = 1..T-1 of [argmax over s = 0..T-2 of p_t W_Q (p_s W_K)^T = t - 1]; part causal: argmax over s = 0..t",
    range="0 to 1",
    source=BIETTI,
)
def previous_token_probe(W_pos: Float[Tensor, "pos d_model"], QK: FactoredMatrix, causal: bool = False) -> PerSequence:
    """The share of positions whose query of the position alone scores the key of the position before highest, among all
    positions as published, or (`part` causal) among those that attention may look at. Layer 0 only, where positions are
    added to the embedding.

    Training never punishes a high score on a later position, so the published probe can be low in a head that attends to the
    position before almost always. `baseline` is 1 / (T - 1), causal: the mean of 1 / (t + 1). QK is [head, d_model, d_model];
    biases are left out. Units: the positions t.

    >>> before = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    >>> looks_ahead = FactoredMatrix(before[None], torch.eye(3)[None])
    >>> previous_token_probe(torch.eye(3), looks_ahead, causal=True).estimate().value
    tensor([1.])
    """
    return _recalled(W_pos[1:] @ QK.A, QK.B @ (W_pos if causal else W_pos[:-1]).T, ahead=1 if causal else None)


@metric(
    "probes",
    "pair of heads",
    formula="mean over q of [argmax over u of w_E(q) W_Q (w_E(u) W_OV^A W_K)^T = q], A the earlier head",
    range="0 to 1",
    source=BIETTI,
)
def trigger_match_probe(W_E: Float[Tensor, "token d_model"], QK: FactoredMatrix, OV: FactoredMatrix) -> PerSequence:
    """The share of trigger tokens whose query scores highest the key of a position to which an earlier head has moved the same
    token. Rows without `source_head` take what all heads of `source_layer`, the layer before, write together.

    The triggers are the task's fixed triggers, or the whole vocabulary where it has none; `baseline` is one over their number.
    Where streams arrive, the query and the earlier head's values are what attention uses of a token's embedding (own and
    streamed); the key is the later head's own, since no stream carries what the layer before wrote.
    W_E has the triggers' rows; QK is [head, d_model, d_model], OV [source_head, d_model, d_model]. Units: the triggers q; one
    value for each [source_head, head].

    >>> identity = FactoredMatrix(torch.eye(3)[None], torch.eye(3)[None])
    >>> trigger_match_probe(torch.eye(3), identity, identity).estimate().value
    tensor([[1.]])
    """
    moved: Float[Tensor, "source_head 1 token d_model"] = (W_E @ OV.A @ OV.B)[:, None]
    return _recalled((W_E @ QK.A)[None], QK.B @ moved.transpose(-1, -2))


@metric(
    "probes",
    "head",
    formula="mean over v of [argmax over u of w_E(v) W_OV W_U = v]",
    range="0 to 1",
    source=BIETTI,
)
def copying_probe(W_E: Float[Tensor, "d_vocab d_model"], OV: FactoredMatrix, W_U: Float[Tensor, "d_model d_vocab"]) -> PerSequence:
    """The share of the vocabulary for which a head's output-value circuit raises the logit of the very token it reads most.
    Rows without `head` take all heads of the layer together.

    `part`: own is the head's own values, streamed those that arrive along a value stream, total both. `baseline` is one over
    the vocabulary. OV is [head, d_model, d_model]. Units: the tokens v.

    >>> both = FactoredMatrix(torch.stack([torch.eye(3), 0 * torch.eye(3)]), torch.eye(3).expand(2, 3, 3))
    >>> copying_probe(torch.eye(3), both, torch.eye(3)).estimate().value
    tensor([1., 0.])
    """
    return _recalled(W_E @ OV.A, OV.B @ W_U)


@metric(
    "probes",
    "layer",
    formula="mean over v of KL(pi_b(. | v) || softmax(c(v) W_U)), c(v) what the part writes for w_E(v)",
    range="0 or more, nats; 0 where the part alone predicts the bigrams",
    source=BIETTI,
)
def bigram_probe(logits: Float[Tensor, "token d_vocab"], bigram: Float[Tensor, "token d_vocab"]) -> PerSequence:
    """How far the prediction that a part of the model makes from a token alone is from the language's bigrams, over the tokens
    that occur and are no fixed triggers.

    `part`: mlp is the MLP of `layer`, which reads the norm of w_E(v) alone; direct is the path from the embedding straight to
    the unembedding. Both pass the final norm, with the divisor of a residual stream that holds w_E(v) and the part's output
    (direct: w_E(v)) and nothing else. Biases inside the MLP count, that of the unembedding does not.
    `baseline` is the divergence from the uniform distribution, which a part that writes nothing predicts. Units: the tokens v.

    >>> bigram_probe(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).estimate().value
    tensor(0.6931)
    """
    divergence = torch.special.xlogy(bigram, bigram).sum(dim=-1) - (bigram * logits.log_softmax(dim=-1)).sum(dim=-1)
    return PerSequence(divergence, torch.ones_like(divergence))


def measure(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> Iterator[Row]:
    """Rows of every probe of the model's own task: those of the weights, then those of attention on the scoring half of its
    sequences. `baseline` is chance. A probe that the model or the task has no place for gives no rows."""
    task = data.tasks[data.own]
    with torch.no_grad():
        space = token_space(model)
        weights = [*_positions(space, task), *_matches(space, task), *_copies(space), *_bigrams(space, task)]
    for row in (*weights, *attention_rows(model, data.scoring)):
        yield {"task": data.own, **row}


def _positions(space: TokenSpace, task: Task) -> Iterator[Row]:
    if space.W_pos is None:
        return
    W_pos = space.W_pos[: task.config.seq_len]
    if len(W_pos) < 2:
        return
    place = {"metric": "previous_token_probe", "layer": 0}
    for row in each_row(previous_token_probe(W_pos, space.QK(0)), "head"):
        yield {**place, **row, "baseline": 1 / (len(W_pos) - 1)}
    even = sum(1 / (t + 1) for t in range(1, len(W_pos))) / (len(W_pos) - 1)
    for row in each_row(previous_token_probe(W_pos, space.QK(0), causal=True), "head"):
        yield {**place, "part": "causal", **row, "baseline": even}


def _matches(space: TokenSpace, task: Task) -> Iterator[Row]:
    triggers = _fixed_triggers(task)
    W_E = space.W_E if triggers is None else space.W_E[triggers.to(space.W_E.device)]
    for layer in range(1, space.model.config.n_layers):
        query, value = space.used("q", layer), space.used("v", layer - 1)
        if query is None or value is None:
            continue
        QK = FactoredMatrix(query, space.own("k", layer).transpose(-1, -2))
        OV = FactoredMatrix(value, space.W_O(layer - 1))
        place = {"metric": "trigger_match_probe", "layer": layer, "source_layer": layer - 1, "baseline": 1 / len(W_E)}
        for row in each_row(trigger_match_probe(W_E, QK, OV), "source_head", "head"):
            yield {**place, **row}
        for row in each_row(trigger_match_probe(W_E, QK, _together(OV)), "", "head"):
            yield {**place, **row}


def _copies(space: TokenSpace) -> Iterator[Row]:
    for layer in range(space.model.config.n_layers):
        for part, OV in space.OV_parts(layer).items():
            place = {"metric": "copying_probe", "layer": layer, "part": part, "baseline": 1 / len(space.W_E)}
            for row in each_row(copying_probe(space.W_E, OV, space.W_U), "head"):
                yield {**place, **row}
            for row in each_row(copying_probe(space.W_E, _together(OV), space.W_U), ""):
                yield {**place, **row}


def _bigrams(space: TokenSpace, task: Task) -> Iterator[Row]:
    if not isinstance(task, TriggerBigram):
        return
    asked = torch.from_numpy(task.language.unigram > 0)
    triggers = _fixed_triggers(task)
    if triggers is not None:
        asked[triggers] = False
    if not asked.any():
        return
    embedded = space.W_E[asked.to(space.W_E.device)]
    bigram = torch.from_numpy(task.language.bigram[asked.numpy()]).to(embedded)
    baseline = bigram_probe(torch.zeros_like(bigram), bigram).estimate().value.item()
    for place, logits in _contributions(space, embedded):
        sample = bigram_probe(logits, bigram)
        sample = PerSequence(sample.sums.cpu(), sample.counts.cpu())
        yield {"metric": "bigram_probe", **place, **numbers(sample.estimate()), "baseline": baseline, SAMPLE: sample}


def _contributions(space: TokenSpace, embedded: Float[Tensor, "token d_model"]) -> Iterator[tuple[Row, Float[Tensor, "token d_vocab"]]]:
    """What the direct path and each MLP add to the logits of tokens from their embeddings alone."""
    model = space.model
    yield {"part": "direct"}, _normed(space, embedded, embedded) @ space.W_U
    for layer, block in enumerate([] if model.config.attn_only else model.blocks):
        written = block.mlp(_normed(space, embedded, embedded)[None])[0]
        yield {"layer": layer, "part": "mlp"}, _normed(space, written, embedded + written) @ space.W_U


def _normed(
    space: TokenSpace, part: Float[Tensor, "token d_model"], whole: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token d_model"]:
    """A part of a residual stream as a norm passes it on: centred where it centres, over the divisor of the whole."""
    if space.model.config.normalization_type is None:
        return part
    if space.centred:
        part, whole = (vectors - vectors.mean(dim=-1, keepdim=True) for vectors in (part, whole))
    return part / (whole.pow(2).mean(dim=-1, keepdim=True) + space.model.config.eps).sqrt()


def _recalled(left: Float[Tensor, "*#what unit r"], right: Float[Tensor, "*#what r choice"], ahead: int | None = None) -> PerSequence:
    """Whether the largest of unit i's scores (left right)[i] is that of choice i, and no other: [unit, *what]. With `ahead`,
    unit i has the choices up to i + ahead only."""
    n_units, n_choices, found = left.shape[-2], right.shape[-1], []
    a_unit = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2]).numel() * n_choices
    step = max(1, LARGEST_TABLE // a_unit)
    for start in range(0, n_units, step):
        scores = left[..., start : start + step, :] @ right
        if ahead is not None:
            beyond = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(start + ahead + 1)
            scores = scores.masked_fill(beyond, float("-inf"))
        largest = scores == scores.amax(dim=-1, keepdim=True)
        found.append(largest.diagonal(offset=start, dim1=-2, dim2=-1) & (largest.sum(dim=-1) == 1))
    recalled = torch.cat(found, dim=-1).movedim(-1, 0).float().cpu()
    return PerSequence(recalled, torch.ones(n_units))


def _together(circuit: FactoredMatrix) -> FactoredMatrix:
    """The sum of all heads' circuits, [1, d_model, d_model]."""
    return FactoredMatrix(circuit.A.movedim(0, 1).flatten(1)[None], circuit.B.flatten(0, 1)[None])


def _fixed_triggers(task: Task) -> Int[Tensor, " k"] | None:
    """The triggers that every sequence of the task has; None where it has none."""
    if isinstance(task, TriggerBigram) and task.config.triggers == "fixed":
        return torch.from_numpy(task.fixed_triggers.copy())
    return None
