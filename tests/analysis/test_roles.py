"""Which heads are named: on one half of the sequences, and only where the controls agree."""

import math

import pytest
import torch

from tests.hand_built import D_VOCAB, bag_of_tokens, induction, positional
from tests.reference_analysis import head_score
from workbench.analysis import formation
from workbench.analysis.data import REPEATS, AnalysisData, scoring_half, selection_half
from workbench.analysis.roles import Head, Roles, name_heads
from workbench.config import RepeatedTokensConfig, TriggerBigramConfig
from workbench.errors import ConfigError
from workbench.tasks import make_task

RANDOM_PLACES = make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=16, placement="non-periodic", distinct=True))
TRIGGERS = make_task(TriggerBigramConfig(d_vocab=D_VOCAB, seq_len=16, n_triggers=3))


def measured(model, task, sequences=40):
    data = AnalysisData.draw(model.config, task, sequences=sequences)
    rows = list(formation.measure(model, data))
    return rows, data, name_heads(rows, data.own, data.control)


def score(rows, task, metric, layer, head):
    return next(r for r in rows if (r["task"], r["metric"], r.get("layer"), r.get("head")) == (task, metric, layer, head))


@pytest.mark.parametrize("task", [RANDOM_PLACES, TRIGGERS, None])
@pytest.mark.parametrize(("stream", "copying"), [("none", "own"), ("value", "stream"), ("value", "both")])
def test_a_perfect_circuit_is_named_whatever_copies(task, stream, copying):
    rows, data, roles = measured(induction(stream, copying), task)
    assert roles == Roles(previous_token=(Head(0, 0),), induction=(Head(1, 0),))
    assert roles.groups == {"previous-token heads": (Head(0, 0),), "induction heads": (Head(1, 0),)}
    for name in data.tasks:
        assert score(rows, name, "previous_token_at_answers", 0, 0)["value"] == 1
        if name != "trigger-bigram":  # there a token may follow itself: one place less to look back from
            assert score(rows, name, "prefix_matching_score", 1, 0)["value"] == pytest.approx(1)


def test_a_bag_of_tokens_has_no_roles():
    assert measured(bag_of_tokens(), RANDOM_PLACES)[2] == Roles()
    assert measured(bag_of_tokens(), None)[2] == Roles()


def test_a_positional_head_is_unmasked_by_the_control():
    """Perfect on the own task (repeats at distance 8), it fails where repeats stand at random places."""
    rows, data, roles = measured(positional(7), None, sequences=160)
    assert data.control == "non-periodic-repeats"
    assert roles == Roles(positional=(Head(1, 0),))
    own = score(rows, data.own, "prefix_matching_score", 1, 0)
    assert own["value"] == 1 == own["baseline"]  # every sequence has the same places: only the control can tell
    assert score(rows, "non-periodic-repeats", "prefix_matching_score", 1, 0)["value"] < 0.4
    assert score(rows, "jittered-repeats", "prefix_matching_score", 1, 0)["value"] < 0.5
    assert measured(positional(7, layer=0), None)[2] == Roles(positional=(Head(0, 0),))


def test_a_positional_head_is_unmasked_by_the_places_of_other_sequences():
    rows = [
        {"task": "own", "layer": 1, "head": head, "metric": "prefix_matching_score", "selection": 0.8, "value": 0.8, "baseline": baseline}
        for head, baseline in enumerate((0.1, 0.39, 0.41, 0.8, math.nan))
    ]
    roles = name_heads(rows, "own", None)
    assert roles.induction == (Head(1, 0), Head(1, 1), Head(1, 4)) and roles.positional == (Head(1, 2), Head(1, 3))


def test_heads_are_named_by_the_other_half():
    common = {"task": "own", "layer": 0, "metric": "previous_token_at_answers", "baseline": 0.1}
    scores = [(0.39, 0.9), (0.5, 0.1), (0.7, 0.2)]
    rows = [common | {"head": head, "selection": selection, "value": value} for head, (selection, value) in enumerate(scores)]
    assert name_heads(rows, "own", None).previous_token == (Head(0, 2), Head(0, 1))
    assert name_heads(rows, "another", None) == Roles()


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_the_halves_share_no_sequence(n):
    naming, judging = range(n)[selection_half(n)], range(n)[scoring_half(n)]
    assert len(naming) >= 1 and len(judging) >= 1
    assert n == 1 or (not set(naming) & set(judging) and len(naming) + len(judging) == n)


def test_values_selections_and_baselines_against_loops():
    """The value is the score of the second half, the selection that of the first; the baseline scores the same patterns
    at the places of the next sequence, or spreads attention evenly."""
    model, n = induction("value", "both"), 6
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    rows, data, _ = measured(model, TRIGGERS, sequences=n)
    batch = data.batches[data.own]
    _, cache = model.run_with_cache(batch.tokens)
    tokens, answered = batch.tokens.tolist(), batch.answered.tolist()
    for metric in ("previous_token_score", "previous_token_at_answers", "prefix_matching_score", "duplicate_token_score"):
        masks = answered if metric in ("previous_token_at_answers", "prefix_matching_score") else [[True] * 16] * n
        for layer, head in ((0, 0), (0, 1), (1, 0)):
            patterns = cache["pattern", layer][:, head].tolist()
            even = [[1 / (t + 1)] * (t + 1) + [0.0] * (15 - t) for t in range(16)]

            def ratio(parts):
                return sum(total for total, _ in parts) / sum(count for _, count in parts)

            own = [head_score(metric, patterns[i], tokens[i], masks[i]) for i in range(n)]
            if metric.startswith("previous"):
                other = [head_score(metric, even, tokens[i], masks[i]) for i in range(n)]
            else:
                other = [head_score(metric, patterns[i], tokens[(i + 1) % n], masks[(i + 1) % n]) for i in range(n)]
            row = score(rows, data.own, metric, layer, head)
            assert row["value"] == pytest.approx(ratio(own[3:]), abs=1e-6)
            assert row["selection"] == pytest.approx(ratio(own[:3]), abs=1e-6)
            assert row["baseline"] == pytest.approx(ratio(other), abs=1e-6)


def test_repeats_beside_the_own_task():
    data = AnalysisData.draw(induction().config, TRIGGERS, sequences=8)
    assert list(data.batches) == ["trigger-bigram", *REPEATS] and data.control is None
    assert [len(batch) for batch in data.batches.values()] == [8, 2, 2, 2] and len(data.scoring) == 4
    short = AnalysisData.draw(induction(n_ctx=17).config, make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=8)), sequences=4)
    assert list(short.batches) == ["repeated-tokens", "equal-repeats"] and short.control is None


def test_longer_sequences_where_positions_allow_them():
    config = induction().config
    assert AnalysisData.draw(config, RANDOM_PLACES, sequences=4).beyond.tokens.shape == (2, 17)  # n_ctx
    assert AnalysisData.draw(config.replace(n_ctx=16), RANDOM_PLACES, sequences=4).beyond is None
    free = config.replace(positional_embedding_type="none", n_ctx=16)
    assert AnalysisData.draw(free, RANDOM_PLACES, sequences=24).beyond.tokens.shape == (3, 64)
    equal = make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=16))
    tokens = AnalysisData.draw(free, equal, sequences=4).beyond.tokens
    assert torch.equal(tokens[:, 8:], tokens[:, :-8])  # the period of training, not of the longer sequence


def test_a_task_of_one_length_has_no_longer_sequences(monkeypatch):
    def one_length(config):
        raise ConfigError("task: sequences of this task have 16 tokens")

    monkeypatch.setattr("workbench.analysis.data.make_task", one_length)
    free = induction().config.replace(positional_embedding_type="none", n_ctx=16)
    assert AnalysisData.draw(free, RANDOM_PLACES, sequences=4).beyond is None
