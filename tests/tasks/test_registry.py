"""Tasks by name, and a task of one's own."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch

from workbench.config import ModelConfig, RepeatedTokensConfig, RunConfig, TaskConfig, TrainConfig, TriggerBigramConfig
from workbench.errors import ConfigError, UsageError
from workbench.runs import Run
from workbench.tasks import TASKS, make_task, register
from workbench.tasks.base import Batch, Split, Task
from workbench.tasks.configs import TASK_CONFIGS
from workbench.training.loop import train


@dataclass(frozen=True, kw_only=True)
class CountingConfig(TaskConfig):
    """Counting upwards, modulo d_vocab."""

    name: Literal["counting"] = "counting"
    d_vocab: int = 7
    seq_len: int = 5
    stride: int = 1

    def check(self) -> None:
        self.require(self.stride >= 1, f"stride must be at least 1, got {self.stride}")


class Counting:
    def __init__(self, config: CountingConfig) -> None:
        self.config = config

    def sample(self, batch_size: int, rng: np.random.Generator, split: Split = "train") -> Batch:
        start = torch.from_numpy(rng.integers(self.config.d_vocab, size=(batch_size, 1)))
        numbers = (start + self.config.stride * torch.arange(self.config.seq_len + 1)) % self.config.d_vocab
        seen = torch.ones(batch_size, self.config.seq_len, dtype=torch.bool)
        return Batch(numbers[:, :-1], numbers[:, 1:], seen, ~seen)

    def describe(self) -> str:
        return "Counting."

    def to_strings(self, tokens):
        return [str(token) for token in tokens]

    def fingerprint(self) -> str:
        return f"counting by {self.config.stride}"

    def references(self) -> dict[str, float]:
        return {}


@pytest.fixture
def registry():
    """The registry, as it was before when the test is over."""
    before = [(known, dict(known)) for known in (TASKS, TASK_CONFIGS)]
    yield
    for known, content in before:
        known.clear()
        known.update(content)


def test_every_configuration_has_its_task():
    assert set(TASK_CONFIGS) == set(TASKS)
    for config_type in TASK_CONFIGS.values():
        config = config_type()
        task = make_task(config)
        assert isinstance(task, Task) and task.config is config
        assert task.describe() and task.to_strings([0, 1]) and len(task.fingerprint()) == 64


def test_tasks_are_imported_only_when_made():
    code = "import sys, workbench.tasks; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_task_of_your_own_is_trained_saved_and_reloaded(registry, tmp_path):
    with pytest.raises(UsageError, match="unknown task 'counting'"):
        make_task(CountingConfig())
    register("counting", "tests.tasks.test_registry:Counting", CountingConfig)
    config = RunConfig(
        model=ModelConfig(d_vocab=7, n_ctx=5, d_model=8),
        task=CountingConfig(stride=3),
        train=TrainConfig(steps=2, batch_size=3, eval_size=11, eval_every=1),
    )
    assert train(config, tmp_path / "run", progress=False).steps == [0, 2]
    run = Run.load(tmp_path / "run")
    assert run.config == config and isinstance(run.config.task, CountingConfig)
    assert run.task is not None and run.task.fingerprint() == "counting by 3" == run.provenance["task_fingerprint"]
    assert len(run.metrics()) == 3 and run.model(2).config == config.model
    with pytest.raises(ConfigError, match="task: unknown field 'strid'; did you mean stride"):
        RunConfig.from_dict({"model": {}, "task": {"name": "counting", "strid": 2}})
    with pytest.raises(ConfigError, match="task: stride must be at least 1, got 0"):
        config.override(task={"stride": 0})


def test_registering_twice(registry):
    register("counting", "tests.tasks.test_registry:Counting", CountingConfig)
    register("counting", "tests.tasks.test_registry:Counting", CountingConfig)
    with pytest.raises(UsageError, match=r"already tests\.tasks\.test_registry:Counting"):
        register("counting", "elsewhere:Task", CountingConfig)
    for target in ("no_colon", ":Task", "module:"):
        with pytest.raises(UsageError, match="module:Class"):
            register("other", target, CountingConfig)
    assert "other" not in TASKS and "other" not in TASK_CONFIGS


def test_fingerprints_tell_configurations_apart():
    configs = [
        TriggerBigramConfig(),
        TriggerBigramConfig(n_triggers=3),
        TriggerBigramConfig(language_seed=1),
        RepeatedTokensConfig(),
        RepeatedTokensConfig(distinct=True),
    ]
    assert len({make_task(config).fingerprint() for config in configs}) == len(configs)
    assert make_task(TriggerBigramConfig()).fingerprint() == make_task(TriggerBigramConfig()).fingerprint()
