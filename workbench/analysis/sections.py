"""The sections of an analysis by name. A section's module has `measure(model, data, roles)`, which yields rows.

This module is light, so that a wrong name is told at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from workbench.config import ModelConfig, TaskConfig
from workbench.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from workbench.analysis.metrics import Metric

SECTIONS: dict[str, str] = {
    "formation": "workbench.analysis.formation",
    "circuits": "workbench.analysis.circuits",
    "probes": "workbench.analysis.probes",
    "stream": "workbench.analysis.stream",
    "causal": "workbench.analysis.causal",
    "attribution": "workbench.analysis.attribution",
    "hijack": "workbench.analysis.hijack_measure",
    "length": "workbench.analysis.length",
}
"""section -> the module that measures it"""
EMERGENCE = "emergence"
"""not measured at a checkpoint but found from the curves of other sections over all of them"""
AMICL = "amicl"
"""nothing of a run: `workbench amicl` measures it"""
WATCHED = ("formation", "probes", "causal", "attribution", "hijack")
"""the sections whose curves it watches"""


OF_TOKENS = ("circuits", "probes", "attribution", "hijack", "length")
"""the sections that read weights or sequences token by token"""
OF_UNEMBEDDING = ("circuits", "probes", "attribution", "hijack")
"""the sections that read W_U as the way from the residual stream to the logits"""


OF_CLASSES = (
    "in_context_accuracy",
    "bigram_loss",
    "in_context_score",
    "ablation_accuracy_loss",
    "ablation_bigram_increase",
    "cut_accuracy_loss",
    "cut_accuracy_share",
    "cut_bigram_increase",
    "path_accuracy_share",
)
"""metrics of sections that every task has, which a task that asks for numbers lacks; so are those of emergence"""
OF_NUMBERS = ("excess_loss",)
"""those that only such a task has"""


def measure_of(section: str) -> Callable[..., Iterator[dict[str, Any]]]:
    """The function that measures a section."""
    return importlib.import_module(SECTIONS[section]).measure


def all_metrics() -> dict[str, Metric]:
    """Every metric of every section, by name."""
    from workbench.analysis.metrics import METRICS

    for module in (*SECTIONS.values(), f"workbench.analysis.{EMERGENCE}", "workbench.amicl.accuracy"):
        importlib.import_module(module)
    return METRICS


def chosen(only: str | Iterable[str] | None) -> tuple[list[str], set[str] | None]:
    """The sections to measure, and the metrics to keep (None: all), for the name of a section or metric, or a list of them.

    Raises UsageError for an empty list and, with the nearest names, for a name that is neither.
    """
    if only is None:
        return list(SECTIONS), None
    names = [only] if isinstance(only, str) else list(only)
    if not names:
        raise UsageError(
            "--only (only=...) names nothing; "
            f"give sections ({', '.join([*SECTIONS, EMERGENCE])}) or metrics (workbench metrics lists them)"
        )
    if all(name in SECTIONS for name in names):
        return [section for section in SECTIONS if section in names], None
    metrics = {name: metric for name, metric in all_metrics().items() if metric.section != AMICL}
    for name in names:
        if name not in (*SECTIONS, EMERGENCE) and name not in metrics:
            raise unknown_name("section or metric", name, [*SECTIONS, EMERGENCE, *metrics])
    kept = {metric.name for metric in metrics.values() if metric.name in names or metric.section in names}
    measured = {metrics[name].section for name in kept}
    if EMERGENCE in measured:
        measured |= set(WATCHED)
    return [section for section in SECTIONS if section in measured], kept


def applicable(
    sections: Iterable[str], model: ModelConfig, task: TaskConfig | None = None, *, asked: bool, kept: set[str] | None = None
) -> list[str]:
    """The sections that a model, trained on a task, has something for. Raises UsageError where one of those that were `asked` for
    has nothing: there is no wire to cut in a model without a stream, which is not the same as a wire that carries nothing. Where
    metrics were chosen (`kept`), a section is asked for if one of them is its own."""
    fitting = []
    for section in sections:
        reason = _missing(section, model, task)
        if reason is None:
            fitting.append(section)
        elif asked and (kept is None or any(metric.section == section and metric.name in kept for metric in all_metrics().values())):
            raise UsageError(f"the section {section} (or a metric of it) needs {reason}")
    if asked and kept is not None:
        _require_metrics(kept, task)
    return fitting


def _require_metrics(kept: set[str], task: TaskConfig | None) -> None:
    """Raise UsageError where all that was asked for are metrics that the task cannot have."""
    numbers = task is not None and task.asks_numbers
    metrics = all_metrics()
    lacking = [
        name for name in sorted(kept) if name in (OF_CLASSES if numbers else OF_NUMBERS) or (numbers and metrics[name].section == EMERGENCE)
    ]
    if lacking and len(lacking) == len(kept):
        what = (
            f"a task that asks for classes or tokens; {task.name} asks for numbers" if task and numbers else "a task that asks for numbers"
        )
        raise UsageError(f"{lacking[0]} needs {what}")


def _missing(section: str, model: ModelConfig, task: TaskConfig | None) -> str | None:
    """What a section needs and does not find; None where it finds all."""
    if section == "stream" and model.stream == "none":
        return "a model with a stream; this one has stream='none'"
    if section in OF_TOKENS and task is not None and task.d_input is not None:
        return f"a model that reads tokens; the task {task.name} gives it vectors"
    if section in OF_UNEMBEDDING and model.readout == "classifier":
        return "logits that are linear in the residual stream; this model has readout='classifier'"
    return None
