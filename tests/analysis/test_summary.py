"""Every sentence follows from the table, and every number in it is a value of the table."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from workbench import ModelConfig, RepeatedTokensConfig, TriggerBigramConfig, make_task
from workbench.analysis.data import CONTROL, AnalysisData
from workbench.analysis.emergence import first_reached
from workbench.analysis.summary import summarise

MODEL = ModelConfig(n_heads=3, d_model=21, d_vocab=11, n_ctx=17)
PREVIOUS, PREFIX = "previous_token_at_answers", "prefix_matching_score"


@pytest.fixture(scope="module")
def data() -> AnalysisData:
    return AnalysisData.draw(MODEL, make_task(TriggerBigramConfig(d_vocab=11, seq_len=13, n_triggers=2)), sequences=3)


def table(curves: dict[tuple[str, int | None, int | None], list[float]], steps: list[int], task: str = "trigger-bigram") -> pd.DataFrame:
    rows = [
        (task, step, layer, head, metric, value, value - 0.013, value + 0.017, 257)
        for (metric, layer, head), values in curves.items()
        for step, value in zip(steps, values, strict=True)
    ]
    made = pd.DataFrame(rows, columns=["task", "step", "layer", "head", "metric", "value", "ci_low", "ci_high", "n"])
    return made.astype({"step": "Int64", "layer": "Int64", "head": "Int64", "n": "Int64"})


def model_curve(metric: str) -> tuple[str, None, None]:
    return metric, None, None


FORMED = {
    model_curve("in_context_accuracy"): [0.103, 0.951, 0.977],
    model_curve("bigram_loss"): [2.407, 2.003, 1.913],
    model_curve("in_context_score"): [0.011, -0.307, -0.509],
    (PREVIOUS, 0, 1): [0.113, 0.419, 0.811],
    (PREVIOUS, 0, 2): [0.101, 0.103, 0.107],
    (PREFIX, 1, 0): [0.053, 0.107, 0.613],
    (PREFIX, 1, 2): [0.047, 0.853, 0.907],
    (PREFIX, 0, 1): [0.059, 0.061, 0.067],
}


def test_formed(data):
    # The order of rows does not matter, and another task's rows are left alone.
    other = table({model_curve("in_context_accuracy"): [0.999] * 3, (PREFIX, 0, 0): [0.997] * 3}, [0, 50, 100], "repeated-tokens")
    both = pd.concat([other, table(FORMED, [0, 50, 100]).sample(frac=1, random_state=0)], ignore_index=True)
    summary = summarise(both, data)
    floor = data.tasks["trigger-bigram"].references()["bigram_loss"]
    assert summary["lines"] == [
        "In-context accuracy first reaches 95% at step 50 and ends at 97.7% at step 100 (95% interval 96.4% to 99.4%, 257 sequences).",
        "Previous-token head, with mean attention to the token before, at the positions that hold answers: "
        "L0H1 (0.81, half of it by step 50).",
        "Induction heads, with mean attention to what followed earlier occurrences of the token: "
        "L1H2 (0.91, half of it by step 50); L1H0 (0.61, half of it by step 100).",
        f"Where only learnt statistics help, the loss is 1.91 nats; the best possible is {floor:.2f}.",
    ]
    assert summary["formed_step"] == 50 and summary["step"] == 100 and summary["task"] == "trigger-bigram"
    assert summary["previous_token_head"] == "L0H1" and summary["induction_heads"] == ["L1H2", "L1H0"]
    values = {name: summary[name] for name in ("in_context_accuracy", "bigram_loss", "in_context_score")}
    assert values == {"in_context_accuracy": 0.977, "bigram_loss": 1.913, "in_context_score": -0.509}
    assert summary["heads"] == [
        {"kind": "previous-token", "head": "L0H1", "score": 0.811, "half_step": 50},
        {"kind": "induction", "head": "L1H2", "score": 0.907, "half_step": 50, "control_score": None},
        {"kind": "induction", "head": "L1H0", "score": 0.613, "half_step": 100, "control_score": None},
    ]
    assert json.loads(json.dumps(summary)) == summary


def test_never_formed(data):
    flat = {key: [values[0]] * 3 for key, values in FORMED.items()}
    summary = summarise(table(flat, [0, 50, 100]), data)
    assert summary["formed_step"] is None and summary["previous_token_head"] is None and summary["induction_heads"] == []
    assert summary["lines"][:3] == [
        "In-context accuracy never reaches 95%; it ends at 10.3% at step 100 (95% interval 9.0% to 12.0%, 257 sequences).",
        "No head qualifies as a previous-token head (a score of at least 0.4).",
        "No head qualifies as an induction head (a score of at least 0.5).",
    ]


def test_a_head_that_went_away_is_not_named(data):
    summary = summarise(table(FORMED | {(PREFIX, 1, 2): [0.1, 0.9, 0.499], (PREFIX, 1, 0): [0.1, 0.9, 0.5]}, [0, 50, 100]), data)
    assert summary["induction_heads"] == ["L1H0"]


def test_one_checkpoint_has_no_history(data):
    summary = summarise(table({key: values[-1:] for key, values in FORMED.items()}, [100]), data)
    assert summary["lines"][0] == "In-context accuracy is 97.7% at step 100 (95% interval 96.4% to 99.4%, 257 sequences)."
    assert "L0H1 (0.81)." in summary["lines"][1]
    assert not [line for line in summary["lines"] if " by step " in line or "reaches" in line]


def test_without_heads(data):
    summary = summarise(table({key: values for key, values in FORMED.items() if key[1] is None}, [0, 50, 100]), data)
    assert len(summary["lines"]) == 2 and summary["heads"] == [] and summary["induction_heads"] == []


def test_heads_alone(data):
    summary = summarise(table({key: values for key, values in FORMED.items() if key[1] is not None}, [0, 50, 100]), data)
    assert summary["lines"][0] == "In-context accuracy was not measured." and len(summary["lines"]) == 3
    assert summary["in_context_accuracy"] is None and summary["formed_step"] is None


def test_nan_is_not_measured(data):
    """Nowhere to measure, as in a task that never asks: no number, no sentence with nan, and plain JSON."""
    summary = summarise(table({key: [math.nan] * 3 for key in FORMED}, [0, 50, 100]), data)
    assert summary["in_context_accuracy"] is None and summary["heads"] == []
    assert "nan" not in " ".join(summary["lines"])
    json.dumps(summary, allow_nan=False)


def test_first_reached():
    assert first_reached([0, 10, 20, 30], [0.1, 0.96, 0.2, 0.99], 0.95) == 10
    assert first_reached([30, 10, 20], [0.99, 0.2, 0.97], 0.95) == 20
    assert first_reached([0, 10], [0.1, 0.95], 0.95) == 10
    assert first_reached([0, 10, 20], [math.nan, 0.3, 0.9499], 0.95) is None
    assert first_reached([], [], 0.95) is None


def test_a_head_that_counts_positions_is_not_called_an_induction_head():
    data = AnalysisData.draw(MODEL, None, sequences=3)
    own = {model_curve("in_context_accuracy"): [0.997], (PREFIX, 0, 0): [0.953], (PREFIX, 1, 1): [0.907], (PREFIX, 1, 2): [0.853]}
    control = {(PREFIX, 0, 0): [0.051], (PREFIX, 1, 1): [0.103], (PREFIX, 1, 2): [0.811]}
    summary = summarise(pd.concat([table(own, [0], "repeated-tokens"), table(control, [0], CONTROL)], ignore_index=True), data)
    assert summary["induction_heads"] == ["L1H2"]
    assert "L0H0 (0.95), 0.05 on non-periodic repeats; L1H1 (0.91), 0.10 on non-periodic repeats." in summary["lines"][-1]
    # In layer 0 no earlier head can have told what came before: no control is needed to say so.
    alone = summarise(table(own, [0], "repeated-tokens"), data)
    assert alone["induction_heads"] == ["L1H1", "L1H2"]


def test_the_control_is_drawn_where_repeats_stand_at_one_distance():
    equal, jittered = (RepeatedTokensConfig(d_vocab=11, seq_len=17, placement=placement) for placement in ("equal", "jittered"))
    assert CONTROL in AnalysisData.draw(MODEL, make_task(equal), sequences=3).tasks
    assert CONTROL in AnalysisData.draw(MODEL, None, sequences=3).tasks
    assert CONTROL not in AnalysisData.draw(MODEL, make_task(jittered), sequences=3).tasks
    assert CONTROL not in AnalysisData.draw(MODEL, make_task(TriggerBigramConfig(d_vocab=11, seq_len=13, n_triggers=2)), sequences=3).tasks
