"""What a metric is: a pure function with a name, a section, a formula, a range and a source, listed by `workbench metrics`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Kind = Literal["model", "head", "pair of heads", "layer", "position", "curve"]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """A metric's name and what a reader needs to know about it."""

    name: str
    section: str
    kind: Kind
    formula: str
    range: str
    source: str
    function: Callable[..., Any]

    @property
    def summary(self) -> str:
        """The first paragraph of the function's docstring, on one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())


METRICS: dict[str, Metric] = {}
"""name -> Metric, in the order in which they are defined"""


def metric(section: str, kind: Kind, *, formula: str, range: str, source: str) -> Callable[[Function], Function]:
    """Declare a function to be the metric of its name: one value for each of what `kind` says. Formula, range and
    source are added to its docstring, which gives the meaning and a worked example."""

    def declare(function: Function) -> Function:
        facts = f"Formula: {formula}\nRange: {range}\nSource: {source}"
        function.__doc__ = f"{inspect.getdoc(function)}\n\n{facts}"
        METRICS[function.__name__] = Metric(function.__name__, section, kind, formula, range, source, function)
        return function

    return declare
