"""A mechanistic-interpretability workbench for in-context learning. The public names are imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.analysis.comparison import compare
    from workbench.analysis.sweep import analyze
    from workbench.config import ClassificationConfig, ModelConfig, RepeatedTokensConfig, RunConfig, TrainConfig, TriggerBigramConfig
    from workbench.errors import WorkbenchError
    from workbench.model import ActivationCache, HookedTransformer
    from workbench.preset import presets
    from workbench.report.build import write_report
    from workbench.runs import Run
    from workbench.tasks import make_task
    from workbench.training.loop import train

__version__ = "0.1.0"

_HOMES = {
    "ActivationCache": "workbench.model",
    "ClassificationConfig": "workbench.config",
    "HookedTransformer": "workbench.model",
    "ModelConfig": "workbench.config",
    "RepeatedTokensConfig": "workbench.config",
    "Run": "workbench.runs",
    "RunConfig": "workbench.config",
    "TrainConfig": "workbench.config",
    "TriggerBigramConfig": "workbench.config",
    "WorkbenchError": "workbench.errors",
    "analyze": "workbench.analysis.sweep",
    "compare": "workbench.analysis.comparison",
    "make_task": "workbench.tasks",
    "presets": "workbench.preset",
    "train": "workbench.training.loop",
    "write_report": "workbench.report.build",
}

__all__ = [
    "ActivationCache",
    "ClassificationConfig",
    "HookedTransformer",
    "ModelConfig",
    "RepeatedTokensConfig",
    "Run",
    "RunConfig",
    "TrainConfig",
    "TriggerBigramConfig",
    "WorkbenchError",
    "analyze",
    "compare",
    "make_task",
    "presets",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
