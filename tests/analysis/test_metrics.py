"""The list of metrics is complete, and every example in a docstring is true."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import workbench.analysis
from workbench.analysis.sections import AMICL, EMERGENCE, SECTIONS, WATCHED, all_metrics, applicable, chosen, measure_of
from workbench.config import ModelConfig
from workbench.errors import UsageError

MODULES = [
    *(f"workbench.analysis.{module.name}" for module in pkgutil.iter_modules(workbench.analysis.__path__)),
    "workbench.amicl.accuracy",
    "workbench.evaluation",
    "workbench.model.positions",
    "workbench.training.schedule",
    "workbench.variant",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    import torch

    names = {"torch": torch, "TrainConfig": importlib.import_module("workbench.config").TrainConfig}
    failed, _ = doctest.testmod(module, extraglobs=names)
    assert failed == 0


@pytest.mark.parametrize("name", all_metrics())
def test_what_a_reader_needs_to_know(name):
    metric = all_metrics()[name]
    assert metric.name == name == metric.function.__name__
    assert metric.section in (*SECTIONS, EMERGENCE, AMICL)
    assert metric.formula and metric.range and metric.source
    assert metric.summary.endswith(".") and "\n" not in metric.summary
    text = inspect.getdoc(metric.function)
    for fact in ("Formula", "Range", "Source"):
        assert f"{fact}: {getattr(metric, fact.lower())}" in text
    # A worked example of the metric itself; that it is true, the test above says.
    examples = doctest.DocTestParser().get_examples(text)
    assert any(f"{name}(" in example.source for example in examples) and any(example.want for example in examples)


def test_every_section_has_metrics_and_a_module():
    assert {metric.section for metric in all_metrics().values()} == {*SECTIONS, EMERGENCE, AMICL}
    assert all(callable(measure_of(section)) for section in SECTIONS)
    assert set(WATCHED) <= set(SECTIONS)


def test_sections_and_metrics_by_name():
    assert chosen(None) == (list(SECTIONS), None)
    assert chosen(["probes", "formation"]) == (["formation", "probes"], None)
    assert chosen(["loss", "prefix_matching_score"]) == (["formation"], {"loss", "prefix_matching_score"})
    sections, kept = chosen(["copying_score", "formation"])
    assert sections == ["formation", "circuits"] and kept is not None
    assert kept == {"copying_score", *(name for name, metric in all_metrics().items() if metric.section == "formation")}
    # Events are found on the curves of other sections, which then have to be measured.
    sections, kept = chosen(["emergence"])
    assert set(sections) == set(WATCHED) and kept == {name for name, metric in all_metrics().items() if metric.section == EMERGENCE}
    assert chosen(["reached"]) == (sections, {"reached"})
    with pytest.raises(UsageError, match=r"unknown section or metric 'los'; did you mean loss"):
        chosen(["los"])
    with pytest.raises(UsageError, match=r"unknown section or metric 'amicl_accuracy'"):
        chosen(["amicl_accuracy"])
    with pytest.raises(UsageError, match="names nothing"):
        chosen([])


def test_the_section_stream_needs_a_stream():
    plain, streamed = ModelConfig(), ModelConfig(stream="key")
    assert applicable(SECTIONS, streamed, asked=False) == list(SECTIONS) == applicable(SECTIONS, streamed, asked=True)
    assert applicable(SECTIONS, plain, asked=False) == [name for name in SECTIONS if name != "stream"]
    assert applicable(["formation"], plain, asked=True) == ["formation"]
    with pytest.raises(UsageError, match="this one has stream='none'"):
        applicable(["formation", "stream"], plain, asked=True)
