"""How what a head uses, writes and scores divides into its own part and the part that came along the wire. The parts sum
to the whole within rounding: nothing is approximated."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.analysis.estimates import PerSequence, Ratio
from workbench.analysis.heads import induction_places
from workbench.analysis.interventions import CHUNK, run
from workbench.analysis.metrics import metric
from workbench.analysis.rows import Row, numbers
from workbench.axes import HeadVectors, Mask, Pattern, Tokens
from workbench.model import HookedTransformer
from workbench.model.attention import STREAM_LETTER
from workbench.model.positions import rotate
from workbench.tasks.base import Batch

Scores = Float[Tensor, "batch head dst src"]
HeadOutputs = Float[Tensor, "batch pos head d_model"]
SOURCE = "Burns et al. (2412.15113), section 3; the split follows from its definition"


@metric(
    "stream",
    "head",
    formula="sum |P_stream|^2 / sum (|a P_own|^2 + |P_stream|^2), over positions",
    range="0 to 1",
    source=SOURCE,
)
def streamed_input_share(own: HeadVectors, streamed: HeadVectors) -> Ratio:
    """How large the streamed part of a head's queries, keys or values is beside its own: 0 nothing arrives, 1 all of it.

    >>> own, streamed = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 4.0]]]])
    >>> streamed_input_share(own, streamed).estimate().value
    tensor([0.6400])
    """
    arrived = streamed.pow(2).sum(dim=(1, 3))
    return Ratio(arrived, own.pow(2).sum(dim=(1, 3)) + arrived)


@metric(
    "stream",
    "head",
    formula="sum <o_streamed, o> / sum <o, o> over positions, o = o_own + o_streamed the head's output without its bias",
    range="any; the own part's share is 1 minus it",
    source=SOURCE,
)
def streamed_output_share(own: HeadOutputs, streamed: HeadOutputs) -> Ratio:
    """How much of what a head writes into the residual stream came along the value stream, measured along its whole
    output, so that the shares of the two parts add up to one.

    >>> own, streamed = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    >>> streamed_output_share(own, streamed).estimate().value
    tensor([0.2500])
    """
    whole = own + streamed
    return Ratio((streamed * whole).sum(dim=(1, 3)), whole.pow(2).sum(dim=(1, 3)))


@metric(
    "stream",
    "head",
    formula="mean over answered t of (mean score at the places of the answer - mean score at the other s <= t)",
    range="any, in units of the score (before the softmax)",
    source=SOURCE,
)
def score_contrast(scores: Scores, tokens: Tokens, answered: Mask) -> PerSequence:
    """How much higher a head scores the positions right after earlier occurrences of the token than the other positions.
    The scores of own and of streamed queries (or keys) add up to the whole, and so do their contrasts.

    >>> scores = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 4.0, 2.0]]]])
    >>> score_contrast(scores, torch.tensor([[5, 7, 5]]), torch.tensor([[False, False, True]])).estimate().value
    tensor([2.5000])
    """
    reachable = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
    places = induction_places(tokens) & reachable
    others = ~places & reachable
    rows = answered & places.any(dim=-1) & others.any(dim=-1)

    def weight(chosen: Tensor) -> Tensor:
        return (chosen & rows[..., None]) / chosen.sum(dim=-1, keepdim=True).clamp(min=1)

    weights = (weight(places) - weight(others)).to(scores.dtype)
    return PerSequence(torch.einsum("bhts,bts->bh", scores, weights), rows.sum(dim=-1).to(scores.dtype))


@metric(
    "stream",
    "layer",
    formula="a and b of P_used = a P_own + b source",
    range="any; 1 and 1 for plain addition",
    source="Zhou et al. (2410.17897)",
)
def stream_scale(model: HookedTransformer, layer: int) -> tuple[float, float]:
    """The two scalars that mix a layer's own projection (`part` own) with what arrives (`part` streamed).

    >>> from workbench.config import ModelConfig
    >>> model = HookedTransformer(ModelConfig(stream="value", stream_init=(0.5, 0.25), d_model=8, n_heads=2))
    >>> stream_scale(model, 1)
    (0.5, 0.25)
    """
    a, b = (torch.as_tensor(scale).item() for scale in model.blocks[layer].attn.mix)
    return a, b


def split_values(
    model: HookedTransformer, layer: int, pattern: Pattern, own: HeadVectors, streamed: HeadVectors
) -> tuple[HeadOutputs, HeadOutputs]:
    """What the heads of a layer write from their own values and from those that arrived (`hook_v`, `hook_v_stream`).
    Summed over heads and parts, with b_O, they are the attention output."""
    attn = model.blocks[layer].attn
    own, streamed = (pattern @ values.transpose(1, 2) for values in (attn.mix[0] * own, streamed))
    return tuple(torch.einsum("bhtd,hdm->bthm", z, attn.W_O) for z in (own, streamed))  # pyright: ignore[reportReturnType]


def split_scores(
    model: HookedTransformer, layer: int, own: HeadVectors, streamed: HeadVectors, other: HeadVectors
) -> tuple[Scores, Scores]:
    """The scores of own and of streamed queries (`other` the keys), or of own and of streamed keys (`other` the queries),
    before the mask. They sum to `hook_attn_scores` where a position may attend. Relative positions are added to the key after
    the stream: what a query scores on them is its own, and with a key stream they count as the own part."""
    config, attn = model.config, model.blocks[layer].attn
    parts = [attn.mix[0] * own, streamed, other]
    relative: list[Tensor | float] = [0.0, 0.0]
    if config.positional_embedding_type == "relative":
        relative = (
            [attn.relative_scores(parts[0]), attn.relative_scores(streamed)]
            if config.stream == "query"
            else [attn.relative_scores(other), 0.0]
        )
    if config.positional_embedding_type == "rotary":
        parts = [rotate(part, config.rotary_base) for part in parts]
    own, streamed, other = (part.transpose(1, 2) / config.score_divisor**0.5 for part in parts)
    if config.stream == "query":
        return own @ other.transpose(2, 3) + relative[0], streamed @ other.transpose(2, 3) + relative[1]
    return other @ own.transpose(2, 3) + relative[0], other @ streamed.transpose(2, 3) + relative[1]


def split_rows(model: HookedTransformer, batch: Batch, layers: list[int]) -> Iterator[Row]:
    """The rows of the split, for the layers that receive a stream."""
    letter = STREAM_LETTER[model.config.stream]
    found: dict[tuple[int, str, str | None], list[Ratio | PerSequence]] = {}
    for start in range(0, len(batch), CHUNK):
        rows = batch[start : start + CHUNK].to(model.W_E.device)
        names = {part: f"hook_{part}" for part in (letter, f"{letter}_stream", "pattern", {"q": "k", "k": "q"}.get(letter, letter))}
        recorded = run(model, rows, record={f"blocks.{layer}.attn.{name}" for layer in layers for name in names.values()}).recorded
        for layer in layers:
            acts = {part: recorded[f"blocks.{layer}.attn.{name}"] for part, name in names.items()}
            for (name, part), sample in _split(model, rows, layer, letter, acts).items():
                found.setdefault((layer, name, part), []).append(sample)
    for (layer, name, part), parts in found.items():
        sample = type(parts[0]).cat(parts)  # pyright: ignore[reportArgumentType]
        estimate = sample.estimate()
        for head in range(model.config.n_heads):
            yield {"layer": layer, "head": head, "metric": name, "part": part, **numbers(estimate, head)}
    for layer in layers:
        for part, value in zip(("own", "streamed"), stream_scale(model, layer), strict=True):
            yield {"layer": layer, "metric": "stream_scale", "part": part, "value": value}


def _split(
    model: HookedTransformer, rows: Batch, layer: int, letter: str, acts: dict[str, Tensor]
) -> dict[tuple[str, str | None], Ratio | PerSequence]:
    own, streamed = acts[letter], acts[f"{letter}_stream"]
    shares: dict[tuple[str, str | None], Ratio | PerSequence] = {
        ("streamed_input_share", None): streamed_input_share(model.blocks[layer].attn.mix[0] * own, streamed)
    }
    if letter == "v":
        return shares | {
            ("streamed_output_share", None): streamed_output_share(*split_values(model, layer, acts["pattern"], own, streamed))
        }
    scores = split_scores(model, layer, own, streamed, acts["k" if letter == "q" else "q"])
    return shares | {
        ("score_contrast", part): score_contrast(part_scores, rows.tokens, rows.answered)
        for part, part_scores in zip(("own", "streamed"), scores, strict=True)
    }
