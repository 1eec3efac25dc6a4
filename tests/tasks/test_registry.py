"""Tasks by name."""

import subprocess
import sys

import pytest

from workbench.config import TASK_CONFIGS, RepeatedTokensConfig, TriggerBigramConfig
from workbench.errors import UsageError
from workbench.tasks import TASKS, make_task, register
from workbench.tasks.base import Task


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


def test_a_task_of_your_own(monkeypatch):
    monkeypatch.setattr("workbench.tasks.TASKS", dict(TASKS))
    config = RepeatedTokensConfig()
    object.__setattr__(config, "name", "mine")
    with pytest.raises(UsageError, match="unknown task 'mine'"):
        make_task(config)
    register("mine", "workbench.tasks.repeated_tokens:RepeatedTokens")
    assert make_task(config).config is config
    with pytest.raises(UsageError, match="already"):
        register("mine", "elsewhere:Task")
    with pytest.raises(UsageError, match="module:Class"):
        register("other", "no_colon")


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
