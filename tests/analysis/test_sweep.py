"""From a run to its tables: what they hold, where the data come from, and what is left as it was found."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from workbench import HookedTransformer, ModelConfig, Run, RunConfig, TrainConfig, TriggerBigramConfig, analyze, make_task, train
from workbench.analysis import attribution, formation, heads
from workbench.analysis.data import REPEATS, AnalysisData, scoring_half
from workbench.analysis.emergence import Curves
from workbench.analysis.roles import Head, Roles
from workbench.analysis.rows import ALWAYS, CASES_KEPT, OPTIONAL
from workbench.analysis.sections import SECTIONS, all_metrics, measure_of
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
def everything(run: Run) -> pd.DataFrame:
    return analyze(run, sequences=SEQUENCES)


@pytest.fixture(scope="module")
def table(everything: pd.DataFrame) -> pd.DataFrame:
    """The section formation."""
    formation_metrics = [name for name, metric in all_metrics().items() if metric.section == "formation"]
    return everything[everything["metric"].isin(formation_metrics)].reset_index(drop=True)


@pytest.fixture
def model() -> HookedTransformer:
    return HookedTransformer(CONFIG.model)


def test_rows_and_columns(table):
    assert list(table.columns[: len(ALWAYS)]) == ALWAYS and set(table.columns[len(ALWAYS) :]) <= set(OPTIONAL)
    assert set(table[["run", "variant", "seed"]].itertuples(index=False, name=None)) == {("r", "value", 5)}
    for name in ("seed", "step", "layer", "head", "n"):
        assert table[name].dtype == "Int64"
    for name in ("value", "ci_low", "ci_high", "baseline", "selection"):
        assert table[name].dtype == "float64"
    expected = set()
    for step in (0, 3, 7):
        for function in formation.MODEL_METRICS:
            expected.add(("trigger-bigram", step, function.__name__, -1, -1))
        for score in heads.SCORES:
            places = [(layer, head) for layer in range(2) for head in range(3)]
            expected |= {(task, step, score.metric.__name__, *place) for task in ("trigger-bigram", *REPEATS) for place in places}
    rows = table[["task", "step", "metric", "layer", "head"]].fillna({"layer": -1, "head": -1}).itertuples(index=False, name=None)
    rows = list(rows)
    assert set(rows) == expected and len(rows) == len(expected)
    measured = table[table["value"].notna()]
    assert (measured["ci_low"] <= measured["value"]).all() and (measured["value"] <= measured["ci_high"]).all()
    assert (measured["n"] <= SEQUENCES).all()


def test_every_section_gives_rows_of_its_metrics_alone(run, everything):
    metrics = all_metrics()
    for section in [*SECTIONS, "emergence"]:
        written = pd.read_parquet(run.tables.file(section))
        assert not written.empty and {metrics[name].section for name in written["metric"]} == {section}
        steps = set(written["step"].dropna())
        assert steps == (set() if section == "emergence" else {0, 3, 7})
        assert not [name for name in OPTIONAL if name in written and written[name].isna().all()]
    # Every number is one: a row without a value says that an event did not take place, or that nothing could count.
    without = set(everything.loc[everything["value"].isna(), "metric"])
    assert without <= {
        "threshold_step",
        "overtaking_step",
        "persistence",
        "prefix_matching_score",
        "previous_token_at_answers",
        "duplicate_token_score",
    }


def test_a_row_is_told_from_every_other(everything):
    place = ["task", "step", "layer", "head", "metric", *(name for name in OPTIONAL if name not in ("baseline", "selection"))]
    assert not everything.duplicated([name for name in place if name in everything]).any()


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
                compare(found, score[scoring_half(len(batch))].estimate())
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
    pd.testing.assert_frame_equal(parquet, table[parquet.columns], check_dtype=False)
    csv = pd.read_csv(run.tables.file("formation").with_suffix(".csv"))
    assert list(csv.columns) == list(parquet.columns)
    np.testing.assert_allclose(csv["value"], table["value"])
    assert run.tables.names == sorted([*SECTIONS, "attention", "emergence", "hijack_prompts", "predictions", "tokens"])
    assert not [path for path in run.tables.path.iterdir() if path.suffix not in (".parquet", ".csv", ".json")]


def test_the_attention_table_is_the_pattern_of_every_checkpoint(run, table):
    attention = pd.read_parquet(run.tables.file("attention"))
    batch = AnalysisData.of_run(run, SEQUENCES).batches["trigger-bigram"]
    place = [torch.tensor(attention[name].to_numpy(np.int64, copy=True)) for name in ("sequence", "layer", "head", "destination", "source")]
    for step in run.steps:
        with torch.no_grad():
            _, cache = run.model(step).run_with_cache(batch.tokens[:2])
        at = torch.tensor((attention["step"] == step).to_numpy(copy=True))
        found = torch.zeros(2, 2, 3, 13, 13)
        found[*(index[at] for index in place)] = torch.tensor(attention["attention"].to_numpy(copy=True))[at]
        assert torch.equal(found, torch.stack([cache["pattern", layer] for layer in range(2)], dim=1))
    assert len(attention) == len(run.steps) * 2 * 2 * 3 * 13 * 14 / 2
    assert set(attention["sequence"]) == {0, 1} and set(attention["run"]) == {"r"} and set(attention["step"]) == set(run.steps)
    assert not run.tables.file("attention").with_suffix(".csv").exists()


def test_the_tokens_table_is_the_sample(run, table):
    tokens = pd.read_parquet(run.tables.file("tokens"))
    batch = AnalysisData.of_run(run, SEQUENCES).batches["trigger-bigram"]
    assert tokens["position"].tolist() == list(range(13)) * 2 and tokens["sequence"].tolist() == [0] * 13 + [1] * 13
    assert tokens["token"].tolist() == batch.tokens[:2].flatten().tolist()
    assert tokens["answered"].tolist() == batch.answered[:2].flatten().tolist()
    assert tokens["text"].tolist() == run.task.to_strings(batch.tokens[:2].flatten().tolist())


def test_the_summary_is_of_the_last_checkpoint(run, table):
    summary = run.summary()
    last = table[(table["step"] == 7) & (table["metric"] == "in_context_accuracy")]["value"].item()
    assert summary["step"] == 7 and summary["in_context_accuracy"] == pytest.approx(last)


def test_some_metrics_and_some_steps(run, everything, table):
    alone = analyze(run, only=["formation"], steps=[3], sequences=SEQUENCES, write=False)
    assert set(alone["metric"]) == set(table["metric"])
    some = analyze(run, only=["loss", "prefix_matching_score"], steps=[7, 0, 7], sequences=SEQUENCES, write=False)
    expected = table[table["metric"].isin(["loss", "prefix_matching_score"]) & table["step"].isin([0, 7])]
    pd.testing.assert_frame_equal(some, expected[some.columns].reset_index(drop=True))
    heads_alone = analyze(run, only=["emergence_step", "reached", "threshold_step"], sequences=SEQUENCES, write=False)
    assert set(heads_alone["metric"]) <= {"emergence_step", "reached", "threshold_step"}
    of_events = everything[everything["metric"].isin(set(heads_alone["metric"]))].reset_index(drop=True)
    pd.testing.assert_frame_equal(heads_alone, of_events[heads_alone.columns])


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
    assert set(mine["task"]) == {"trigger-bigram", *REPEATS}
    assert set(analyze(model, sequences=7)["task"]) == set(REPEATS)
    assert set(analyze(model, only=["loss"], sequences=7)["metric"]) == {"loss"}


@pytest.mark.parametrize("stream", ["none", "query", "value"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training, stream):
    model = HookedTransformer(CONFIG.model.replace(stream=stream, dropout=0.1, attn_only=False))
    model.train(training)
    seen = []
    model.blocks[0].attn.hook_pattern.add_hook(lambda pattern, hook: seen.append(model.training))
    model(torch.zeros(1, 3, dtype=torch.int64), return_type="loss").backward()
    for section in SECTIONS:
        if section == "stream" and stream == "none":
            continue
        before = state_of(model)
        seen.clear()
        analyze(model, make_task(CONFIG.task), only=[section], sequences=7)
        assert seen and not any(seen), "measured in evaluation mode"
        assert_same_state(model, before)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_model_is_left_as_it_was_when_a_pass_fails(model, section):
    """A hook of the user's fails in the middle of a pass, sooner or later: of naming heads, of the clean pass, of an edit."""
    model.train()
    for fails_at in (1, 12, 20):
        calls = 0

        def fail(pattern, hook, fails_at=fails_at):
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise RuntimeError("in the middle of a forward pass")

        model.reset_hooks()
        model.blocks[1].attn.hook_pattern.add_hook(fail)
        before = state_of(model)
        try:
            analyze(model, make_task(CONFIG.task), only=[section], sequences=7)
            failed = False
        except RuntimeError as error:
            failed = "in the middle" in str(error)
        assert failed == (calls >= fails_at)
        assert_same_state(model, before)


def state_of(model):
    parameters = {name: (value.clone(), None if value.grad is None else value.grad.clone()) for name, value in model.named_parameters()}
    hooks = {name: len(hook.fwd_hooks) + len(hook.bwd_hooks) for name, hook in model.hook_dict.items()}
    return model.training, parameters, hooks, dict(vars(model.cfg)), torch.get_rng_state(), np.random.get_state(), torch.is_grad_enabled()


def assert_same_state(model, before):
    training, parameters, hooks, cfg, torch_state, numpy_state, grad = before
    after = state_of(model)
    assert (after[0], after[2], after[3], after[6]) == (training, hooks, cfg, grad)
    for name, (value, gradient) in after[1].items():
        assert torch.equal(value, parameters[name][0])
        assert (gradient is None) == (parameters[name][1] is None) and (gradient is None or torch.equal(gradient, parameters[name][1]))
    assert torch.equal(after[4], torch_state)
    assert all(np.array_equal(mine, was) for mine, was in zip(after[5], numpy_state, strict=True))


def test_short_formats_are_measured_in_single_precision(model):
    """A model in bf16 gives the numbers of its weights in fp32, and stays in bf16."""
    rounded = HookedTransformer(CONFIG.model)
    rounded.load_state_dict({name: value.bfloat16().float() for name, value in model.state_dict().items()})
    short = HookedTransformer(CONFIG.model).to(torch.bfloat16)
    short.load_state_dict(rounded.state_dict())
    expected = analyze(rounded, only=["formation", "stream"], sequences=7)
    pd.testing.assert_frame_equal(analyze(short, only=["formation", "stream"], sequences=7), expected)
    assert short.W_E.dtype == torch.bfloat16


def test_without_a_wire_the_section_stream_is_an_error_and_is_left_out_of_all(tmp_path):
    config = CONFIG.override(model={"stream": "none"})
    run = train(config, tmp_path / "r", device="cpu", progress=False)
    for only in (["stream"], ["cut_accuracy_loss"], ["formation", "stream"]):
        with pytest.raises(UsageError, match="stream='none'"):
            analyze(run, only=only, sequences=7)
    assert not run.tables.path.exists()
    analyze(run, steps=[7], sequences=7)
    assert "stream" not in run.tables.names and "causal" in run.tables.names


def test_heavy_sections_at_some_checkpoints(run):
    table = analyze(run, only=["loss", "forward_passes"], causal_every=2, sequences=7, write=False)
    steps = {metric: rows["step"].tolist() for metric, rows in table.groupby("metric")}
    assert steps == {"loss": [0, 3, 7], "forward_passes": [0, 7]}
    with pytest.raises(UsageError, match="causal_every must be at least 1, got 0"):
        analyze(run, causal_every=0, sequences=7)


def test_causal_says_how_many_passes_it_needed(model, monkeypatch):
    """Counted by the forward passes of the model itself, each over at most 64 sequences."""
    data = AnalysisData.draw(model.config, make_task(CONFIG.task), sequences=14)
    seen = []
    forward = HookedTransformer.forward

    def counted(self, tokens, *args, **kwargs):
        seen.append(len(tokens))
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(HookedTransformer, "forward", counted)
    rows = list(measure_of("causal")(model.eval(), data, None))
    said = next(row["value"] for row in rows if row["metric"] == "forward_passes")
    assert said == pytest.approx(sum(seen) / 7)


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
    assert list(first) == ["trigger-bigram", *REPEATS]
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
    table = analyze(run, only=["formation"], sequences=7)
    # Sequences of four tokens have no room for the controls.
    assert set(table["task"]) == (set(REPEATS) if model.config.n_ctx > 4 else {"equal-repeats"})
    assert set(table["step"].dropna()) == {0, 29}
    assert table.loc[table["step"].notna(), "value"].notna().all()
    assert run.summary()["task"] == "equal-repeats" and run.summary()["lines"]
    tokens = AnalysisData.of_run(run, 7).batches["equal-repeats"].tokens
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
    assert set(analyze(run, steps=others, sequences=7)["step"].dropna()) == set(others)


def test_memory_does_not_grow_with_the_checkpoints(tmp_path, monkeypatch):
    """Tensors that are alive when the next checkpoint is loaded: what the curves gather (a few numbers for each sequence), and
    nothing of activations, patterns or caches."""
    config = CONFIG.override(train={"checkpoint_every": 1})
    run = train(config, tmp_path / "r", device="cpu", progress=False)
    alive = []
    load = Run.load_weights

    def recorded(self, model, step):
        gc.collect()
        found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        tensors = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found}
        alive.append(sum(tensors.values()))
        load(self, model, step)

    monkeypatch.setattr(Run, "load_weights", recorded)
    analyze(run, sequences=SEQUENCES)
    growth = np.diff(alive)[1:]
    one_pattern = SEQUENCES * 3 * 13 * 13 * 4
    watched = len(Curves(Roles((Head(0, 0),), (Head(1, 0),)), "t", CONFIG.model).events)
    assert len(growth) == 6 and growth.max() <= watched * 2 * SEQUENCES * 8 < one_pattern / 4


def test_own_and_streamed_parts_are_the_attention_part_of_a_trained_models_logits(tmp_path):
    """In fp32 and on a model that has learnt something: 1e-4 of the logits, with the final norm's scale held."""
    config = CONFIG.override(task={"seq_len": 31}, model={"n_ctx": 31, "n_layers": 3}, train={"steps": 60, "batch_size": 32, "lr": 0.01})
    run = train(config.override(train={"checkpoint_steps": []}), tmp_path / "r", device="cpu", progress=False)
    model, batch = run.model(), AnalysisData.of_run(run, 16).scoring
    with torch.no_grad():
        logits, cache = model.run_with_cache(batch.tokens)
        parts = attribution.direct_contributions(model, cache, batch.targets)
        centred = logits.gather(2, batch.targets[..., None])[..., 0] - logits.mean(dim=2)
        attention = centred - parts.embed - parts.pos_embed - parts.bias
    found = parts.heads[0].sum(-1) + sum((parts.own[layer] + parts.streamed[layer]).sum(-1) for layer in (1, 2))
    assert (found - attention).abs().max() < 1e-4
    assert attention.abs().max() > 1 and parts.streamed[2].abs().max() > 0.1


@pytest.mark.parametrize(
    "fields",
    [
        {"n_heads": 1, "stream": "none", "normalization_type": None, "attn_bias": False},
        {"n_heads": 1, "stream": "key", "normalization_type": "RMSPre", "positional_embedding_type": "none"},
        {"n_layers": 1, "stream": "none", "attn_only": False, "positional_embedding_type": "sinusoidal", "d_model": 24},
        {"n_layers": 3, "stream": "query", "stream_source": "accumulated", "positional_embedding_type": "rotary", "d_head": 4},
        {"stream": "key", "positional_embedding_type": "relative", "max_distance": 5},
        {
            "n_layers": 3,
            "stream": "value",
            "stream_source": "first",
            "stream_mix": "learned",
            "attn_only": False,
            "parallel_attn_mlp": True,
        },
        {"n_layers": 3, "stream": "value", "stream_source": "accumulated", "stream_permute_heads": "by-position", "stream_detach": True},
        {"n_layers": 4, "stream": "value", "stream_init": (0.5, 0.0), "normalization_type": "RMS", "tie_word_embeddings": True},
    ],
)
def test_every_section_measures_every_kind_of_model(fields):
    """An untrained model of each kind, with a task and without: finite numbers, rows told apart, and no section is empty."""
    model = HookedTransformer(CONFIG.model.replace(stream="none").replace(**fields))
    for task in (make_task(CONFIG.task), None):
        table = analyze(model, task, sequences=6)
        section_of = {name: metric.section for name, metric in all_metrics().items()}
        expected = set(SECTIONS) - ({"stream"} if model.config.stream == "none" else set()) - ({"hijack"} if task is None else set())
        assert {section_of[name] for name in table["metric"]} == expected
        place = [name for name in ["task", "layer", "head", "metric", *OPTIONAL] if name in table and name not in ("baseline", "selection")]
        assert not table.duplicated(place).any()
        values = table.loc[table["value"].notna(), "value"]
        assert np.isfinite(values).all() and len(values) > 0.9 * len(table)


def test_a_partial_analysis_keeps_what_the_others_left(tmp_path):
    """Events and sentences of sections measured before, on the same checkpoints; none of an analysis of others."""
    run = train(CONFIG, tmp_path / "r", device="cpu", progress=False)
    analyze(run, sequences=SEQUENCES)
    before, lines = run.table("emergence"), run.summary()["lines"]
    again = analyze(run, only=["hijack"], sequences=SEQUENCES)
    assert set(again["metric"].map(lambda name: all_metrics()[name].section)) == {"hijack", "emergence"}
    order = ["part", "metric", "layer", "head"]
    pd.testing.assert_frame_equal(
        run.table("emergence").sort_values(order, ignore_index=True)[before.columns], before.sort_values(order, ignore_index=True)
    )
    assert run.summary()["lines"] == lines
    cases = run.table("hijack_prompts")
    counts = cases.groupby("step").size()
    assert counts[7] == len(AnalysisData.of_run(run, SEQUENCES).hijack_prompts) and (counts[[0, 3]] == min(counts[7], CASES_KEPT)).all()
    assert set(cases.loc[cases["step"] == 0, "prompt"]) <= set(cases.loc[cases["step"] == 7, "prompt"])
    # At an earlier checkpoint alone, what was said of the last one does not count.
    analyze(run, only=["hijack"], steps=[3], sequences=SEQUENCES)
    assert set(run.table("hijack")["step"]) == {3} and not any("accuracy" in line for line in run.summary()["lines"])


def test_a_partial_analysis_of_a_new_run_has_its_account(tmp_path):
    run = train(CONFIG, tmp_path / "r", device="cpu", progress=False)
    analyze(run, only=["hijack"], sequences=SEQUENCES)
    summary = run.summary()
    assert summary["in_context_accuracy"] is None and summary["heads"] is not None
    assert summary["lines"] and summary["lines"][0].startswith("On prompts whose context shows one answer")


def test_events_alone_can_be_asked_for(tmp_path):
    run = train(CONFIG, tmp_path / "r", device="cpu", progress=False)
    table = analyze(run, only=["emergence"], sequences=SEQUENCES)
    assert set(table["metric"].map(lambda name: all_metrics()[name].section)) == {"emergence"}
    assert run.tables.names == ["attention", "emergence", "hijack_prompts", "predictions", "tokens"]
    assert run.summary()["formed_step"] is None
