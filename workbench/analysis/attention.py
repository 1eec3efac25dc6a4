"""What every head attends to on sample sequences, at every checkpoint: a table of exact values, and the sequences' tokens.

Beside the pattern stand its value-weighted form, by which attention to a vector of no length counts as nothing, and the
part of either that came along the wire.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.analysis.data import AnalysisData
from workbench.analysis.heads import induction_places
from workbench.analysis.stream_split import HeadOutputs, Scores, split_scores
from workbench.axes import HeadVectors, Pattern, Tokens
from workbench.model import HookedTransformer
from workbench.model.attention import STREAM_LETTER
from workbench.tasks.base import Batch, Task

SAMPLES = 2
"""sequences whose patterns are kept"""
CELLS = 2**23
"""checkpoints x heads x tokens^2 x sequences that a table holds: beyond, sequences are left out first, then checkpoints"""
VALUES = ("attention", "value_weighted", "streamed")
"""the columns of values; streamed only for a model with a stream, and empty in layers that receive none"""


def value_weighted(pattern: Pattern, written: HeadOutputs) -> Pattern:
    """How much a head writes from each source: its attention times the length of the vector it would write from there.

    `written` is u_s = v_s W_O, [batch, pos, head, d_model]: what full attention to position s would write.

    >>> pattern, written = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]]), torch.tensor([[[[3.0, 4.0]], [[0.0, 0.0]]]])
    >>> value_weighted(pattern, written)[0, 0]
    tensor([[5.0000, 0.0000],
            [2.5000, 0.0000]])

    Formula: A[t, s] |u_s|
    Range: 0 or more, in units of the residual stream
    Source: Kobayashi et al. 2020 (2004.10102), norm-based analysis
    """
    return pattern * _lengths(written)


def streamed_value_weighted(pattern: Pattern, written: HeadOutputs, streamed: HeadOutputs) -> Pattern:
    """The part of the value-weighted attention that came along the value stream, measured along what the head writes, so
    that the own part is the rest: own + streamed = value-weighted. Negative where what arrived points against the whole.

    `written` is u_s, `streamed` is w_s = v_stream_s W_O, both [batch, pos, head, d_model].

    >>> pattern = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    >>> written, streamed = torch.tensor([[[[3.0, 4.0]], [[1.0, 0.0]]]]), torch.tensor([[[[0.0, 4.0]], [[-2.0, 0.0]]]])
    >>> streamed_value_weighted(pattern, written, streamed)[0, 0]
    tensor([[ 3.2000, -0.0000],
            [ 1.6000, -1.0000]])

    Formula: A[t, s] <w_s, u_s> / |u_s|, 0 where u_s = 0
    Range: any, in units of the residual stream
    Source: the projection of the streamed part onto the vector of Kobayashi et al. 2020 (2004.10102)
    """
    lengths = _lengths(written)
    along = (streamed * written).sum(dim=-1).transpose(1, 2)[:, :, None]
    return pattern * torch.where(lengths > 0, along / lengths.clamp(min=torch.finfo(lengths.dtype).tiny), 0.0)


def streamed_scores(
    model: HookedTransformer, layer: int, own: HeadVectors, streamed: HeadVectors, other: HeadVectors
) -> Float[Tensor, "batch head dst src"]:
    """The part of a head's scores that came along a query or key stream, at positions that it may attend to; 0 above.

    The arguments are those of `split_scores`: the layer's own queries (or keys), those that arrived, and the keys (or queries)
    that they meet.

    >>> from workbench.config import ModelConfig
    >>> model = HookedTransformer(ModelConfig(stream="key", d_model=4, n_heads=2, n_ctx=3, attn_scale=1.0))
    >>> ones = torch.ones(1, 2, 2, 2)
    >>> streamed_scores(model, 1, 0 * ones, 3 * ones, 2 * ones)[0, 0]
    tensor([[12.,  0.],
            [12., 12.]])

    Formula: <q_stream_t, k_used_s> / scale (query stream), <q_used_t, k_stream_s> / scale (key stream)
    Range: any, in units of the score (before the softmax)
    Source: Burns et al. (2412.15113), section 3; the split follows from its definition
    """
    scores: Scores = split_scores(model, layer, own, streamed, other)[1]
    return scores.tril()


def read_from(tokens: Tokens) -> Int[Tensor, "batch pos"]:
    """From each position, where an induction head attends: the last position up to it that comes right after an earlier
    occurrence of its token; -1 where there is none.

    >>> read_from(torch.tensor([[5, 7, 5, 9, 5]])).tolist()
    [[-1, -1, 1, -1, 3]]
    """
    places = induction_places(tokens).tril()
    position = torch.arange(tokens.shape[1], device=tokens.device)
    return torch.where(places, position, -1).amax(dim=-1)


def kept_steps(steps: Sequence[int], heads: int, tokens: int, samples: int = SAMPLES) -> tuple[list[int], int]:
    """The checkpoints, and how many of the sequences, whose patterns are kept within `CELLS`: sequences are left out first,
    then checkpoints, evenly, the first and the last of them kept.

    >>> kept_steps(range(0, 500, 100), heads=8, tokens=64)
    ([0, 100, 200, 300, 400], 2)
    >>> kept_steps(range(0, 500, 100), heads=64, tokens=200)
    ([0, 200, 400], 1)
    """
    each = heads * tokens**2
    samples = max(1, min(samples, CELLS // (each * len(steps))))
    room = max(2, CELLS // (each * samples))
    if room >= len(steps):
        return list(steps), samples
    return [steps[index] for index in np.linspace(0, len(steps) - 1, room).round().astype(int)], samples


class PatternsOverSteps:
    """The patterns of some sequences of a task, recorded checkpoint by checkpoint."""

    def __init__(self, task: Task, batch: Batch, steps: Sequence[int]) -> None:
        self.task, self.batch, self.steps = task, batch, steps
        self.found: dict[int, dict[str, np.ndarray]] = {}

    @classmethod
    def of_samples(cls, data: AnalysisData, steps: Sequence[int], heads: int) -> PatternsOverSteps:
        """Of the first sequences of a model's own task, as many and at as many checkpoints as a table holds."""
        batch = data.batches[data.own]
        kept, samples = kept_steps(steps, heads, batch.tokens.shape[1], min(SAMPLES, len(batch))) if steps else ([], 1)
        return cls(data.tasks[data.own], batch[:samples], kept)

    def add(self, step: int, model: HookedTransformer) -> None:
        """Record a checkpoint, where it is one of those that are kept."""
        if step in self.steps:
            lower = np.tril_indices(self.batch.tokens.shape[1])
            values = patterns(model, self.batch)
            self.found[step] = {name: value.cpu().numpy()[..., *lower].astype(np.float32) for name, value in values.items()}

    def table(self) -> pd.DataFrame:
        """Columns step, sequence, layer, head, destination, source and `VALUES`, for every source up to its destination."""
        values = {name: np.stack([found[name] for found in self.found.values()]) for name in next(iter(self.found.values()))}
        shape = values["attention"].shape[:-1]
        destination, source = (index.astype(np.int16) for index in np.tril_indices(self.batch.tokens.shape[1]))
        columns = {"step": np.array(list(self.found), dtype=np.int32)} | {
            name: np.arange(size, dtype=np.int16) for name, size in zip(("sequence", "layer", "head"), shape[1:], strict=True)
        }
        whole = (*shape, len(source))
        table = {
            name: np.broadcast_to(column.reshape([-1 if axis == place else 1 for axis in range(5)]), whole).ravel()
            for place, (name, column) in enumerate(columns.items())
        }
        table |= {name: np.broadcast_to(index, whole).ravel() for name, index in (("destination", destination), ("source", source))}
        return pd.DataFrame(table | {name: value.ravel() for name, value in values.items()}, copy=False)

    def tokens_table(self) -> pd.DataFrame:
        """Columns sequence, position, token, text, answered and read_from, of the same sequences."""
        sequence, position = np.indices(self.batch.tokens.shape).reshape(2, -1)
        tokens = self.batch.tokens.reshape(-1).tolist()
        return pd.DataFrame(
            {
                "sequence": sequence,
                "position": position,
                "token": tokens,
                "text": self.task.to_strings(tokens),
                "answered": self.batch.answered.reshape(-1).numpy(),
                "read_from": read_from(self.batch.tokens).reshape(-1).numpy(),
            }
        )


def patterns(model: HookedTransformer, batch: Batch) -> dict[str, Float[Tensor, "batch layer head dst src"]]:
    """`VALUES` of every layer. Those streamed are of the writing (value stream) or of the scores (query and key streams)."""
    batch = batch.to(model.W_E.device)
    letter = STREAM_LETTER.get(model.config.stream)
    hooks = ("q", "k", "v", "q_used", "k_used", "v_used", "pattern", *([] if letter is None else [f"{letter}_stream"]))
    with torch.inference_mode():
        _, cache = model.run_with_cache(
            **batch.model_inputs, names_filter=lambda name: name.endswith(tuple(f"attn.hook_{hook}" for hook in hooks))
        )

        def used(part: str, layer: int) -> Tensor:
            receives = part == letter and model.config.receives_stream(layer)
            return cache[f"{part}_used" if receives else part, layer]

        found: dict[str, list[Tensor]] = {name: [] for name in (VALUES if letter else VALUES[:2])}
        for layer in range(model.config.n_layers):
            pattern = cache["pattern", layer].float()
            written = _written(model, layer, used("v", layer))
            found["attention"].append(pattern)
            found["value_weighted"].append(value_weighted(pattern, written))
            if letter is None:
                continue
            if not model.config.receives_stream(layer):
                part = torch.full_like(pattern, torch.nan)
            elif letter == "v":
                part = streamed_value_weighted(pattern, written, _written(model, layer, cache["v_stream", layer]))
            else:
                other = used("k" if letter == "q" else "q", layer)
                part = streamed_scores(model, layer, cache[letter, layer], cache[f"{letter}_stream", layer], other)
            found["streamed"].append(part)
    return {name: torch.stack(parts, dim=1) for name, parts in found.items()}


def _written(model: HookedTransformer, layer: int, values: HeadVectors) -> HeadOutputs:
    """What each head of a layer writes from each position that it attends to fully."""
    return torch.einsum("bphd,hdm->bphm", values, model.blocks[layer].attn.W_O).float()


def _lengths(vectors: HeadOutputs) -> Float[Tensor, "batch head 1 src"]:
    return vectors.norm(dim=-1).transpose(1, 2)[:, :, None]
