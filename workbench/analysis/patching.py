"""Activation patching (rows of the section `causal`): what of a head, taken from a sequence whose context shows the answer,
brings the answer back in a copy of the sequence whose context was spoilt.

The copy is spoilt in one of two ways. "answer": another token stands after the earlier occurrences of the trigger, so that
what a head copies matters. "trigger": another token stands in the place of those occurrences, so that where a head looks
matters. A head that attends at a fixed distance, or to everything, does not notice the second.

The sweeps over heads are TransformerLens's. In a model with a stream of letter p some of its answers mean something else:

- its "p" is the head's own projection before the wire joins. Where nothing arrives (layer 0) that is what attention uses,
  but a patch of it changes what travels along the wire as well, so that "v" of layer 0 may restore what a head of layer 1
  copies. Where a stream arrives it is not what attention uses, and restores nothing if the head works with what arrived;
- its "z" leaves the wire as the spoilt sequence has it.

TransformerLens has no name for the two activations that tell these apart, so they are ours: "p_used", what attention uses,
and "p_stream", what arrives along the wire alone, in the layers that receive it. With the source `accumulated` a patch of
either also travels on to the next layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import transformer_lens.patching as lens
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import PerSequence, Ratio
from workbench.analysis.metrics import metric
from workbench.analysis.rows import SAMPLE, Row, numbers
from workbench.axes import Logits, Mask, Tokens
from workbench.config import ModelConfig
from workbench.model import HookedTransformer
from workbench.model.attention import STREAM_LETTER
from workbench.model.cache import ActivationCache
from workbench.tasks.base import Batch

CORRUPTIONS = ("answer", "trigger")
MOST_PAIRS = 64
ROUNDING = 1e-5
"""logits: a fall of less may be rounding, which can be the same in every pair"""
SWEEPS: dict[str, Callable[..., Any]] = {
    "z": lens.get_act_patch_attn_head_out_all_pos,
    "q": lens.get_act_patch_attn_head_q_all_pos,
    "k": lens.get_act_patch_attn_head_k_all_pos,
    "v": lens.get_act_patch_attn_head_v_all_pos,
    "pattern": lens.get_act_patch_attn_head_pattern_all_pos,
}
"""activation -> TransformerLens's sweep over the heads"""
SOURCE = "Meng et al. 2022 (2202.05262); Heimersheim & Nanda 2024 (2404.15255)"

Quantity = Callable[[Logits], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class Pairs:
    """Sequences, and copies of them in whose context the answer at `position` can no longer be found."""

    clean: Tokens
    corrupted: Mapping[str, Tokens]
    """by what is spoilt, answer or trigger"""
    position: Int[Tensor, " batch"]
    """where the answer is asked for: the last answered position"""
    answer: Int[Tensor, " batch"]
    foil: Mapping[str, Int[Tensor, " batch"]]
    """the token that was put in"""

    def __len__(self) -> int:
        return len(self.clean)

    def to(self, device: str | torch.device) -> Pairs:
        """The same pairs on another device."""
        corrupted = {kind: self.corrupted[kind].to(device) for kind in CORRUPTIONS}
        foil = {kind: self.foil[kind].to(device) for kind in CORRUPTIONS}
        return Pairs(self.clean.to(device), corrupted, self.position.to(device), self.answer.to(device), foil)


def corrupted_pairs(batch: Batch, d_vocab: int, seed: int = 0, at_most: int = MOST_PAIRS) -> Pairs:
    """Pairs of the first `at_most` sequences whose context shows an answer.

    With t the last answered position and q its token, "answer" puts one other token after every earlier q (except where
    that is q again), "trigger" puts one other token in the place of every earlier q; from t on nothing changes. The other
    token is drawn anew for each sequence and corruption, uniformly from the vocabulary without the tokens of the sequence and
    the answer or, where these are all there are, without q and the answer.

    >>> answered = torch.tensor([[False, False, True]])
    >>> pairs = corrupted_pairs(Batch(torch.tensor([[0, 1, 0]]), torch.tensor([[1, 0, 1]]), answered, ~answered), d_vocab=3)
    >>> pairs.corrupted["answer"].tolist(), pairs.corrupted["trigger"].tolist()
    ([[0, 2, 0]], [[2, 1, 0]])
    """
    n_pos = batch.tokens.shape[1]
    position = n_pos - 1 - batch.answered.flip(1).int().argmax(dim=1)
    trigger = batch.tokens.gather(1, position[:, None])
    answer = batch.targets.gather(1, position[:, None])
    earlier = (batch.tokens == trigger) & (torch.arange(n_pos) < position[:, None])
    # The last position is never an earlier one, so nothing comes round to position 0; position t holds q, and stays.
    after = earlier.roll(1, dims=1) & (batch.tokens != trigger)
    solvable = batch.answered.any(dim=1) & after.any(dim=1) & (d_vocab > (trigger != answer).squeeze(1).int() + 1)
    kept = solvable.nonzero().squeeze(1)[:at_most]

    clean, trigger, answer = batch.tokens[kept], trigger[kept], answer[kept]
    free = _others(torch.cat([clean, answer], dim=1), d_vocab)
    free = torch.where(free.any(dim=1, keepdim=True), free, _others(torch.cat([trigger, answer], dim=1), d_vocab)).float()
    generator = torch.Generator().manual_seed(seed)
    places: dict[str, Mask] = {"answer": after[kept], "trigger": earlier[kept]}
    foils = {kind: free.multinomial(1, generator=generator) if len(kept) else answer for kind in CORRUPTIONS}
    corrupted = {kind: torch.where(places[kind], foils[kind], clean) for kind in CORRUPTIONS}
    return Pairs(clean, corrupted, position[kept], answer.squeeze(1), {kind: foils[kind].squeeze(1) for kind in CORRUPTIONS})


def _others(tokens: Tokens, d_vocab: int) -> Bool[Tensor, "batch d_vocab"]:
    """Which tokens of the vocabulary a sequence does not hold."""
    return torch.ones(len(tokens), d_vocab, dtype=torch.bool).scatter(1, tokens, False)


def answer_logit(logits: Logits, pairs: Pairs) -> Float[Tensor, " batch"]:
    """The logit of the answer where it is asked for, above the mean logit there: what patching is to restore."""
    there = logits[torch.arange(len(pairs), device=logits.device), pairs.position]
    return there.gather(1, pairs.answer[:, None]).squeeze(1) - there.mean(dim=1)


@metric(
    "causal",
    "model",
    formula="mean over pairs of L(clean) - L(corrupted), L = logit of the answer - mean logit",
    range="any, logits",
    source=SOURCE,
)
def patching_effect(clean: Float[Tensor, " batch"], corrupted: Float[Tensor, " batch"]) -> PerSequence:
    """How far the logit of the answer falls when the context is spoilt, by what is spoilt (`intervention`: answer or
    trigger). Where it does not clearly fall, there is nothing for a patch to restore, and patching_recovery has no rows.

    >>> patching_effect(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0])).estimate().value
    tensor(3.)
    """
    return PerSequence(clean - corrupted, torch.ones_like(clean))


@metric(
    "causal",
    "head",
    formula="sum over pairs of L(patched) - L(corrupted), over sum of L(clean) - L(corrupted), L = logit of the answer - mean logit",
    range="any; 0 nothing restored, 1 all of it",
    source=SOURCE,
)
def patching_recovery(clean: Float[Tensor, " batch"], corrupted: Float[Tensor, " batch"], patched: Float[Tensor, "batch *what"]) -> Ratio:
    """The share of the fall that is made good when one activation of a head (`part`) is, at all positions, the clean
    sequence's. The whole of a head's output is z; q, k and pattern say where it looks; v what it takes from there.

    >>> patching_recovery(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0]), torch.tensor([2.0, 3.0])).estimate().value
    tensor(0.5000)
    """
    axes = [1] * (patched.ndim - 1)
    before = corrupted.view(-1, *axes)
    return Ratio(patched - before, (clean - corrupted).view(-1, *axes).expand_as(patched))


def activations(config: ModelConfig, layer: int) -> tuple[str, ...]:
    """What is patched in the heads of a layer: TransformerLens's activations and, where a stream arrives, its two."""
    if not config.receives_stream(layer):
        return tuple(SWEEPS)
    letter = STREAM_LETTER[config.stream]
    return (*SWEEPS, f"{letter}_used", f"{letter}_stream")


@torch.inference_mode()
def patch_heads(
    model: HookedTransformer, corrupted: Tokens, clean: ActivationCache, part: str, layer: int, quantity: Quantity
) -> Float[Tensor, "batch head"]:
    """A quantity of the logits of the corrupted sequences, with an activation of each head of a layer in turn taken from
    the clean ones. Raises UsageError for an activation that the layer does not have."""
    if part not in SWEEPS:
        return sweep_heads(model, corrupted, clean, part, layer, quantity)
    heads = pd.DataFrame({"layer": layer, "head": range(model.config.n_heads)})
    with _no_bars():
        result = SWEEPS[part](model, corrupted, clean, quantity, index_axis_names=None, index_df=heads, reduce="none")
    return result.values.T


@torch.inference_mode()
def sweep_heads(
    model: HookedTransformer, corrupted: Tokens, clean: ActivationCache, part: str, layer: int, quantity: Quantity
) -> Float[Tensor, "batch head"]:
    """As patch_heads, for any activation of attention that has heads."""
    name = hook_name(part, layer)
    source = clean[name]

    def patched(head: int) -> Float[Tensor, " batch"]:
        place = (slice(None), head) if part == "pattern" else (slice(None), slice(None), head)

        def patch(activation: Tensor, hook: Any) -> Tensor:
            activation = activation.clone()
            activation[place] = source[place]
            return activation

        return quantity(model.run_with_hooks(corrupted, fwd_hooks=[(name, patch)]))

    return torch.stack([patched(head) for head in range(model.config.n_heads)], dim=1)


def hook_name(part: str, layer: int) -> str:
    """The hook of an activation of attention. TransformerLens's get_act_name does not know those of a stream."""
    return f"blocks.{layer}.attn.hook_{part}"


@contextmanager
def _no_bars() -> Iterator[None]:
    """TransformerLens draws a bar for each sweep: on stderr or, in a notebook, as a widget, which redirecting stderr would
    leave there."""
    bars = lens.tqdm
    lens.tqdm = iter  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        lens.tqdm = bars


@torch.inference_mode()
def patching_rows(model: HookedTransformer, data: AnalysisData) -> Iterator[Row]:
    """Rows of patching_effect and patching_recovery on the scoring half of the own task's sequences; none where no context
    shows an answer. Clean activations are held for one layer at a time."""
    pairs = corrupted_pairs(data.scoring, model.config.d_vocab).to(model.W_E.device)
    if len(pairs) == 0:
        return

    def quantity(logits: Logits) -> Float[Tensor, " batch"]:
        return answer_logit(logits, pairs)

    clean = quantity(model(pairs.clean))
    corrupted = {kind: quantity(model(pairs.corrupted[kind])) for kind in CORRUPTIONS}
    clear: list[str] = []
    for kind in CORRUPTIONS:
        sample = patching_effect(clean, corrupted[kind])
        row = numbers(sample.estimate())
        if row["ci_low"] > ROUNDING:
            clear.append(kind)
        yield {"task": data.own, "metric": "patching_effect", "intervention": kind, **row, SAMPLE: sample}
    for layer in range(model.config.n_layers if clear else 0):
        parts = activations(model.config, layer)
        _, cache = model.run_with_cache(pairs.clean, names_filter=[hook_name(part, layer) for part in parts])
        for kind in clear:
            for part in parts:
                patched = patch_heads(model, pairs.corrupted[kind], cache, part, layer, quantity)
                estimate = patching_recovery(clean, corrupted[kind], patched).estimate()
                for head in range(model.config.n_heads):
                    place = {"layer": layer, "head": head, "part": part, "intervention": kind}
                    yield {"task": data.own, "metric": "patching_recovery", **place, **numbers(estimate, head)}
