"""The section `attribution`: what each component adds directly to the logit of the right next token.

The residual stream is a sum of what the components write, and the final norm is linear once its scale is held at the value of
the forward pass. So the logit of a token minus the mean logit over the vocabulary (the *centred* logit, which is all that the
softmax sees) is a sum over components, exactly: embeddings, heads, MLPs and biases (Elhage et al. 2021; direct logit
attribution). A head that receives a value stream has two parts, from its own values and from those that arrive, and every
head's part is a sum over source positions. What components do to each other is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import PerSequence
from workbench.analysis.heads import induction_places
from workbench.analysis.interventions import CHUNK
from workbench.analysis.logit_lens import measure_lens
from workbench.analysis.metrics import metric
from workbench.analysis.roles import Roles
from workbench.analysis.rows import SAMPLE, Row, numbers
from workbench.axes import HeadVectors, Mask, Pattern, Resid, Tokens
from workbench.config import ModelConfig
from workbench.model import ActivationCache, HookedTransformer
from workbench.tasks.base import Batch

SOURCES = ("answer", "same", "other")
"""where a head's contribution comes from, in the order of direct_logit_by_source's last axis"""
DIRECT = "direct logit attribution, Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"

At = Float[Tensor, "batch pos"]
OfHeads = Float[Tensor, "batch pos head"]
Component = tuple[int | None, int | None, str | None]
"""layer, head and part of a component, None where it has none"""


@dataclass(frozen=True)
class Contributions:
    """What each component adds to the centred logit of one token at every position [batch, pos]."""

    embed: At
    pos_embed: At | None
    """None where no position table is added"""
    heads: Mapping[int, OfHeads]
    """by layer: every head's own output, b_O left out"""
    own: Mapping[int, OfHeads]
    """by layer, where a value stream arrives: the part of `heads` from the head's own values"""
    streamed: Mapping[int, OfHeads]
    """by layer, where a value stream arrives: the part of `heads` from the values that arrive"""
    mlp: Mapping[int, At]
    """by layer: the MLP's output, b_out included"""
    bias: At
    """b_O of all layers, the final norm's shift and b_U"""

    def total(self) -> At:
        """The sum of all components: the centred logit."""
        single = [self.embed, self.bias, *self.mlp.values(), *(heads.sum(dim=-1) for heads in self.heads.values())]
        return sum(single[1:], single[0]) + (0 if self.pos_embed is None else self.pos_embed)

    def by_layer(self) -> dict[tuple[int | None, str | None], Float[Tensor, "batch pos *head"]]:
        """By layer (None outside the layers) and part (None for heads): embed, pos_embed, bias, mlp, heads, own and streamed."""
        outside = {(None, "embed"): self.embed, (None, "pos_embed"): self.pos_embed, (None, "bias"): self.bias}
        kinds = {None: self.heads, "own": self.own, "streamed": self.streamed, "mlp": self.mlp}
        found: dict[tuple[int | None, str | None], Tensor] = {place: value for place, value in outside.items() if value is not None}
        return found | {(layer, part): value for part, by_layer in kinds.items() for layer, value in by_layer.items()}

    def by_component(self) -> dict[Component, At]:
        """Each component by layer, head and part (None where it has none); own and streamed parts stand beside their heads."""
        found: dict[Component, At] = {}
        for (layer, part), value in self.by_layer().items():
            if value.ndim == self.embed.ndim:
                found[layer, None, part] = value
                continue
            found |= {(layer, head, part): value[..., head] for head in range(value.shape[-1])}
        return found


def needed(config: ModelConfig) -> list[str]:
    """The activations that `direct_contributions` and `contributions_by_source` read."""
    names = ["hook_embed"]
    if config.positional_embedding_type in ("standard", "sinusoidal"):
        names.append("hook_pos_embed")
    for layer in range(config.n_layers):
        names += [f"blocks.{layer}.attn.hook_{name}" for name in ("pattern", "v", "z")]
        if config.stream == "value" and config.receives_stream(layer):
            names += [f"blocks.{layer}.attn.hook_{name}" for name in ("v_stream", "v_used")]
        if not config.attn_only:
            names.append(f"blocks.{layer}.hook_mlp_out")
    return names if config.normalization_type is None else [*names, "ln_final.hook_scale"]


def logit_direction(model: HookedTransformer, cache: ActivationCache, targets: Tokens) -> Resid:
    """The vector whose dot product with what a component writes to the residual stream is the component's share of the
    target's centred logit: the target's column of W_U less the mean column, taken back through the final norm."""
    direction = _unembedding_direction(model, targets)
    norm = model.ln_final
    if hasattr(norm, "w"):
        direction = direction * norm.w
    if getattr(norm, "centred", False):
        direction = direction - direction.mean(dim=-1, keepdim=True)
    return direction if model.config.normalization_type is None else direction / cache["ln_final.hook_scale"]


def direct_contributions(model: HookedTransformer, cache: ActivationCache, targets: Tokens) -> Contributions:
    """Every component's contribution to the centred logit of `targets` [batch, pos]; they sum to it up to rounding.

    The cache must hold the names of `needed`. The final norm is handled exactly: centring, learned scale and shift
    included, its scale held at the value of this pass.
    """
    direction = logit_direction(model, cache, targets)
    heads, own, streamed, mlp = {}, {}, {}, {}
    bias = model.b_U[targets] - model.b_U.mean()
    if hasattr(model.ln_final, "b"):
        bias = bias + _unembedding_direction(model, targets) @ model.ln_final.b
    for layer, block in enumerate(model.blocks):
        at_heads = head_directions(model, layer, direction)
        heads[layer] = _dot(cache["z", layer], at_heads)
        if block.attn.receives == "v":
            pattern, mixed = cache["pattern", layer], block.attn.mix[0] * cache["v", layer]
            own[layer] = _dot(_attended(pattern, mixed), at_heads)
            streamed[layer] = _dot(_attended(pattern, cache["v_stream", layer]), at_heads)
        if not model.config.attn_only:
            mlp[layer] = _dot(cache["mlp_out", layer], direction)
        bias = bias + direction @ block.attn.b_O
    positions = model.config.positional_embedding_type in ("standard", "sinusoidal")
    pos_embed = _dot(cache["hook_pos_embed"], direction) if positions else None
    return Contributions(_dot(cache["hook_embed"], direction), pos_embed, heads, own, streamed, mlp, bias)


def head_directions(model: HookedTransformer, layer: int, direction: Resid) -> HeadVectors:
    """W_O d for the direction d at every position: what a head's z [batch, pos, head, d_head] is multiplied with."""
    return torch.einsum("bpm,hdm->bphd", direction, model.blocks[layer].attn.W_O)


def contributions_by_source(model: HookedTransformer, cache: ActivationCache, layer: int, direction: Resid) -> Pattern:
    """Each head's contribution along `direction` at every position, by the position that it comes from
    [batch, head, dst, src]: attention times the value's dot product with W_O d. Sums over src to the head's contribution."""
    values = cache["v_used" if model.blocks[layer].attn.receives == "v" else "v", layer]
    at_heads = head_directions(model, layer, direction)
    return cache["pattern", layer] * (at_heads.transpose(1, 2) @ values.permute(0, 2, 3, 1))


@metric(
    "attribution",
    "head",
    formula="mean over answered t of (what the component writes at t) . d[t], d the direction of z[t + 1]'s centred logit",
    range="any, logits",
    source=DIRECT,
)
def direct_logit_attribution(contribution: Float[Tensor, "batch pos *what"], answered: Mask) -> PerSequence:
    """What a component adds directly to the centred logit of the right next token, where the context has shown it. Over all
    components (heads, and the rows without a head: parts embed, pos_embed, mlp of each layer, bias) it sums to that logit.

    Where a value stream arrives, a head's rows with part own and streamed split its row without part.

    >>> answered = torch.tensor([[False, True, True]])
    >>> direct_logit_attribution(torch.tensor([[9.0, 1.0, 2.0]]), answered).estimate().value
    tensor(1.5000)
    """
    mask = answered.to(contribution.dtype)
    return PerSequence(torch.einsum("bt...,bt->b...", contribution, mask), mask.sum(dim=1))


@metric(
    "attribution",
    "head",
    formula="mean over answered t of the sum over the s of a kind of A[t, s] v[s] W_O . d[t]",
    range="any, logits",
    source=f"{DIRECT}, by source position",
)
def direct_logit_by_source(by_source: Pattern, tokens: Tokens, answered: Mask) -> PerSequence:
    """A head's direct contribution to the centred logit of the right next token, by where it was read: part answer (right
    after earlier occurrences of the current token), same (where the current token stands, here or earlier) or other.
    An induction head has all of it in answer.

    `by_source` is that of `contributions_by_source`; the result is [batch, head, kind of source], in the order of `SOURCES`.
    A source of both kinds counts as answer.

    >>> by_source = torch.tensor([[[[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.5, 4.0, 3.0, 0.25]]]])
    >>> answered = torch.tensor([[False, False, False, True]])
    >>> direct_logit_by_source(by_source, torch.tensor([[5, 7, 9, 5]]), answered).estimate().value
    tensor([[4.0000, 0.7500, 3.0000]])
    """
    mask = answered.to(by_source.dtype)
    kinds = source_kinds(tokens).to(by_source.dtype) * mask[:, :, None, None]
    return PerSequence(by_source.flatten(2) @ kinds.flatten(1, 2), mask.sum(dim=1))


def source_kinds(tokens: Tokens) -> Bool[Tensor, "batch dst src kind"]:
    """Which kind each source position is for each destination, in the order of `SOURCES`: exactly one, up to the own position."""
    answer = induction_places(tokens)
    same = (tokens[:, :, None] == tokens[:, None, :]).tril() & ~answer
    other = (~answer & ~same).tril()
    return torch.stack([answer, same, other], dim=-1)


def measure(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> Iterator[Row]:
    """Rows of every metric of the section, on the own task: contributions over the half of the sequences on which heads are
    scored, the logit lens and the loss by position over all."""
    if data.scoring.answered.any():
        for (name, layer, part), sample in _samples(model, data.scoring).items():
            row: Row = {"task": data.own, "metric": name, "layer": layer, "part": part}
            row = {column: value for column, value in row.items() if value is not None}
            estimate = sample.estimate()
            if sample.sums.ndim == 1:
                yield row | numbers(estimate) | {SAMPLE: sample}
                continue
            for head in range(model.config.n_heads):
                yield row | {"head": head} | numbers(estimate, head) | {SAMPLE: sample.part(head)}
    yield from measure_lens(model, data)


Place = tuple[str, int | None, str | None]
"""metric, layer and part of some rows"""


@torch.inference_mode()
def _samples(model: HookedTransformer, batch: Batch) -> dict[Place, PerSequence]:
    """What each sequence adds to each mean, [batch] or [batch, head], from one pass."""
    names = needed(model.config)
    found: dict[Place, list[PerSequence]] = {}
    for start in range(0, len(batch), CHUNK):
        rows = batch[start : start + CHUNK].to(model.W_E.device)
        _, cache = model.run_with_cache(rows.tokens, names_filter=names)
        for place, sample in _of_chunk(model, cache, rows):
            found.setdefault(place, []).append(PerSequence(sample.sums.cpu(), sample.counts.cpu()))
    return {place: PerSequence.cat(parts) for place, parts in found.items()}


def _of_chunk(model: HookedTransformer, cache: ActivationCache, rows: Batch) -> Iterator[tuple[Place, PerSequence]]:
    parts = direct_contributions(model, cache, rows.targets)
    for (layer, part), contribution in parts.by_layer().items():
        yield (direct_logit_attribution.__name__, layer, part), direct_logit_attribution(contribution, rows.answered)

    direction = logit_direction(model, cache, rows.targets)
    for layer in parts.heads:
        by_source = contributions_by_source(model, cache, layer, direction)
        split = direct_logit_by_source(by_source, rows.tokens, rows.answered)
        for kind, name in enumerate(SOURCES):
            yield (direct_logit_by_source.__name__, layer, name), PerSequence(split.sums[:, :, kind], split.counts)


def _unembedding_direction(model: HookedTransformer, targets: Tokens) -> Resid:
    """The target's column of W_U less the mean column."""
    return (model.W_U - model.W_U.mean(dim=1, keepdim=True)).T[targets]


def _attended(pattern: Pattern, values: Float[Tensor, "batch src head d_head"]) -> Float[Tensor, "batch dst head d_head"]:
    return (pattern @ values.transpose(1, 2)).transpose(1, 2)


def _dot(written: Float[Tensor, "*what width"], direction: Float[Tensor, "*what width"]) -> Float[Tensor, "*what"]:
    return (written * direction).sum(dim=-1)
