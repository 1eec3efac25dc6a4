"""The sections of an analysis by name. A section's module has `measure(model, data)`, which yields rows.

This module is light, so that a wrong name is told at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from workbench.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from workbench.analysis.metrics import Metric

SECTIONS: dict[str, str] = {"formation": "workbench.analysis.formation"}
"""section -> the module that measures it"""


def measure_of(section: str) -> Callable[..., Iterator[dict[str, Any]]]:
    """The function that measures a section."""
    return importlib.import_module(SECTIONS[section]).measure


def all_metrics() -> dict[str, Metric]:
    """Every metric of every section, by name."""
    from workbench.analysis.metrics import METRICS

    for module in SECTIONS.values():
        importlib.import_module(module)
    return METRICS


def chosen(only: Iterable[str] | None) -> tuple[list[str], set[str] | None]:
    """The sections to measure, and the metrics to keep (None: all), for a list of section and metric names.

    Raises UsageError for an empty list and, with the nearest names, for a name that is neither.
    """
    if only is None:
        return list(SECTIONS), None
    names = list(only)
    if not names:
        raise UsageError(
            f"--only (only=...) names nothing; give sections ({', '.join(SECTIONS)}) or metrics (workbench metrics lists them)"
        )
    if all(name in SECTIONS for name in names):
        return [section for section in SECTIONS if section in names], None
    metrics = all_metrics()
    for name in names:
        if name not in SECTIONS and name not in metrics:
            raise unknown_name("section or metric", name, [*SECTIONS, *metrics])
    kept = {metric.name for metric in metrics.values() if metric.name in names or metric.section in names}
    return [section for section in SECTIONS if any(metrics[name].section == section for name in kept)], kept
