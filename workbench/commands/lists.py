"""`workbench presets`, `workbench tasks`, `workbench metrics`: what there is, one line each."""

from __future__ import annotations

import inspect
import json
from typing import Annotated

from cyclopts import Parameter

from workbench.preset import preset
from workbench.preset import presets as all_presets
from workbench.tasks.configs import TASK_CONFIGS

Json = Annotated[bool, Parameter(name="--json", help="as JSON")]


def presets(
    name: Annotated[str | None, Parameter(help="print this preset, every field, as YAML")] = None, *, json_output: Json = False
) -> None:
    """List the presets; with a name, print its whole configuration (which `workbench train --config` reads)."""
    if name is not None:
        chosen = preset(name)
        print(json.dumps(chosen.to_dict(), indent=2) if json_output else chosen.to_yaml().rstrip("\n"))
        return
    if json_output:
        print(json.dumps({name: config.to_dict() for name, config in all_presets.items()}, indent=2))
        return
    for name, config in all_presets.items():
        model, train = config.model, config.train
        assert config.task is not None and train is not None
        data = f"{config.task.name}, {config.task.seq_len} {'tokens' if config.task.d_input is None else 'vectors'}"
        sizes = f"{model.n_layers} layers, {model.n_heads} head{'s' * (model.n_heads > 1)}, d_model {model.d_model}"
        print(f"{name:<22} {data}; {sizes}; {train.steps} steps of {train.batch_size}, {train.optimizer} {train.lr:g}")


def tasks(*, json_output: Json = False) -> None:
    """List the tasks and what they are."""
    about = {name: " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split()) for name, kind in TASK_CONFIGS.items()}
    if json_output:
        print(json.dumps(about, indent=2))
        return
    for name, text in about.items():
        print(f"{name:<26} {text}")


def metrics(*, json_output: Json = False) -> None:
    """List every metric with its section, range, source and meaning."""
    from workbench.analysis.sections import all_metrics

    found = all_metrics().values()
    if json_output:
        facts = ("section", "kind", "formula", "range", "source", "summary")
        rows = {m.name: {fact: getattr(m, fact) for fact in facts} for m in found}
        print(json.dumps(rows, indent=2))
        return
    for m in found:
        print(f"{m.section} · {m.name} (one a {m.kind}; {m.range}; {m.source})\n    {m.summary}\n    = {m.formula}")
