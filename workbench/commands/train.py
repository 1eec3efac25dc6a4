"""`workbench train`"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from workbench.config import RunConfig, read_config
from workbench.errors import UsageError, unknown_name
from workbench.preset import preset as named_preset
from workbench.runs import Run
from workbench.training.ensemble import Engine, Member, seeds_of
from workbench.variant import variant_fields

Fields = dict[str, str] | None
"""Options with a dot: --model.d-model 128 gives {"d-model": "128"}."""


def train(
    preset: Annotated[str | None, Parameter(help="where to start: a name that `workbench presets` lists")] = None,
    *,
    stream: Annotated[
        str | None, Parameter(help="none, query, key or value, with suffixes; several: none,value,value-detached,none-rotary")
    ] = None,
    stream_source: Annotated[Literal["previous", "accumulated", "first"] | None, Parameter(help="where the stream comes from")] = None,
    seed: Annotated[int | None, Parameter(help="seed of weights and training data")] = None,
    seeds: Annotated[str | None, Parameter(help="several seeds: 0:8 (0 to 7) or 1,5,9")] = None,
    steps: Annotated[int | None, Parameter(help="optimiser updates")] = None,
    lr: Annotated[str | None, Parameter(help="learning rate; several, each with every variant and seed: 1e-3,3e-3,1e-2")] = None,
    out: Annotated[Path | None, Parameter(help="folder of the run; of several runs, the folder they go into")] = None,
    config: Annotated[Path | None, Parameter(help="a YAML file in place of a preset")] = None,
    device: Annotated[str, Parameter(help="auto, cpu or cuda")] = "auto",
    dtype: Annotated[Literal["auto", "fp32", "bf16"] | None, Parameter(help="arithmetic; auto: bf16 where the hardware has it")] = None,
    resume: Annotated[bool, Parameter(help="go on from the last checkpoint of a run that is there")] = False,
    jobs: Annotated[int | None, Parameter(help="runs trained at once, as processes that share the cores; default: the cores")] = None,
    engine: Annotated[
        Engine, Parameter(help="several runs as processes, or those of one shape stacked into one program; auto: stacked on a GPU")
    ] = "auto",
    json_output: Annotated[bool, Parameter(name="--json", help="print the runs' folders as JSON")] = False,
    task: Annotated[Fields, Parameter(help="any field of the task: --task.n-triggers 8")] = None,
    model: Annotated[Fields, Parameter(help="any field of the model: --model.d-model 128")] = None,
    train_: Annotated[Fields, Parameter(name="--train", help="any field of the training: --train.lr 1e-3")] = None,
) -> None:
    """Train a preset (or a configuration file), in one or several variants and seeds.

    One run goes to OUT itself; several go to OUT/<variant>/seed_<n>, of several learning rates to
    OUT/<variant>/lr_<value>/seed_<n>. Without --out, runs go to runs/<preset>/... .
    `workbench presets NAME` prints every field that --task., --model. and --train. can change.
    """
    start = _start(preset, config)
    start = start.override(**known_fields(start, task=task, model=model, train=train_))
    if steps is not None:
        start = start.override(train={"steps": steps})
    if dtype is not None:
        start = start.override(train={"dtype": dtype})
    if stream_source is not None:
        start = start.override(model={"stream_source": stream_source})
    if lr is not None and "lr" in (train_ or {}):
        raise UsageError("give --lr or --train.lr, not both")
    members = plan(start, _streams(stream, start), _seeds(seed, seeds), out, Path("runs") / (preset or "custom"), rates=_rates(lr))

    from workbench.training.ensemble import train_members

    def told(member: Member) -> None:
        run = Run.load(member.path)
        last = run.metrics().iloc[-1]
        if run.config.task is not None and run.config.task.asks_numbers:
            values = f"in-context loss {last['in_context_loss']:.3f}, loss {last['loss']:.3f} (squared errors)"
        else:
            values = f"in-context accuracy {last['in_context_accuracy']:.3f}, loss {last['loss']:.3f} nats"
        print(f"{run.path}: step {int(last['step'])}, {values}")

    train_members(members, device=device, jobs=jobs, engine=engine, resume=resume, trained=(lambda _: None) if json_output else told)
    if json_output:
        print(json.dumps({"runs": [str(member.path) for member in members]}))


def plan(
    start: RunConfig,
    streams: list[str],
    seeds: list[int | None],
    out: Path | None,
    default: Path,
    rates: Sequence[float | None] = (None,),
) -> list[Member]:
    """The runs of a call, each with its folder. A seed sets the seeds of weights and of training data together;
    evaluation data stay the same for all. Several learning rates have a folder each below their variant."""
    alone = len(streams) == len(seeds) == len(rates) == 1 and out is not None
    members = []
    for stream, rate, seed in itertools.product(streams, rates, seeds):
        config = start.override(model=variant_fields(stream))
        if seed is not None:
            config = config.override(model={"seed": seed}, train={"data_seed": seed})
        if rate is not None:
            config = config.override(train={"lr": rate})
        folder = out or default
        if not alone:
            below = [f"lr_{rate:g}"] if len(rates) > 1 else []
            folder = folder.joinpath(config.model.variant, *below, f"seed_{config.model.seed}")
        members.append(Member(config, folder))
    return list(dict.fromkeys(members))  # two names may stand for one variant: none, none-standard


def _rates(text: str | None) -> list[float | None]:
    """The learning rates of --lr; None leaves the configuration's. Rates that would share a folder's name are one too many."""
    if text is None:
        return [None]
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--lr expects one learning rate or several such as 1e-3,3e-3,1e-2, got {text!r}") from None
    distinct = list(dict.fromkeys(rates))
    if len({f"{rate:g}" for rate in distinct}) < len(distinct):
        raise UsageError(f"--lr has two rates that agree in six digits, got {text!r}")
    return list(distinct)


def _start(preset: str | None, config: Path | None) -> RunConfig:
    if (preset is None) == (config is None):
        raise UsageError(
            "give a preset (workbench presets lists them) or --config FILE, not both"
            if preset
            else "give a preset, such as trigger-bigram, or --config FILE"
        )
    if config is not None:
        return read_config(config)
    assert preset is not None
    return named_preset(preset)


def known_fields(start: RunConfig, **given: dict[str, str] | None) -> dict[str, dict[str, Any]]:
    """The fields that options such as --task.n-triggers 8 change. Raises UsageError, with the nearest names, for others."""
    changes: dict[str, dict[str, Any]] = {}
    for section, options in given.items():
        if not options:
            continue
        if getattr(start, section) is None:
            raise UsageError(f"--{section}. options need a configuration with a {section} section")
        known = {field.name: str(field.type) for field in fields(getattr(start, section))}
        for option, value in options.items():
            name = option.replace("-", "_")
            if name not in known:
                raise unknown_name("option", f"--{section}.{option}", [f"--{section}.{field.replace('_', '-')}" for field in known])
            changes.setdefault(section, {})[name] = _value(value, known[name])
    return changes


def _value(text: str, kind: str) -> Any:
    """Text of the command line; for a field that is a list, its parts between commas."""
    if not kind.startswith("tuple") or text == "none":
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _streams(text: str | None, start: RunConfig) -> list[str]:
    streams = [start.model.stream] if text is None else [part.strip() for part in text.split(",")]
    return list(dict.fromkeys(streams))


def _seeds(seed: int | None, seeds: str | None) -> list[int | None]:
    if seeds is None:
        return [seed]
    if seed is not None:
        raise UsageError("give --seed or --seeds, not both")
    several = seeds_of(seeds)
    if not several:
        raise UsageError(f"--seeds expects a range such as 0:8 or a list such as 1,5,9, got {seeds!r}")
    return list(several)
