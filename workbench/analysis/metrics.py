"""What a metric is: a pure function with a name, a section, a range and a source, listed by `workbench metrics`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Kind = Literal["model", "head"]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """A metric's name and what a reader needs to know about it."""

    name: str
    section: str
    kind: Kind
    range: str
    source: str
    function: Callable[..., Any]

    @property
    def summary(self) -> str:
        """The first paragraph of the function's docstring, on one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())


METRICS: dict[str, Metric] = {}
"""name -> Metric, in the order in which they are defined"""


def metric(section: str, kind: Kind, range: str, source: str) -> Callable[[Function], Function]:
    """Declare a function to be the metric of its name: one value a model, or one a head."""

    def declare(function: Function) -> Function:
        METRICS[function.__name__] = Metric(function.__name__, section, kind, range, source, function)
        return function

    return declare
