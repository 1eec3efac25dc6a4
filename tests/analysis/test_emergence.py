"""Events on curves over training: their steps, intervals, order and persistence, and curves on which nothing happens."""

import math

import numpy as np
import pytest
import torch

from workbench.analysis import emergence, probes
from workbench.analysis.data import AnalysisData
from workbench.analysis.emergence import Curves, Event, events, first_reached, watched
from workbench.analysis.estimates import PerSequence
from workbench.analysis.logistic import fit_logistic
from workbench.analysis.roles import Head, Roles
from workbench.analysis.rows import SAMPLE
from workbench.config import ModelConfig, TriggerBigramConfig
from workbench.model import HookedTransformer
from workbench.tasks import make_task

STEPS = list(range(0, 130, 10))
ROLES = Roles(previous_token=(Head(0, 2),), induction=(Head(1, 1), Head(1, 0)))
UNITS = 97


def row(metric, sample, task="own", **place):
    return {"task": task, "metric": metric, SAMPLE: sample, **place}


def gathered(curves_by_key, steps=STEPS, units=UNITS, roles=ROLES, stream="none", seed=0):
    """Curves whose units scatter around the given values."""
    rng = np.random.default_rng(seed)
    curves = Curves(roles, "own", ModelConfig(stream=stream))
    offset = {key: rng.normal(0, 0.1, units) for key in curves_by_key}
    for index, step in enumerate(steps):
        rows = []
        for key, values in curves_by_key.items():
            metric, layer, head, part, intervention, condition = key
            sums = torch.tensor(values[index] + offset[key] - offset[key].mean())
            sample = PerSequence(sums * 2, torch.full((units,), 2.0, dtype=torch.float64))
            if metric == "in_context_accuracy":  # twice as many sequences, of which the second half counts
                sample = PerSequence(torch.cat([sums * 0, sums]), torch.ones(2 * units))
            rows.append(row(metric, sample, layer=layer, head=head, part=part, intervention=intervention, condition=condition))
        curves.add(step, rows)
    return curves


def sigmoid(midpoint, width, low=0.0, high=1.0, steps=STEPS):
    return [low + (high - low) / (1 + math.exp(-(step - midpoint) * 2 * math.log(9) / width)) for step in steps]


PREVIOUS = ("previous_token_at_answers", 0, 2, None, None, None)
MATCH = ("prefix_matching_score", 1, 1, None, None, None)
ACCURACY = ("in_context_accuracy", None, None, None, None, None)


def found(rows, metric, part):
    matching = [r for r in rows if r["metric"] == metric and r["part"] == part]
    return matching[0] if matching else None


def test_steps_widths_and_rises_of_known_curves():
    curves = {PREVIOUS: sigmoid(35, 30, 0.1, 0.8), MATCH: sigmoid(62, 20), ACCURACY: sigmoid(81, 15, 0.2, 0.99)}
    rows = list(events(gathered(curves)))
    expected = (("previous-token head", 35, 30, 0.7), ("trigger match", 62, 20, 1), ("in-context accuracy", 81, 15, 0.79))
    for part, midpoint, width, rise in expected:
        assert found(rows, "emergence_step", part)["value"] == pytest.approx(midpoint, abs=0.5)
        assert found(rows, "emergence_width", part)["value"] == pytest.approx(width, rel=0.05)
        assert found(rows, "emergence_rise", part)["value"] == pytest.approx(rise, rel=0.02)
        assert found(rows, "emergence_fit", part)["value"] > 0.999
        assert found(rows, "reached", part)["value"] > 0.9 and found(rows, "reached", part)["n"] == UNITS
        assert found(rows, "persistence", part)["value"] == pytest.approx(1, abs=0.02)
    step = found(rows, "emergence_step", "previous-token head")
    assert (step["layer"], step["head"], step["task"]) == (0, 2, "own")
    assert "head" not in found(rows, "emergence_step", "in-context accuracy")
    threshold = found(rows, "threshold_step", "in-context accuracy")
    assert threshold["value"] == first_reached(STEPS, curves[ACCURACY], 0.95) == 100 and threshold["baseline"] == 0.95
    assert found(rows, "threshold_step", "previous-token head")["value"] == first_reached(STEPS, curves[PREVIOUS], 0.4) == 40


def test_the_order_of_events_with_their_gaps():
    rows = list(events(gathered({PREVIOUS: sigmoid(35, 30), MATCH: sigmoid(62, 20), ACCURACY: sigmoid(81, 15)})))
    gaps = {r["part"]: r for r in rows if r["metric"] == "emergence_gap"}
    assert list(gaps) == ["previous-token head, then trigger match", "trigger match, then in-context accuracy"]
    first = gaps["previous-token head, then trigger match"]
    steps = {part: found(rows, "emergence_step", part)["value"] for part in ("previous-token head", "trigger match")}
    assert first["value"] == pytest.approx(27, abs=1)
    assert first["value"] == pytest.approx(steps["trigger match"] - steps["previous-token head"])


def test_an_order_that_the_sequences_do_not_settle():
    """Each sequence has its own step for each of two events: the gap's interval is that of the mean difference."""
    rng = np.random.default_rng(1)
    late = rng.normal(0, 12, (2, UNITS))
    curves = Curves(ROLES, "own", ModelConfig())
    for step in STEPS:
        values = [torch.tensor([sigmoid(60 + shift, 20, steps=[step])[0] for shift in late[event]]) for event in range(2)]
        samples = [PerSequence(value, torch.ones(UNITS)) for value in values]
        curves.add(step, [row(MATCH[0], samples[0], layer=1, head=1), row(PREVIOUS[0], samples[1], layer=0, head=2)])
    gap = next(r for r in events(curves) if r["metric"] == "emergence_gap")
    error = 12 * math.sqrt(2 / UNITS)
    assert gap["value"] >= 0 > gap["ci_low"] and gap["ci_high"] - gap["ci_low"] == pytest.approx(2 * 1.96 * error, rel=0.35)


def test_intervals_cover_the_truth_over_the_sequences():
    """Sequences differ in when they rise; the curve of 97 of them is drawn again and again from a known population."""
    population = sigmoid(62, 20)
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        curves = Curves(ROLES, "own", ModelConfig())
        late = rng.normal(0, 8, UNITS)
        values = np.array([sigmoid(62 + shift, 20) for shift in late])
        for index, step in enumerate(STEPS):
            sample = PerSequence(torch.tensor(values[:, index]), torch.ones(UNITS))
            curves.add(step, [row(MATCH[0], sample, layer=1, head=1)])
        step = found(list(events(curves)), "emergence_step", "trigger match")
        covered += step["ci_low"] <= 62 <= step["ci_high"]
    assert population[-1] > 0.99 and 33 <= covered <= 40


def test_replicates_are_means_of_resampled_units():
    curves = gathered({MATCH: sigmoid(62, 20)})
    event = next(event for event in curves.events if event.name == "trigger match")
    steps, curve = curves.resampled(event, replicates=5)
    assert list(steps) == STEPS and curve.shape == (6, len(STEPS))
    np.testing.assert_allclose(curve[0], sigmoid(62, 20), atol=1e-6)
    drawn = np.random.default_rng(0).multinomial(UNITS, np.full(UNITS, 1 / UNITS), size=5)
    samples = curves.samples[MATCH]
    for replicate in range(5):
        for index, step in enumerate(STEPS):
            values = np.repeat((samples[step].sums / samples[step].counts).numpy(), drawn[replicate])
            assert curve[replicate + 1, index] == pytest.approx(values.mean())


def test_an_event_that_does_not_take_place_is_censored():
    rows = list(events(gathered({PREVIOUS: sigmoid(60, 20, 0, 0.3), ACCURACY: [0.3] * len(STEPS)})))
    for part in ("previous-token head", "in-context accuracy"):
        assert found(rows, "reached", part)["value"] == 0
        assert math.isnan(found(rows, "threshold_step", part)["value"])
        assert found(rows, "emergence_step", part) is None
    assert not [r for r in rows if r["metric"] == "emergence_gap"]


def test_noise_is_no_event():
    rng = np.random.default_rng(5)
    rows = list(events(gathered({ACCURACY: rng.normal(0.3, 0.02, len(STEPS))})))
    assert found(rows, "reached", "in-context accuracy")["value"] == 0 and found(rows, "emergence_step", "in-context accuracy") is None


def test_what_is_lost_again_is_told():
    transient = [*sigmoid(30, 20)[:8], 0.8, 0.6, 0.4, 0.4, 0.4]
    row_ = found(list(events(gathered({ACCURACY: transient}))), "persistence", "in-context accuracy")
    assert row_["value"] == pytest.approx(0.4, abs=0.02) and row_["ci_high"] < 0.6
    assert math.isnan(emergence.persistence(np.array([[0.5, 0.4, 0.3, 0.2]]))[0])


def test_few_units_give_no_interval_and_few_checkpoints_no_fit():
    rows = list(events(gathered({MATCH: sigmoid(62, 20)}, units=29)))
    step = found(rows, "emergence_step", "trigger match")
    assert "ci_low" not in step and step["value"] == pytest.approx(62, abs=1)
    short = STEPS[:4]
    rows = list(events(gathered({MATCH: [0.0, 0.0, 1.0, 1.0]}, steps=short)))
    assert found(rows, "threshold_step", "trigger match")["value"] == 20 and found(rows, "emergence_step", "trigger match") is None
    assert list(events(gathered({MATCH: [1.0]}, steps=[0]))) == []
    assert list(events(Curves(Roles(), "own", ModelConfig()))) == []


def test_only_rows_of_watched_curves_on_the_own_task_are_kept():
    curves = Curves(ROLES, "own", ModelConfig(stream="value"))
    sample = PerSequence(torch.ones(4), torch.ones(4))
    rows = [
        row("prefix_matching_score", sample, layer=1, head=1),
        row("prefix_matching_score", sample, layer=1, head=2),
        row("prefix_matching_score", sample, task="other", layer=1, head=1),
        row("copying_probe", sample, layer=1, part="total"),
        row("copying_probe", sample, layer=1, part="own"),
        {"task": "own", "metric": "in_context_accuracy"},
    ]
    curves.add(0, rows)
    assert set(curves.samples) == {("prefix_matching_score", 1, 1, None, None, None), ("copying_probe", 1, None, "total", None, None)}


def test_the_contribution_of_several_heads_is_summed():
    curves = Curves(ROLES, "own", ModelConfig())
    for step in STEPS:
        sample = {head: PerSequence(torch.full((5,), value), torch.ones(5)) for head, value in ((0, 0.75), (1, 0.5))}
        rows = [row("direct_logit_attribution", sample[head], layer=1, head=head) for head in sample]
        curves.add(step, rows)
    event = next(event for event in curves.events if event.name == "direct contribution")
    np.testing.assert_allclose(curves.resampled(event)[1], 1.25)


def test_what_is_watched_follows_the_roles():
    assert [event.name for event in watched(Roles(), ModelConfig())] == ["copying", "in-context accuracy"]
    names = [(event.name, event.head) for event in watched(ROLES, ModelConfig())]
    assert names[:3] == [("previous-token head", Head(0, 2)), ("trigger match", Head(1, 1)), ("trigger match", Head(1, 0))]


@pytest.mark.parametrize(
    ("fields", "roles", "layer", "part"),
    [
        ({}, ROLES, 1, "own"),
        ({"stream": "query"}, ROLES, 1, "own"),
        ({"stream": "value"}, ROLES, 1, "total"),
        ({"stream": "value", "stream_permute_heads": "by-position"}, ROLES, 1, "own"),
        ({"stream": "value", "n_layers": 3}, Roles(), 2, "total"),
        ({"n_layers": 1}, Roles(), 0, "own"),
    ],
)
def test_copying_is_watched_where_a_row_of_it_is(fields, roles, layer, part):
    """A curve that has no rows would be taken for an event that does not take place."""
    config = ModelConfig(d_vocab=11, d_model=8, n_heads=2, n_ctx=13, **fields)
    (event,) = [event for event in watched(roles, config) if event.name == "copying"]
    assert event.keys == (("copying_probe", layer, None, part, None, None),)
    model, task = HookedTransformer(config), make_task(TriggerBigramConfig(d_vocab=11, seq_len=13, n_triggers=2))
    curves = Curves(roles, "trigger-bigram", config)
    for step in (0, 1):
        curves.add(step, probes.measure(model, AnalysisData.draw(config, task, sequences=2)))
    assert curves.resampled(event) is not None


def test_when_the_context_overtakes_the_bigrams():
    """For good, not where noise around zero is positive for a while; and only of the prompts whose bigrams disagree."""
    (key,) = emergence.OVERTAKING.keys
    low = [0.2, 0.1, -2.0, -3.0, -1.0, -0.5, 0.5, -0.8, 1.0, 1.0, 1.0, 2.0, 2.0]
    rows = list(events(gathered({key: low, MATCH: sigmoid(62, 20)})))
    step = found(rows, "overtaking_step", "context over bigrams")
    assert step["value"] == 80 and step["ci_low"] <= 80 <= step["ci_high"] and step["n"] == UNITS
    assert not [row for row in rows if row["part"] == "context over bigrams" and row["metric"] != "overtaking_step"]
    for never in ([1.0] * 13, [1.0, *[-1.0] * 12], [*[-1.0] * 6, *[1.0] * 6, -0.5]):
        step = found(list(events(gathered({key: never}))), "overtaking_step", "context over bigrams")
        assert math.isnan(step["value"]) and "ci_low" not in step
    others = gathered({("hijack_margin", None, None, None, None, None): low, (*key[:5], "log_odds 2"): low})
    assert found(list(events(others)), "overtaking_step", "context over bigrams") is None


def test_curves_with_a_gap_are_left_out():
    curves = gathered({MATCH: sigmoid(62, 20)})
    two = Event("both", (MATCH, PREVIOUS), 0.5)
    assert curves.resampled(two) is None and curves.resampled(Event("none", (PREVIOUS,), 0.5)) is None


def test_each_number_of_the_fit():
    fit = fit_logistic(STEPS, np.array([sigmoid(50, 20, 0.2, 0.8)]))
    assert emergence.emergence_step(fit)[0] == fit.midpoint[0] and emergence.emergence_width(fit)[0] == fit.width[0]
    assert emergence.emergence_rise(fit)[0] == pytest.approx(0.6, rel=1e-2) and emergence.emergence_fit(fit)[0] == fit.r2[0]
    curves = np.array([[0.1, 0.6, 0.3], [0.1, 0.2, 0.3]])
    np.testing.assert_array_equal(emergence.threshold_step(np.array([0.0, 5, 9]), curves, 0.5), [5, np.nan])
    assert emergence.reached(curves, 0.25) == 1 and emergence.reached(curves, 0.5) == 0.5
    np.testing.assert_array_equal(emergence.emergence_gap(np.array([5.0]), np.array([3.0])), [-2.0])
