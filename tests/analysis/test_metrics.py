"""The list of metrics is complete, and every example in a docstring is true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import workbench.analysis
from workbench.analysis import formation
from workbench.analysis.sections import SECTIONS, all_metrics, chosen, measure_of
from workbench.errors import UsageError

MODULES = [
    *(f"workbench.analysis.{module.name}" for module in pkgutil.iter_modules(workbench.analysis.__path__)),
    "workbench.evaluation",
    "workbench.model.positions",
    "workbench.training.schedule",
]
WITH_EXAMPLES = {"workbench.analysis.heads", "workbench.analysis.estimates", "workbench.analysis.emergence", *MODULES[-3:]}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    import torch

    names = {"torch": torch, "TrainConfig": importlib.import_module("workbench.config").TrainConfig}
    failed, tried = doctest.testmod(module, extraglobs=names)
    assert failed == 0
    assert (tried > 0) == (name in WITH_EXAMPLES)


@pytest.mark.parametrize("name", all_metrics())
def test_what_a_reader_needs_to_know(name):
    metric = all_metrics()[name]
    assert metric.name == name == metric.function.__name__
    assert metric.section in SECTIONS and metric.kind in ("model", "head")
    assert metric.range and metric.source
    assert metric.summary.endswith(".") and "\n" not in metric.summary


def test_every_metric_of_a_section_is_measured():
    measured = {"model": formation.MODEL_METRICS, "head": formation.HEAD_METRICS}
    for kind, functions in measured.items():
        assert [function.__name__ for function in functions] == [m.name for m in all_metrics().values() if m.kind == kind]
    assert measure_of("formation") is formation.measure


def test_sections_and_metrics_by_name():
    assert chosen(None) == (["formation"], None) == chosen(["formation"])
    assert chosen(["loss", "prefix_matching_score"]) == (["formation"], {"loss", "prefix_matching_score"})
    sections, kept = chosen(["loss", "formation"])
    assert sections == ["formation"] and kept == set(all_metrics())
    with pytest.raises(UsageError, match=r"unknown section or metric 'los'; did you mean loss"):
        chosen(["los"])
    with pytest.raises(UsageError, match="names nothing"):
        chosen([])
