"""From a run to its tables: what they hold, where the data come from, and what is left as it was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from workbench import HookedTransformer, ModelConfig, Run, RunConfig, TrainConfig, TriggerBigramConfig, analyze, make_task, train
from workbench.analysis import formation, heads
from workbench.analysis.data import CONTROL, AnalysisData
from workbench.analysis.metrics import METRICS
from workbench.errors import CheckpointError, UsageError
from workbench.evaluation import Evaluation
from workbench.tasks.draw import CHUNK, TrainingBatches, generator

CONFIG = RunConfig(
    task=TriggerBigramConfig(d_vocab=11, seq_len=13, n_triggers=2),
    model=ModelConfig(n_heads=3, d_model=21, d_vocab=11, n_ctx=17, stream="value", seed=5),
    train=TrainConfig(steps=7, batch_size=5, eval_every=7, eval_size=19, checkpoint_steps=(3,)),
)
SEQUENCES = 67
"""more than one pass of the model takes"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(CONFIG, tmp_path_factory.mktemp("runs") / "r", device="cpu", progress=False)


@pytest.fixture(scope="module")
def table(run: Run) -> pd.DataFrame:
    return analyze(run, sequences=SEQUENCES)


@pytest.fixture
def model() -> HookedTransformer:
    return HookedTransformer(CONFIG.model)


def test_rows_and_columns(table):
    assert list(table.columns) == ["run", "variant", "task", "seed", "step", "layer", "head", "metric", "value", "ci_low", "ci_high", "n"]
    assert set(table[["run", "variant", "seed"]].itertuples(index=False, name=None)) == {("r", "value", 5)}
    for name in ("seed", "step", "layer", "head", "n"):
        assert table[name].dtype == "Int64"
    for name in ("value", "ci_low", "ci_high"):
        assert table[name].dtype == "float64"
    expected = set()
    for step in (0, 3, 7):
        for metric in METRICS.values():
            if metric.kind == "model":
                expected.add(("trigger-bigram", step, metric.name, -1, -1))
            else:
                places = [(layer, head) for layer in range(2) for head in range(3)]
                expected |= {(task, step, metric.name, *place) for task in ("trigger-bigram", "repeated-tokens") for place in places}
    rows = table[["task", "step", "metric", "layer", "head"]].fillna({"layer": -1, "head": -1}).itertuples(index=False, name=None)
    rows = list(rows)
    assert set(rows) == expected and len(rows) == len(expected)
    measured = table[table["value"].notna()]
    assert (measured["ci_low"] <= measured["value"]).all() and (measured["value"] <= measured["ci_high"]).all()
    assert (measured["n"] <= SEQUENCES).all()


def test_the_values_are_those_of_the_metrics_called_by_hand(run, table):
    data = AnalysisData.of_run(run, SEQUENCES)
    model = run.model(3)
    for task, batch in data.batches.items():
        with torch.no_grad():
            logits, cache = model.run_with_cache(batch.tokens)
        rows = table[(table["task"] == task) & (table["step"] == 3)]
        for layer in range(2):
            pattern = cache["pattern", layer]
            scores = {
                "previous_token_score": heads.previous_token_score(pattern, batch.tokens),
                "previous_token_at_answers": heads.previous_token_at_answers(pattern, batch.tokens, batch.answered),
                "prefix_matching_score": heads.prefix_matching_score(pattern, batch.tokens, batch.answered),
                "duplicate_token_score": heads.duplicate_token_score(pattern, batch.tokens),
            }
            for metric, score in scores.items():
                found = rows[(rows["metric"] == metric) & (rows["layer"] == layer)].sort_values("head")
                compare(found, score.estimate())
        if task == "trigger-bigram":
            evaluation = Evaluation.of_logits(logits, batch.targets)
            for function in formation.MODEL_METRICS:
                compare(rows[rows["metric"] == function.__name__], function(evaluation, batch).estimate())


def compare(rows, estimate):
    for column in ("value", "ci_low", "ci_high"):
        found = torch.tensor(rows[column].to_numpy(copy=True), dtype=torch.float32)
        torch.testing.assert_close(found, getattr(estimate, column).reshape(-1), atol=1e-5, rtol=1e-5)
    assert (rows["n"] == estimate.n).all()


def test_tables_open_with_pandas(run, table):
    parquet = pd.read_parquet(run.tables.file("formation"))
    pd.testing.assert_frame_equal(parquet, table, check_dtype=False)
    csv = pd.read_csv(run.tables.file("formation").with_suffix(".csv"))
    assert list(csv.columns) == list(table.columns)
    np.testing.assert_allclose(csv["value"], table["value"])
    assert run.tables.names == ["attention", "formation", "tokens"]
    assert not [path for path in run.tables.path.iterdir() if path.suffix not in (".parquet", ".csv", ".json")]


def test_the_attention_table_is_the_pattern(run, table):
    attention = pd.read_parquet(run.tables.file("attention"))
    batch = AnalysisData.of_run(run, SEQUENCES).batches["trigger-bigram"]
    with torch.no_grad():
        _, cache = run.model(7).run_with_cache(batch.tokens[:1])
    found = torch.zeros(2, 3, 13, 13)
    place = [torch.tensor(attention[name].to_numpy(np.int64, copy=True)) for name in ("layer", "head", "destination", "source")]
    found[*place] = torch.tensor(attention["value"].to_numpy(copy=True))
    assert torch.equal(found, torch.stack([cache["pattern", layer][0] for layer in range(2)]))
    assert len(attention) == 2 * 3 * 13 * 14 / 2
    assert set(attention["sequence"]) == {0} and set(attention["step"]) == {7} and set(attention["run"]) == {"r"}


def test_the_tokens_table_is_the_sample(run, table):
    tokens = pd.read_parquet(run.tables.file("tokens"))
    batch = AnalysisData.of_run(run, SEQUENCES).batches["trigger-bigram"]
    assert tokens["position"].tolist() == list(range(13)) and set(tokens["sequence"]) == {0}
    assert tokens["token"].tolist() == batch.tokens[0].tolist()
    assert tokens["answered"].tolist() == batch.answered[0].tolist()
    assert tokens["text"].tolist() == run.task.to_strings(batch.tokens[0].tolist())


def test_the_summary_is_of_the_last_checkpoint(run, table):
    summary = run.summary()
    last = table[(table["step"] == 7) & (table["metric"] == "in_context_accuracy")]["value"].item()
    assert summary["step"] == 7 and summary["in_context_accuracy"] == pytest.approx(last)


def test_some_metrics_and_some_steps(run, table):
    pd.testing.assert_frame_equal(analyze(run, only=["formation"], sequences=SEQUENCES, write=False), table)
    some = analyze(run, only=["loss", "prefix_matching_score"], steps=[7, 0, 7], sequences=SEQUENCES, write=False)
    expected = table[table["metric"].isin(["loss", "prefix_matching_score"]) & table["step"].isin([0, 7])]
    pd.testing.assert_frame_equal(some, expected.reset_index(drop=True))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"only": ["prefix_maching"]}, r"unknown section or metric 'prefix_maching'; did you mean prefix_matching_score"),
        ({"only": []}, "names nothing"),
        ({"steps": [5]}, "no checkpoint of step 5; it has 0, 3, 7"),
        ({"steps": []}, "names no checkpoint"),
    ],
)
def test_wrong_calls(run, table, options, says):
    with pytest.raises(UsageError, match=says):
        analyze(run, **options)


def test_a_model_in_one_line(model):
    task = make_task(CONFIG.task)
    mine = analyze(model, task, sequences=7)
    assert mine["step"].isna().all() and mine["run"].isna().all() and set(mine["variant"]) == {"value"}
    assert set(mine["task"]) == {"trigger-bigram", "repeated-tokens"}
    assert set(analyze(model, sequences=7)["task"]) == {"repeated-tokens", CONTROL}
    assert set(analyze(model, only=["loss"], sequences=7)["metric"]) == {"loss"}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_model_is_left_as_it_was(model, training, fails, monkeypatch):
    def metric(pattern, tokens, rows):
        raise RuntimeError("in the middle of a forward pass")

    model.train(training)
    seen = []
    model.blocks[0].attn.hook_pattern.add_hook(lambda pattern, hook: seen.append(model.training))
    model(torch.zeros(1, 3, dtype=torch.int64), return_type="loss").backward()
    seen.clear()
    before = {name: (value.clone(), value.grad.clone()) for name, value in model.named_parameters()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()
    if fails:
        monkeypatch.setattr(formation, "HEAD_METRICS", (metric,))
        with pytest.raises(RuntimeError, match="in the middle"):
            analyze(model, sequences=7)
    else:
        analyze(model, sequences=7)
    assert seen and not any(seen), "measured in evaluation mode"
    assert model.training is training
    assert {name: len(hook.fwd_hooks) for name, hook in model.hook_dict.items() if hook.fwd_hooks} == {"blocks.0.attn.hook_pattern": 1}
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name][0]) and torch.equal(value.grad, before[name][1])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(mine, was) for mine, was in zip(np.random.get_state(), numpy_state, strict=True))


@pytest.mark.parametrize("seed", [0, 3])
def test_no_sequence_was_seen_in_training(tmp_path, seed):
    # No short cycles, in which two sequences may agree by chance.
    task = TriggerBigramConfig(d_vocab=101, seq_len=47, n_triggers=1, no_repeat=True)
    model, training = CONFIG.model.replace(d_vocab=101, n_ctx=47), CONFIG.train.replace(data_seed=seed, eval_seed=seed)
    run = Run.create(tmp_path / "r", RunConfig(task=task, model=model, train=training))
    # As many as training draws at a time: the same stream would give the same sequences.
    analysed = {tuple(tokens) for tokens in AnalysisData.of_run(run, CHUNK).batches["trigger-bigram"].tokens.tolist()}
    assert len(analysed) == CHUNK
    batches = TrainingBatches(run.task, CHUNK, seed)
    trained = {tuple(tokens) for step in range(3) for tokens in batches[step].tokens.tolist()}
    evaluated = {tuple(tokens) for tokens in run.task.sample(CHUNK, generator(seed, "evaluate")).tokens.tolist()}
    assert not analysed & trained and not analysed & evaluated


def test_the_same_sequences_each_time(run):
    first, second = (AnalysisData.of_run(run, 7).batches for _ in range(2))
    assert list(first) == ["trigger-bigram", "repeated-tokens"]
    for task in first:
        assert torch.equal(first[task].tokens, second[task].tokens)
    other = AnalysisData.draw(CONFIG.model, make_task(CONFIG.task), seed=1, sequences=7).batches
    assert not torch.equal(first["trigger-bigram"].tokens, other["trigger-bigram"].tokens)


@pytest.mark.parametrize("sizes", [{"n_ctx": 17, "d_vocab": 11}, {"n_ctx": 17, "d_vocab": 5}, {"n_ctx": 4, "d_vocab": 2}, {"n_ctx": 521}])
def test_a_run_without_a_task_is_measured_on_repeated_tokens(tmp_path, sizes):
    model = HookedTransformer(ModelConfig(**{"n_heads": 3, "d_model": 21, **sizes}))
    run = Run.create(tmp_path / "mine", RunConfig(model=model.config))
    run.save(0, model)
    with torch.no_grad():
        model.unembed.W_U += 0.1
    run.save(29, model)
    table = analyze(run, sequences=7)
    # Sequences of four tokens have no room for the control.
    assert set(table["task"]) == ({"repeated-tokens", CONTROL} if model.config.n_ctx > 4 else {"repeated-tokens"})
    assert set(table["step"]) == {0, 29}
    assert table["value"].notna().all()
    assert run.summary()["task"] == "repeated-tokens" and run.summary()["lines"]
    tokens = AnalysisData.of_run(run, 7).batches["repeated-tokens"].tokens
    length = tokens.shape[1]
    assert length == min(256, model.config.n_ctx // 2 * 2)
    assert torch.equal(tokens[:, : length // 2], tokens[:, length // 2 :])
    distinct = [len(set(row)) == length // 2 for row in tokens[:, : length // 2].tolist()]
    assert all(distinct) == (length // 2 <= model.config.d_vocab)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("step", [0, 3, 7])
def test_a_damaged_checkpoint_leaves_nothing_written(tmp_path, step):
    run = train(CONFIG, tmp_path / "r", device="cpu", progress=False)
    flipped(run.checkpoint(step).path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"step_0000000{step}.* is damaged"):
        analyze(run, sequences=7)
    assert not run.tables.path.exists()
    others = [other for other in (0, 3, 7) if other != step]
    assert set(analyze(run, steps=others, sequences=7)["step"]) == set(others)
