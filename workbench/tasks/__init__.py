"""The tasks by name. A task is a class that takes its configuration; its module is imported when it is first made."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from workbench.errors import UsageError, unknown_name
from workbench.tasks.configs import TASK_CONFIGS, TaskConfig

if TYPE_CHECKING:
    from workbench.tasks.base import Task

TASKS: dict[str, str] = {
    "trigger-bigram": "workbench.tasks.trigger_bigram:TriggerBigram",
    "repeated-tokens": "workbench.tasks.repeated_tokens:RepeatedTokens",
    "in-context-classification": "workbench.tasks.classification:Classification",
    "in-context-linear-regression": "workbench.tasks.regression:LinearRegression",
    "affine-recurrence": "workbench.tasks.regression:AffineRecurrence",
}
"""configuration name -> "module:Class"; a task of your own is added with `register`"""


def make_task(config: TaskConfig) -> Task:
    """The task that `config.name` names. Raises ConfigError for a configuration that the task refuses,
    UsageError for a name that is not registered."""
    if config.name not in TASKS:
        raise unknown_name("task", config.name, TASKS)
    module, _, cls = TASKS[config.name].partition(":")
    factory: Any = getattr(importlib.import_module(module), cls)
    return factory(config)


def register(name: str, target: str, config: type[TaskConfig]) -> None:
    """Let runs use a task of your own. `target` is "module:Class": a class that takes the configuration as its only
    argument and follows `workbench.tasks.base.Task`; `config` is the frozen dataclass of that configuration.

    Raises UsageError for a name that is taken by another class, or a target of another form."""
    module, colon, cls = target.partition(":")
    if not (module and colon and cls):
        raise UsageError(f"a task is registered as 'module:Class', got {target!r}")
    if TASKS.get(name, target) != target:
        raise UsageError(f"the task {name!r} is already {TASKS[name]}; choose another name")
    TASKS[name] = target
    TASK_CONFIGS[name] = config
