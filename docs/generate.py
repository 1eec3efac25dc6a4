"""Writes docs/metrics.md and the tables of docs/tasks.md from the code: `python docs/generate.py`.

What a metric means stands in its docstring, what an option means below its field: here they are only put into tables. In tasks.md
the text between `<!-- generated: NAME -->` and `<!-- end -->` is replaced, all else stays.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from workbench.analysis.metrics import Metric
from workbench.analysis.sections import AMICL, EMERGENCE, SECTIONS, all_metrics
from workbench.preset import presets
from workbench.tasks.configs import TASK_CONFIGS, TaskConfig

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
GENERATED = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", flags=re.DOTALL)

METRICS_HEAD = """# Metrics

*Made by `python docs/generate.py` from the metrics' docstrings and declarations; change those.*

Every number in a table is the value of one of these functions: tensors in, a value or a mean over sequences with its 95% interval
out. A row is named by the metric, and by the run, variant, task, seed, step, layer and head that it is of; what `part`, `condition`
and `baseline` say of a metric stands in its docstring, as does a worked example. `workbench metrics` prints the same list,
`workbench metrics --json` gives it to scripts, and `workbench analyze RUN --only NAME,...` measures some, by their names or by
section; those of `amicl` come from `workbench amicl`.
In formulas A is an attention pattern, z the tokens, p the model's prediction, t and s positions; t is *answered* where the
context has already shown the next token, *unanswerable* where only what was learnt in training can tell it.
"""


def main() -> None:
    """Write both pages."""
    (DOCS / "metrics.md").write_text(metrics_page(), encoding="utf-8")
    tasks = DOCS / "tasks.md"
    tasks.write_text(tasks_page(tasks.read_text(encoding="utf-8")), encoding="utf-8")


def metrics_page() -> str:
    """The page of all metrics, section by section."""
    homes = {**SECTIONS, EMERGENCE: "workbench.analysis.emergence", AMICL: "workbench.amicl.accuracy"}
    found = all_metrics().values()
    parts = [METRICS_HEAD]
    for section, module in homes.items():
        rows = [_metric_row(metric) for metric in sorted((m for m in found if m.section == section), key=_place)]
        about = _first_sentence(importlib.import_module(module).__doc__ or "")
        parts += [f"## {section}\n", f"{about}\n", table(("metric", "one a", "what it says", "formula", "range", "source"), rows)]
    return "\n".join(parts)


def tasks_page(text: str) -> str:
    """The page of tasks with its tables made anew. Raises KeyError for a table that there is not."""
    tables = task_tables()
    return GENERATED.sub(lambda match: f"{match[1]}{tables[match[2]]}{match[3]}", text)


def task_tables() -> dict[str, str]:
    """The tables of tasks.md by name: the options and the presets of each task."""
    tables: dict[str, str] = {}
    for name, kind in TASK_CONFIGS.items():
        tables[f"options of {name}"] = table(("option", "default", "values", "meaning"), _option_rows(kind))
        tables[f"presets of {name}"] = table(("preset", "its task", "its model", "its training"), _preset_rows(name))
    return tables


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(("a", "b"), [("1", "x | y")]), end="")
    | a | b |
    |---|---|
    | 1 | x \\| y |
    """
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"|{'|'.join(line)}|\n" if set(line) == {"---"} else f"| {' | '.join(line)} |\n" for line in lines)


def field_docs(kind: type) -> dict[str, str]:
    """What stands below each field of a dataclass, in one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = ast.literal_eval(below.value)
            found[field.target.id] = " ".join(text.split())
    return found


def _metric_row(metric: Metric) -> tuple[str, ...]:
    file = metric.function.__module__.replace(".", "/") + ".py"
    return f"[{metric.name}](../{file})", metric.kind, metric.summary, f"`{metric.formula}`", metric.range, metric.source


def _place(metric: Metric) -> tuple[str, int]:
    """Where a metric stands in the code: its order does not depend on which module was imported first."""
    return metric.function.__module__, inspect.unwrap(metric.function).__code__.co_firstlineno


def _option_rows(kind: type[TaskConfig]) -> list[tuple[str, ...]]:
    docs, hints = field_docs(kind), get_type_hints(kind)
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    return [
        (f"`--task.{field.name.replace('_', '-')}`", f"`{_shown(field.default)}`", _values(hints[field.name]), docs[field.name])
        for field in fields
        if field.name != "name"
    ]


def _values(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_args(hint):
        return " or ".join(_values(part) for part in get_args(hint))
    return {int: "integer", float: "number", bool: "`true`, `false`", str: "text", type(None): "`none`"}[hint]


def _preset_rows(task: str) -> list[tuple[str, ...]]:
    rows = []
    for name, config in presets.items():
        if config.task is None or config.train is None or config.task.name != task:
            continue
        model, train = config.model, config.train
        sizes = f"{_count(model.n_layers, 'layer')}, {_count(model.n_heads, 'head')}, d_model {model.d_model}, n_ctx {model.n_ctx}"
        kind = "a classifier" if model.readout == "classifier" else "attention only" if model.attn_only else "with MLPs"
        training = f"{train.steps} steps of {train.batch_size}, {train.optimizer} {train.lr:g}"
        rows.append((f"`{name}`", _changed(config.task), f"{sizes}, {kind}", training))
    return rows


def _changed(config: TaskConfig) -> str:
    default = type(config)()
    changed = [
        f"`{name}: {_shown(value)}`" for name, value in config.to_dict().items() if name != "name" and value != getattr(default, name)
    ]
    return ", ".join(changed) or "as by default"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def _shown(value: Any) -> str:
    """A value as the command line and YAML take it."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _first_sentence(docstring: str) -> str:
    """The first sentence without its citations, and without the name of the section, which the heading gives."""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    bare = re.sub(r"\s*\([^()]*\)", "", re.sub(r"^The section `\w+`: ", "", paragraph))
    sentence = re.split(r"(?<=[.?])\s", bare)[0]
    return sentence[0].upper() + sentence[1:]


if __name__ == "__main__":
    main()
