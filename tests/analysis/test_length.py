"""Scores by position: bins, slow loops, hand-built models, and where there is something beyond the training length."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.hand_built import D_VOCAB, N_CTX, bag_of_tokens, induction, positional
from tests.reference_analysis import holds_an_answer, places
from tests.reference_model import random_model
from workbench.analysis import heads, interventions, length, stretches
from workbench.analysis.data import AnalysisData
from workbench.config import RepeatedTokensConfig, TriggerBigramConfig
from workbench.evaluation import evaluate
from workbench.model.constructed import Strengths, associative_memory
from workbench.tasks import make_task
from workbench.tasks.base import Batch
from workbench.tasks.draw import generator

TASK = make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=16, placement="non-periodic", distinct=True))
TRIGGERS = make_task(TriggerBigramConfig(d_vocab=23, seq_len=29, n_triggers=3))
METRICS = ("accuracy_by_position", "previous_token_by_position", "prefix_matching_by_position")


def data_for(model, sequences=24, task=TASK):
    return AnalysisData.draw(model.config, task, sequences=sequences)


def rows_of(model, data):
    """(metric, layer, head, position, part) -> row"""
    rows = list(length.measure(model, data))
    table = {tuple(row.get(place) for place in ("metric", "layer", "head", "position", "part")): row for row in rows}
    assert len(table) == len(rows) and all(math.isfinite(row["value"]) for row in rows)
    return table


def of_head(table, metric, layer, head):
    """position -> value, without the rows of whole stretches"""
    return {key[3]: row["value"] for key, row in table.items() if key[:3] == (metric, layer, head) and key[3] is not None}


def by_loop(model, batch: Batch, where, layer, head):
    """{metric: {first position of a bin: value}}, from the definitions."""
    with torch.no_grad():
        _, cache = model.run_with_cache(batch.tokens)
    pattern, correct = cache["pattern", layer][:, head].tolist(), evaluate(model, batch).correct.tolist()
    tokens, asked = batch.tokens.tolist(), batch.answered.tolist()
    found = {metric: {} for metric in METRICS}
    for positions in where:
        values = {metric: [] for metric in METRICS}
        for b, t in itertools.product(range(len(batch)), range(positions.start, positions.stop)):
            if asked[b][t]:
                values["accuracy_by_position"].append(correct[b][t])
            if t > 0 and holds_an_answer(tokens[b], asked[b], t):
                values["previous_token_by_position"].append(pattern[b][t][t - 1])
            goals = places("prefix_matching_score", tokens[b], t)
            if asked[b][t] and goals:
                values["prefix_matching_by_position"].append(sum(pattern[b][t][s] for s in goals))
        for metric, entries in values.items():
            if entries:
                found[metric][positions.start] = sum(entries) / len(entries)
    return found


@pytest.mark.parametrize("n_pos", [1, 2, 7, 8, 9, 13, 16, 63, 64, 65, 257])
def test_bins_cover_every_position_once(n_pos):
    found = stretches.bins(n_pos)
    assert [t for positions in found for t in range(positions.start, positions.stop)] == list(range(n_pos))
    widths = {positions.stop - positions.start for positions in found[:-1]}
    assert len(found) <= 8 and widths <= {stretches.bin_width(n_pos)}
    for stop in (n_pos, n_pos + 1, 2 * n_pos, 2 * n_pos + 1, 4 * n_pos):
        beyond = stretches.bins_beyond(n_pos, stop)
        assert [t for positions in beyond for t in range(positions.start, positions.stop)] == list(range(n_pos, stop))
        assert len(beyond) <= 16 and not any(positions.start < 2 * n_pos < positions.stop for positions in beyond)
        # Only the last of a stretch may be narrower.
        for positions in beyond:
            wide = stretches.bin_width(n_pos) * (2 if positions.start >= 2 * n_pos else 1)
            assert positions.stop - positions.start == wide or positions.stop in (2 * n_pos, stop)


def test_eight_bins_where_the_length_allows():
    assert [len(stretches.bins(n_pos)) for n_pos in (5, 8, 16, 64, 256)] == [5, 8, 8, 8, 8]


def test_the_bins_together_are_the_scores_of_the_section_formation():
    """And one bin is the score with all other rows masked."""
    task = make_task(RepeatedTokensConfig(d_vocab=5, seq_len=13, placement="equal", block_len=4))
    batch = task.sample(7, generator(0, "analyze"))
    scores = torch.randn(7, 3, 13, 13, generator=torch.Generator().manual_seed(0))
    pattern = scores.masked_fill(torch.ones(13, 13).triu(1).bool(), -math.inf).softmax(-1)
    where = stretches.bins(13)
    prefix = length.prefix_matching_by_position(pattern, batch.tokens, batch.answered, where)
    previous = length.previous_token_by_position(pattern, batch.tokens, batch.answered, where)
    for parts, whole in (
        (prefix, heads.prefix_matching_score(pattern, batch.tokens, batch.answered)),
        (previous, heads.previous_token_at_answers(pattern, batch.tokens, batch.answered)),
    ):
        torch.testing.assert_close(sum(part.sums for part in parts), whole.sums)
        assert torch.equal(sum(part.counts for part in parts), whole.counts)
    read = heads.previous_at_answers(batch.tokens, batch.answered).any(dim=-1)
    for positions, by_prefix, by_previous in zip(where, prefix, previous, strict=True):
        rows = torch.zeros_like(batch.answered)
        rows[:, positions] = True
        for found, masked in (
            (by_prefix, heads.prefix_matching_score(pattern, batch.tokens, batch.answered & rows)),
            (by_previous, heads.previous_token_score(pattern, batch.tokens, read & rows)),
        ):
            torch.testing.assert_close(found.sums, masked.sums)
            assert torch.equal(found.counts, masked.counts)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"positional_embedding_type": "rotary"},
        {"positional_embedding_type": "relative"},
        {"positional_embedding_type": "none", "attn_only": False},
    ],
)
def test_rows_against_a_loop(fields, monkeypatch):
    """Inside and beyond, in more sequences than a forward pass takes."""
    monkeypatch.setattr(interventions, "PAIRS", 5 * 31**2)
    model = random_model(d_vocab=D_VOCAB, n_ctx=25, stream="value", **fields)
    data = data_for(model, 132)
    table = rows_of(model, data)
    stop = 25 if "positional_embedding_type" not in fields else 64
    assert data.beyond is not None and data.beyond.tokens.shape[1] == stop
    for layer, head in itertools.product((0, 2), range(2)):
        expected = by_loop(model, data.scoring, stretches.bins(16), layer, head)
        beyond = by_loop(model, data.beyond, stretches.bins_beyond(16, stop), layer, head)
        for metric in METRICS:
            place = (metric, None, None) if metric == "accuracy_by_position" else (metric, layer, head)
            assert of_head(table, *place) == pytest.approx(expected[metric] | beyond[metric], rel=1e-5)
            assert beyond[metric]
    starts = {"inside": 0, "1x to 2x": 16, "2x to 4x": 32, "": 64}
    for (first, start), last in zip(list(starts.items())[:3], list(starts.values())[1:], strict=True):
        assert all(start <= key[3] < last for key in table if key[4] == first and key[3] is not None)
        whole = {key[:3]: row["value"] for key, row in table.items() if key[3:] == (None, first)}
        assert bool(whole) == (last <= max(stop, 16))
        if whole:
            batch = data.scoring if first == "inside" else data.beyond
            expected = by_loop(model, batch, [slice(start, last)], 2, 1)
            assert whole["accuracy_by_position", None, None] == pytest.approx(expected["accuracy_by_position"][start], rel=1e-5)
            for metric in METRICS[1:]:
                assert whole[metric, 2, 1] == pytest.approx(expected[metric][start], rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "last"),
    [
        ({}, 14),
        ({"n_ctx": 20}, 18),
        ({"n_ctx": 63}, 60),
        ({"positional_embedding_type": "rotary"}, 60),
        ({"positional_embedding_type": "none"}, 60),
        ({"positional_embedding_type": "sinusoidal"}, 60),
    ],
)
def test_beyond_only_as_far_as_the_positions_go(fields, last):
    model = random_model(**({"d_vocab": D_VOCAB, "n_ctx": 16} | fields))
    table = rows_of(model, data_for(model))
    assert max(key[3] for key in table if key[3] is not None) == last
    # A stretch that ends after the positions has bins, but no row of its own.
    bins = {14: {"inside"}, 18: {"inside", "1x to 2x"}}
    assert {key[4] for key in table if key[3] is not None} == bins.get(last, {"inside", "1x to 2x", "2x to 4x"})
    whole = {14: {"inside"}, 18: {"inside"}} if fields.get("n_ctx") != 63 else {60: {"inside", "1x to 2x"}}
    assert {key[4] for key in table if key[3] is None} == whole.get(last, {"inside", "1x to 2x", "2x to 4x"})


def test_perfect_circuit_at_every_position():
    """Its positions are set by hand up to N_CTX, one further than the task's sequences."""
    table = rows_of(induction(), data_for(induction(), 96))
    for metric, layer, head in (("accuracy_by_position", None, None), ("prefix_matching_by_position", 1, 0)):
        values = of_head(table, metric, layer, head)
        assert len(values) > 4 and max(values) == 16 and set(values.values()) == {1.0}
    # What is read late is asked for by none after it.
    values = of_head(table, "previous_token_by_position", 0, 0)
    assert len(values) >= 4 and set(values.values()) == {1.0}
    assert N_CTX == 17


def test_a_head_that_counts_positions():
    """Perfect on repeats at its distance, from the position on at which it counts; elsewhere a loop says what it scores."""
    model = positional(4)
    equal = make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=16, placement="equal", block_len=5, distinct=True))
    table = rows_of(model, data_for(model, task=equal))
    values = of_head(table, "prefix_matching_by_position", 1, 0)
    # Position t sees t - 4, and from t = 10 on also the repeat before that, which it does not attend to.
    assert values == dict.fromkeys((4, 6, 8, 10, 12, 14, 16), 1.0)
    assert set(of_head(table, "accuracy_by_position", None, None).values()) == {1.0}
    data = data_for(model)
    expected = by_loop(model, data.scoring, stretches.bins(16), 1, 0)["prefix_matching_by_position"]
    found = of_head(rows_of(model, data), "prefix_matching_by_position", 1, 0)
    assert {start: value for start, value in found.items() if start < 16} == pytest.approx(expected, abs=1e-6)
    assert max(expected.values()) < 0.6


@pytest.mark.parametrize("model", [bag_of_tokens(), induction()], ids=["bag of tokens", "idle head"])
def test_heads_that_attend_evenly_have_only_the_even_share(model):
    """Head 1 of each layer is idle, and all of the bag's: a place's share is 1 / (t + 1)."""
    data = data_for(model)
    table, batch = rows_of(model, data), data.scoring
    found = of_head(table, "prefix_matching_by_position", 1, 1)
    for positions in stretches.bins(16):
        shares = []
        for b, t in itertools.product(range(len(batch)), range(positions.start, positions.stop)):
            if batch.answered[b, t]:
                shares.append(len(places("prefix_matching_score", batch.tokens[b].tolist(), t)) / (t + 1))
        assert (positions.start in found) == bool(shares)
        if shares:
            assert found[positions.start] == pytest.approx(sum(shares) / len(shares), abs=1e-6)
    assert max(value for start, value in found.items() if start >= 8) < 0.3


def test_no_rows_for_bins_in_which_nothing_counts():
    model = induction()
    data = data_for(model)
    batch = data.batches[data.own]
    late = batch.answered & (torch.arange(16) >= 8)
    masked = AnalysisData(data.tasks, data.batches | {data.own: Batch(batch.tokens, batch.targets, late, batch.unanswerable)})
    table = rows_of(model, masked)
    assert {key[3] for key in table if key[0] != "previous_token_by_position"} == {8, 10, 12, 14, None}
    nothing = Batch(batch.tokens, batch.targets, torch.zeros_like(late), batch.unanswerable)
    assert rows_of(model, AnalysisData(data.tasks, data.batches | {data.own: nothing})) == {}


def hijacks(model, task=TRIGGERS):
    """(metric, position) -> value, and the prompts"""
    data = data_for(model, task=task)
    table = rows_of(model, data)
    found = {(key[0], key[3]): row for key, row in table.items() if key[0].startswith("hijack")}
    return {key: row["value"] for key, row in found.items()}, data.hijack_prompts_by_length, found


def built(n_ctx, **options):
    strengths = Strengths(t2=10.0, t3=0.8)
    return associative_memory(TRIGGERS.language.bigram, n_ctx, strengths, TRIGGERS.fixed_triggers.tolist(), **options)


@pytest.mark.parametrize(("n_ctx", "positions"), [(116, "standard"), (5, "relative")])
def test_the_margins_of_a_constructed_model_follow_the_theory_at_every_length(n_ctx, positions):
    """A trigger at position 0 is attended to beside what followed (papers: the closed form with infinite strengths)."""
    values, every, rows = hijacks(built(n_ctx, positions=positions))
    assert [prompts.tokens.shape[1] for prompts in every] == [7, 14, 29, 58, 116]
    assert {key[1] for key in values} == {6, 13, 28, 57, 115}
    parts = {key[1]: row["part"] for key, row in rows.items()}
    assert parts == {6: "inside", 13: "inside", 28: "inside", 57: "1x to 2x", 115: "2x to 4x"}
    for prompts in every:
        pairs, trigger = prompts.design["n_context"].double(), prompts.design["trigger"]
        gap = pairs / (pairs + (prompts.tokens[:, 0] == trigger))
        margins = 10.0 * gap - 0.8 * prompts.log_odds
        last = prompts.tokens.shape[1] - 1
        assert values["hijack_margin_by_position", last] == pytest.approx(margins.mean().item(), abs=1e-5)
        assert values["hijack_rate_by_position", last] == (margins < 0).double().mean().item() == 0


def test_where_positions_end_the_bigrams_take_over():
    model = built(116)
    with torch.no_grad():
        model.pos_embed.W_pos[29:] = 0
    values, every, _ = hijacks(model)
    favoured = (every[0].log_odds > 3).double().mean().item()
    for last in (6, 13, 28):
        assert values["hijack_rate_by_position", last] == 0 and values["hijack_margin_by_position", last] > 3.5
    for last in (57, 115):
        assert values["hijack_rate_by_position", last] >= favoured > 0.2
        assert values["hijack_margin_by_position", last] < 1.5


@pytest.mark.parametrize(
    ("seq_len", "n_ctx", "lengths", "distance"),
    [
        (29, 29, [7, 14, 29], 4),
        (29, 57, [7, 14, 29], 4),
        (23, 53, [5, 11, 23, 46], 2),
        (53, 53, [13, 26, 53], 8),
        (61, 61, [15, 30, 61], 8),
        (4, 5, [], 0),
    ],
)
def test_prompts_of_several_lengths_differ_only_in_where_they_end(seq_len, n_ctx, lengths, distance):
    task = make_task(TriggerBigramConfig(d_vocab=23, seq_len=seq_len, n_triggers=3))
    every = data_for(random_model(d_vocab=23, n_ctx=n_ctx), task=task).hijack_prompts_by_length
    assert [prompts.tokens.shape[1] for prompts in every] == lengths
    for prompts in every:
        assert all(torch.equal(values, every[0].design[name]) for name, values in prompts.design.items())
        assert set(prompts.design["n_context"].tolist()) == {1} and set(prompts.design["n_prior"].tolist()) == {0}
        assert set(prompts.design["distance"].tolist()) == {distance} and len(prompts) == 3 * 4 * 4
        for tokens, trigger, context in zip(prompts.tokens, prompts.design["trigger"], prompts.design["context"], strict=True):
            assert tokens[-1] == trigger and tokens[-2 - distance] == context and tokens[-3 - distance] == trigger


def test_no_hijack_where_there_are_no_bigrams():
    assert data_for(induction()).hijack_prompts_by_length == []
    assert not any(key[0].startswith("hijack") for key in rows_of(induction(), data_for(induction())))
