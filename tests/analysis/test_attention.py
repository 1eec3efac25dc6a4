"""Attention tables: values against naive loops, parts that sum to the whole, and what is left out where there is too much."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
import torch

from workbench.analysis import attention
from workbench.analysis.attention import PatternsOverSteps, kept_steps, patterns, read_from, streamed_value_weighted, value_weighted
from workbench.analysis.data import AnalysisData
from workbench.config import ModelConfig, TriggerBigramConfig
from workbench.model import HookedTransformer
from workbench.tasks import make_task

T, LAYERS, HEADS, WIDTH, D = 11, 3, 2, 4, 8


def model_of(stream: str, **changes: Any) -> HookedTransformer:
    sizes: dict[str, Any] = {"n_layers": LAYERS, "n_heads": HEADS, "d_head": WIDTH, "d_model": D, "d_vocab": 7, "n_ctx": T}
    model = HookedTransformer(ModelConfig(stream=stream, **(sizes | changes)))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attn" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
    return model.eval()


def data_of(model: HookedTransformer) -> AnalysisData:
    return AnalysisData.draw(model.config, make_task(TriggerBigramConfig(d_vocab=7, seq_len=T, n_triggers=2)), sequences=5)


def test_value_weighted_attention_and_its_streamed_part_against_loops() -> None:
    model = model_of("value", stream_mix="learned", stream_init=(0.7, -1.3))
    data = data_of(model)
    batch = data.batches[data.own][:3]
    found = patterns(model, batch)
    with torch.no_grad():
        _, cache = model.run_with_cache(batch.tokens)
    for layer in range(LAYERS):
        W_O = model.blocks[layer].attn.W_O
        used = cache["v_used", layer] if layer else cache["v", layer]
        for b, head, t in np.ndindex(3, HEADS, T):
            for s in range(T):
                weight = cache["pattern", layer][b, head, t, s]
                u = used[b, s, head] @ W_O[head]
                close(found["attention"][b, layer, head, t, s], weight)
                close(found["value_weighted"][b, layer, head, t, s], weight * u.square().sum().sqrt())
                if layer:
                    own = model.blocks[layer].attn.mix[0] * cache["v", layer][b, s, head] @ W_O[head]
                    part = found["streamed"][b, layer, head, t, s]
                    close(part, weight * (cache["v_stream", layer][b, s, head] @ W_O[head]) @ u / u.norm())
                    # own + streamed = value-weighted
                    close(part + weight * own @ u / u.norm(), found["value_weighted"][b, layer, head, t, s])
    assert found["streamed"][:, 0].isnan().all() and not found["streamed"][:, 1:].isnan().any()
    assert (found["streamed"][:, 1:] < -0.01).any() and (found["streamed"][:, 1:] > 0.01).any()


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stream", ["query", "key"])
@pytest.mark.parametrize("positions", ["standard", "rotary"])
def test_streamed_scores_are_what_the_scores_lose_without_the_wire(stream: str, positions: str) -> None:
    model = model_of(stream, positional_embedding_type=positions)
    data = data_of(model)
    batch = data.batches[data.own][:3]
    found = patterns(model, batch)["streamed"]
    assert found[:, 0].isnan().all()
    letter = stream[0]
    for layer in range(1, LAYERS):
        with torch.no_grad():
            _, cache = model.run_with_cache(batch.tokens)
            # The layer's own inputs, and nothing along the wire.
            hook = f"blocks.{layer}.attn.hook_{letter}_stream"
            with model.hooks(fwd_hooks=[(hook, lambda value, hook: torch.zeros_like(value))]):
                _, without = model.run_with_cache(batch.tokens)
        lost = (cache["attn_scores", layer] - without["attn_scores", layer]).nan_to_num(0.0)
        torch.testing.assert_close(found[:, layer], lost, atol=1e-4, rtol=1e-4)
        if positions == "standard":
            q, k = (cache[f"{name}_stream" if name == letter else name, layer] for name in "qk")
            for b, head, t in np.ndindex(3, HEADS, T):
                for s in range(T):
                    close(found[b, layer, head, t, s], q[b, t, head] @ k[b, s, head] / WIDTH**0.5 if s <= t else torch.tensor(0.0))


def test_the_examples_of_the_docstrings() -> None:
    assert doctest.testmod(attention) == (0, 12)


def test_a_model_without_a_stream_has_no_streamed_part() -> None:
    model = model_of("none")
    data = data_of(model)
    assert list(patterns(model, data.batches[data.own][:2])) == ["attention", "value_weighted"]


def test_a_head_that_writes_nothing_counts_nothing() -> None:
    pattern, nothing = torch.full((1, 2, 3, 3), 1 / 3), torch.zeros(1, 3, 2, 5)
    assert (value_weighted(pattern, nothing) == 0).all()
    assert (streamed_value_weighted(pattern, nothing, nothing + 1) == 0).all()


def test_read_from_against_a_loop() -> None:
    tokens = torch.randint(0, 5, (7, 23), generator=torch.Generator().manual_seed(1))
    for row, found in zip(tokens.tolist(), read_from(tokens).tolist(), strict=True):
        for t, place in enumerate(found):
            assert place == max((s for s in range(1, t + 1) if row[s - 1] == row[t]), default=-1)


@pytest.mark.parametrize(
    ("cells", "samples", "steps"),
    [(10**9, 2, 5), (2 * 5 * 726, 2, 5), (2 * 5 * 726 - 1, 1, 5), (5 * 726, 1, 5), (3 * 726, 1, 3), (1, 1, 2)],
)
def test_sequences_are_left_out_before_checkpoints_and_the_ends_stay(
    monkeypatch: pytest.MonkeyPatch, cells: int, samples: int, steps: int
) -> None:
    monkeypatch.setattr(attention, "CELLS", cells)
    kept, sequences = kept_steps([0, 10, 20, 30, 40], heads=LAYERS * HEADS, tokens=T)
    assert (sequences, len(kept)) == (samples, steps)
    assert (kept[0], kept[-1]) == (0, 40)
    model = model_of("none")
    recorded = PatternsOverSteps.of_samples(data_of(model), [0, 10, 20, 30, 40], LAYERS * HEADS)
    for step in (0, 10, 20, 30, 40):
        recorded.add(step, model)
    table = recorded.table()
    assert sorted(set(table["step"])) == kept and table["sequence"].nunique() == samples
    assert len(recorded.tokens_table()) == samples * T
