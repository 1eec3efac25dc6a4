"""Configurations: what is written is what is read, and what cannot be is refused in one line."""

import dataclasses
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.config import (
    AffineRecurrenceConfig,
    ClassificationConfig,
    LinearRegressionConfig,
    ModelConfig,
    RepeatedTokensConfig,
    RunConfig,
    TrainConfig,
    TriggerBigramConfig,
    read_config,
)
from workbench.config_base import Config
from workbench.errors import ConfigError, UsageError
from workbench.preset import preset, presets
from workbench.tasks import make_task
from workbench.variant import variant_fields

positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
share = st.floats(min_value=0, max_value=1, exclude_max=True)
patterns = st.lists(st.text(), max_size=3).map(tuple)
MODELS = st.builds(
    ModelConfig,
    n_layers=st.integers(2, 99),
    n_heads=st.integers(1, 99),
    d_model=st.integers(1, 50).map(lambda half: 2 * half),
    d_head=st.integers(1, 50).map(lambda half: 2 * half),
    d_mlp=st.none() | st.integers(1, 999),
    d_vocab=st.just(29),
    n_ctx=st.integers(31, 999),
    act_fn=st.sampled_from(["relu", "gelu", "gelu_new", "silu", "linear"]),
    attn_only=st.just(False),
    parallel_attn_mlp=st.booleans(),
    normalization_type=st.sampled_from(["LN", "LNPre", "RMS", "RMSPre", None]),
    eps=positive,
    positional_embedding_type=st.sampled_from(["standard", "sinusoidal", "rotary", "none"]),
    rotary_base=positive,
    attn_scale=positive | st.just(-1.0),
    tie_word_embeddings=st.booleans(),
    dropout=share,
    initializer_range=positive | st.just(-1.0),
    embed_std=st.none() | positive,
    frozen=patterns,
    stream=st.sampled_from(["none", "query", "key", "value"]),
    stream_source=st.sampled_from(["previous", "accumulated", "first"]),
    seed=st.integers(-(10**30), 10**30),
)
TASKS = st.builds(
    TriggerBigramConfig,
    d_vocab=st.just(29),
    seq_len=st.integers(2, 31),
    language=st.text(),
    concentration=positive,
    n_triggers=st.integers(1, 29),
    triggers=st.sampled_from(["fixed", "random"]),
    no_repeat=st.booleans(),
    ood_fraction=share,
) | st.builds(RepeatedTokensConfig, d_vocab=st.just(29), seq_len=st.integers(4, 31), placement=st.sampled_from(["equal", "jittered"]))
TRAINS = st.builds(
    TrainConfig,
    steps=st.just(97),
    optimizer=st.sampled_from(["adamw", "sgd"]),
    lr=positive,
    betas=st.tuples(share, share),
    weight_decay=positive,
    warmup_steps=st.integers(0, 97),
    grad_clip=st.none() | positive,
    dtype=st.sampled_from(["auto", "fp32", "bf16"]),
    data_seed=st.integers(0, 10**30),
    checkpoint_steps=st.lists(st.integers(0, 97)).map(tuple),
    checkpoint_every=st.none() | st.integers(1, 97),
    checkpoint_dense=st.none() | st.just((3, 5, 2)),
)
RUNS = st.builds(RunConfig, model=MODELS, task=TASKS, train=st.none() | TRAINS) | st.builds(RunConfig, model=MODELS)


@settings(max_examples=200, deadline=None)
@given(RUNS)
def test_yaml_gives_back_what_was_written(config):
    again = RunConfig.from_yaml(config.to_yaml())
    assert again == config and repr(again) == repr(config) and not config.differences(again)


def test_every_field_is_written():
    for section in (ModelConfig(), TrainConfig(), TriggerBigramConfig(), RepeatedTokensConfig(), ClassificationConfig()):
        assert list(section.to_dict()) == [field.name for field in dataclasses.fields(section)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"n_layer": 3}}, "model: unknown field 'n_layer'; did you mean n_layers"),
        ({"model": {}, "train": {"learning": 1}}, "train: unknown field 'learning'; there are: .*warmup_steps"),
        ({"model": {}, "task": {"name": "trigger-bigrams"}}, "task: unknown task 'trigger-bigrams'; did you mean trigger-bigram"),
        ({"model": {}, "task": {"name": ["x"]}}, "task: unknown task"),
        ({"model": {}, "task": {"d_vocab": 5}}, "task: expected a name, one of trigger-bigram, repeated-tokens"),
        ({"model": {}, "trian": {}}, "run: unknown field 'trian'; did you mean train"),
        ({"model": {1: 2}}, "model: unknown field '1'"),
        ({"train": {}, 3: 4}, "run: expected the sections task, model and train, got .*train"),
        ({"model": 5}, "run.model: expected a section of fields, got 5"),
        ({"model": {}, "task": "trigger-bigram"}, "run.task: expected a section of fields, got 'trigger-bigram'"),
        ([1, 2], r"expected the sections .*\[1, 2\]"),
        (None, "expected the sections .*None"),
    ],
)
def test_unknown_keys_and_sections(values, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(values)


@pytest.mark.parametrize(
    ("cls", "field", "value", "message"),
    [
        (ModelConfig, "n_layers", 2.5, "model.n_layers: expected an integer, got 2.5"),
        (ModelConfig, "n_layers", True, "model.n_layers: expected an integer, got True"),
        (ModelConfig, "n_layers", None, "model.n_layers: expected an integer, got None"),
        (ModelConfig, "n_layers", "none", "model.n_layers: expected an integer, got 'none'"),
        (ModelConfig, "d_head", "wide", "model.d_head: expected an integer or none, got 'wide'"),
        (ModelConfig, "attn_only", "perhaps", "model.attn_only: expected true or false"),
        (ModelConfig, "act_fn", "tanh", "model.act_fn: expected one of relu, gelu.*got 'tanh'"),
        (ModelConfig, "stream", None, "model.stream: expected one of none, query"),
        (ModelConfig, "normalization_type", "batch", "expected one of LN.* or none, got 'batch'"),
        (ModelConfig, "frozen", [1], r"model.frozen: expected a list of text, got \[1\]"),
        (ModelConfig, "eps", math.nan, "model.eps: expected a number, got nan"),
        (ModelConfig, "eps", False, "model.eps: expected a number, got False"),
        (TrainConfig, "lr", "fast", "train.lr: expected a number, got 'fast'"),
        (TrainConfig, "lr", math.inf, "train.lr: expected a number, got inf"),
        (TrainConfig, "betas", (0.9,), "train.betas: expected 2 values of a number"),
        (TrainConfig, "betas", (0.9, math.nan), "train.betas: expected 2 values of a number"),
        (TrainConfig, "checkpoint_dense", (1, 2), "train.checkpoint_dense: expected 3 values of an integer or none"),
        (TriggerBigramConfig, "language", 5, "task.language: expected text, got 5"),
        (TriggerBigramConfig, "name", "repeated-tokens", "task.name: expected one of trigger-bigram"),
    ],
)
def test_wrong_types(cls, field, value, message):
    with pytest.raises(ConfigError, match=message):
        cls(**{field: value})


IMPOSSIBLE = [
    *((ModelConfig, {name: 0}, f"{name} must be at least 1") for name in ("n_layers", "n_heads", "d_model", "d_vocab", "n_ctx")),
    *((ModelConfig, {name: 0}, f"{name} must be at least 1") for name in ("d_head", "d_mlp")),
    (ModelConfig, {"n_heads": 3}, "d_model=64 is not a multiple of n_heads=3"),
    (ModelConfig, {"d_head": 5, "positional_embedding_type": "rotary"}, "even d_head, got 5"),
    (ModelConfig, {"d_model": 7, "n_heads": 1, "positional_embedding_type": "sinusoidal"}, "even d_model, got 7"),
    (ModelConfig, {"attn_scale": -2.0}, "attn_scale"),
    (ModelConfig, {"dropout": 1.0}, "dropout"),
    (ModelConfig, {"dropout": -0.1}, "dropout"),
    (ModelConfig, {"eps": 0.0}, "eps"),
    (ModelConfig, {"initializer_range": 0.0}, "initializer_range"),
    (ModelConfig, {"embed_std": 0.0}, "embed_std"),
    (ModelConfig, {"stream": "value", "n_layers": 1}, "at least two layers, got n_layers=1"),
    (ModelConfig, {"identity": ("*W_Q",)}, "one head with d_head = d_model, got n_heads=4"),
    (ModelConfig, {"identity": ("*W_Q",), "n_heads": 1, "d_head": 5}, "one head with d_head = d_model"),
    (ModelConfig, {"parallel_attn_mlp": True}, "attn_only is true"),
    *((TrainConfig, {name: 0}, f"{name} must be at least 1") for name in ("steps", "batch_size", "eval_every", "eval_size")),
    *((TrainConfig, {name: 0}, f"{name} must be at least 1") for name in ("checkpoint_every", "checkpoint_log")),
    *((TrainConfig, {name: -1}, f"{name} must be at least 0") for name in ("data_seed", "eval_seed", "weight_decay")),
    (TrainConfig, {"lr": 0.0}, "lr must be positive"),
    (TrainConfig, {"betas": (0.9, 1.0)}, "betas"),
    (TrainConfig, {"momentum": 1.0}, "momentum"),
    (TrainConfig, {"warmup_steps": 601}, "between 0 and steps=600, got 601"),
    (TrainConfig, {"final_lr_fraction": 1.5}, "final_lr_fraction"),
    (TrainConfig, {"grad_clip": 0.0}, "grad_clip"),
    (TrainConfig, {"checkpoint_steps": (5, 601)}, r"between 0 and steps=600, got \[601\]"),
    (ModelConfig, {"max_distance": 0}, "max_distance must be at least 1, got 0"),
    (ModelConfig, {"n_heads": 1, "stream": "value", "stream_permute_heads": "fixed"}, "needs at least two heads"),
    (TrainConfig, {"checkpoint_dense": (7, 5, 1)}, "first <= last"),
    (TrainConfig, {"checkpoint_dense": (5, 7, 0)}, "checkpoint_dense"),
    (TriggerBigramConfig, {"d_vocab": 1}, "d_vocab"),
    (TriggerBigramConfig, {"seq_len": 1}, "seq_len"),
    (TriggerBigramConfig, {"n_triggers": 66}, "between 1 and d_vocab=65"),
    (TriggerBigramConfig, {"zipf_exponent": -1.0}, "zipf_exponent"),
    (TriggerBigramConfig, {"language_seed": -1}, "language_seed"),
    (TriggerBigramConfig, {"concentration": 0.0}, "concentration"),
    (TriggerBigramConfig, {"ood_fraction": 1.0}, "ood_fraction"),
    (RepeatedTokensConfig, {"d_vocab": 1}, "d_vocab"),
    (RepeatedTokensConfig, {"seq_len": 3}, "seq_len"),
    (RepeatedTokensConfig, {"block_len": 64}, "block_len"),
    (RepeatedTokensConfig, {"distinct": True, "d_vocab": 31}, "distinct blocks of 32"),
    (ModelConfig, {"readout": "classifier", "tie_word_embeddings": True}, "needs readout='unembed'"),
    (ClassificationConfig, {"n_classes": 0}, "n_classes must be at least 1, got 0"),
    (ClassificationConfig, {"n_labels": 1}, "n_labels must be at least 2, got 1"),
    (ClassificationConfig, {"n_classes": 500}, "n_classes must be a multiple of n_labels=32, got 500"),
    (ClassificationConfig, {"max_pairs": 7}, "max_pairs must be at least n_pairs=8, got 7"),
    (ClassificationConfig, {"burstiness": 3}, "n_pairs=8 is not a multiple of burstiness=3"),
    (ClassificationConfig, {"n_labels": 4, "burstiness": 1}, "8 different classes, but n_labels=4"),
    (ClassificationConfig, {"p_bursty": -0.1}, r"p_bursty must lie in \[0, 1\], got -0.1"),
    (ClassificationConfig, {"eps": -1.0}, "eps must be at least 0, got -1.0"),
    (LinearRegressionConfig, {"d_x": 0}, "d_x must be at least 1, got 0"),
    (LinearRegressionConfig, {"n_pairs": 4}, "n_pairs must be at least d_x=5, which determine w, got 4"),
    (LinearRegressionConfig, {"noise": -0.1}, "noise must be at least 0"),
    (LinearRegressionConfig, {"d_input": 5}, "at least d_x . 1 = 6"),
    (AffineRecurrenceConfig, {"seq_len": 2}, "seq_len must be at least 3"),
    (AffineRecurrenceConfig, {"max_slope": 1.1}, "max_slope must be above 0 and at most 1, got 1.1"),
    *((AffineRecurrenceConfig, {name: -0.1}, f"{name} must be at least 0, got -0.1") for name in ("offset_std", "noise")),
    (AffineRecurrenceConfig, {"d_input": 0}, "d_input must be at least 1, got 0"),
    (RunConfig, {"model": ModelConfig(), "task": AffineRecurrenceConfig()}, "d_vocab=65, but the task affine-recurrence asks for one"),
    (RunConfig, {"model": ModelConfig(), "train": TrainConfig()}, "needs a task section"),
    (RunConfig, {"model": ModelConfig(), "task": ClassificationConfig()}, "d_vocab=65 differs from the number of labels"),
    (RunConfig, {"model": ModelConfig(d_vocab=32), "task": ClassificationConfig()}, "d_model=64 differs from the width of the inputs"),
    (RunConfig, {"model": ModelConfig(d_vocab=64), "task": TriggerBigramConfig()}, "d_vocab=64 differs from task.d_vocab=65"),
    (RunConfig, {"model": ModelConfig(n_ctx=63), "task": TriggerBigramConfig()}, "n_ctx=63 is shorter than task.seq_len=64"),
]


@pytest.mark.parametrize(("cls", "fields", "message"), IMPOSSIBLE)
def test_impossible_values(cls, fields, message):
    with pytest.raises(ConfigError, match=message) as error:
        cls(**fields)
    assert str(error.value).startswith(f"{cls.section}: ") and "\n" not in str(error.value)


def test_every_requirement_has_an_impossible_value(monkeypatch):
    kept, broken = set(), set()

    def record(self, condition, message):
        line = (type(self), sys._getframe(1).f_lineno)
        kept.add(line)
        if not condition:
            broken.add(line)
            raise ConfigError(message)

    monkeypatch.setattr(Config, "require", record)
    for cls, fields, _ in IMPOSSIBLE:
        with pytest.raises(ConfigError):
            cls(**fields)
    for config in presets.values():
        config.override(train={"checkpoint_dense": (1, 2, 1)})
    assert kept == broken and len(broken) > 30


def test_text_becomes_the_type_of_the_field():
    train = TrainConfig().replace(lr="1e-3", steps="40", grad_clip="none", checkpoint_steps=["3", 5])
    assert (train.lr, train.steps, train.grad_clip, train.checkpoint_steps) == (1e-3, 40, None, (3, 5))
    model = ModelConfig().replace(normalization_type="none", d_head="none", stream="none", positional_embedding_type="none")
    assert (model.normalization_type, model.d_head, model.stream, model.positional_embedding_type) == (None, None, "none", "none")
    assert ModelConfig(attn_only="false").attn_only is False
    written_by_hand = RunConfig.from_yaml("model: {normalization_type: none, eps: 1e-6, d_head: 4}")
    assert written_by_hand.model == ModelConfig(normalization_type=None, eps=1e-6, d_head=4)


def test_override_changes_what_it_is_told_and_nothing_else():
    before = presets["trigger-bigram"]
    after = before.override(model={"stream": "value"}, train={"lr": "1e-3"})
    assert before.differences(after) == ["model.stream is none, not value", "train.lr is 0.003, not 0.001"]
    assert before == presets["trigger-bigram"] and not before.differences(before)
    with pytest.raises(ConfigError, match="no train section"):
        RunConfig(model=ModelConfig()).override(train={"lr": 1})
    with pytest.raises(ConfigError, match="differs from task"):
        before.override(model={"d_vocab": 66})
    assert RunConfig(model=ModelConfig()).differences(RunConfig(model=ModelConfig(), task=TriggerBigramConfig()))


def test_configurations_are_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().n_layers = 3
    assert len({ModelConfig(), ModelConfig(), ModelConfig(seed=1)}) == 2


@pytest.mark.parametrize(
    ("stream", "source", "variant"),
    [("none", "first", "none"), ("value", "previous", "value"), ("key", "first", "key-first"), ("key", "accumulated", "key-accumulated")],
)
def test_variant_names(stream, source, variant):
    assert variant_fields(variant).items() <= {"stream": stream, "stream_source": source}.items()
    assert ModelConfig(stream=stream, stream_source=source).variant == variant


@pytest.mark.parametrize("name", presets)
def test_presets_can_be_made(name):
    config = preset(name)
    batch = make_task(config.task).sample(2, np.random.default_rng(0))
    assert batch.tokens.shape == (2, config.task.seq_len) and config.train is not None
    with pytest.raises(UsageError, match=f"unknown preset '{name}x'; did you mean .*{name}"):
        preset(f"{name}x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: [1, 2", "line 1: not valid YAML"),
        (b"model:\n  seed: 2001-13-45", "not valid YAML"),
        (b"\xff\xfe\xff", "not UTF-8"),
        (b"model: {seed: \x00}", "not valid YAML"),
        (b"model: {sed: 1}", "unknown field 'sed'; did you mean seed"),
        (b"", "expected the sections"),
        (None, "No such file"),
    ],
)
def test_unreadable_files(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_config(path)
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"stream_mix": "learned"}, "value-learned"),
        ({"stream_init": (0.5, 0.5)}, "value-0.5-0.5"),
        ({"stream_init": (1.0, -0.25)}, "value-1--0.25"),
        ({"stream_init": (1e-05, 2.0)}, "value-1e-05-2"),
        ({"stream_permute_heads": "fixed", "stream_detach": True}, "value-permuted-detached"),
        ({"stream_permute_heads": "by-position"}, "value-scrambled"),
        ({"stream_source": "first", "stream_mix": "learned", "stream_init": (1.0, 0.0)}, "value-first-learned-1-0"),
        ({"positional_embedding_type": "relative"}, "value-relative"),
        ({"positional_embedding_type": "none", "stream_init": (0.5, 0.5)}, "value-nopos-0.5-0.5"),
        ({"stream": "none", "positional_embedding_type": "rotary"}, "none-rotary"),
        ({"stream": "none", "positional_embedding_type": "none"}, "none-nopos"),
    ],
)
def test_the_name_of_a_variant_says_all_that_differs_and_is_read_back(fields, name):
    config = ModelConfig(**({"stream": "value"} | fields))
    assert config.variant == name
    assert ModelConfig(**variant_fields(name)) == config


STREAM_FIELDS = st.fixed_dictionaries(
    {
        "stream": st.sampled_from(["query", "key", "value"]),
        "stream_source": st.sampled_from(["previous", "accumulated", "first"]),
        "stream_mix": st.sampled_from(["add", "learned"]),
        "stream_init": st.tuples(*[st.integers(-999, 999).map(lambda number: number / 100)] * 2),
        "stream_permute_heads": st.sampled_from(["none", "fixed", "by-position"]),
        "stream_detach": st.booleans(),
    }
)


@given(
    stream=STREAM_FIELDS | st.just({"stream": "none"}),
    positions=st.sampled_from(["standard", "sinusoidal", "relative", "rotary", "none"]),
)
def test_every_variant_is_read_back_from_its_name(stream, positions):
    config = ModelConfig(**stream, positional_embedding_type=positions)
    assert ModelConfig(**variant_fields(config.variant)) == config


def test_a_name_that_says_nothing_of_positions_leaves_them_alone():
    assert variant_fields("none") == {"stream": "none"} and variant_fields("none-standard")["positional_embedding_type"] == "standard"
    assert ModelConfig(**variant_fields("none-standard")).variant == "none"
    rotary = ModelConfig(positional_embedding_type="rotary")
    assert rotary.replace(**variant_fields("value")).variant == "value-rotary"
    assert rotary.replace(**variant_fields("value-standard")).variant == "value"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vlaue", "unknown stream 'vlaue'; did you mean value"),
        ("value-detach", "did you mean detached"),
        ("none-detached", "nothing to vary"),
        ("none-detached-rotary", "nothing to vary"),
        ("none-rotray", "did you mean rotary"),
        ("value-rotary-relative", "relative contradicts an earlier suffix"),
        ("value-1.2.3-0", "no pair of numbers"),
        ("value-0.5", "unknown suffix"),
    ],
)
def test_variants_that_are_none(name, message):
    with pytest.raises(UsageError, match=message):
        variant_fields(name)
