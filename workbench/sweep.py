"""Variants x seeds x any configuration fields, trained on this machine or on a Slurm cluster through submitit: one code path.

A sweep is a folder of ordinary runs, OUT/<variant>/<field=value,...>/seed_<n>, and a table with one row for each. What the table says
is read off the runs, so a sweep that was stopped goes on where it stood: finished members are never trained again, unfinished ones
resume from their last checkpoint, failed ones are tried again.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from workbench.config import RunConfig, read_config
from workbench.config_file import parsed_yaml, read_text
from workbench.errors import ConfigError, UsageError, WorkbenchError, unknown_name
from workbench.preset import preset
from workbench.processes import shares
from workbench.runs import Run
from workbench.tables import Tables
from workbench.training.ensemble import seeds_of
from workbench.variant import variant_fields

SECTIONS = ("task", "model", "train")
KEYS = ("preset", "config", "stream", "seeds", "vary", "set", "cluster")
JOBS = ".submitit"
"""the private folder of submitit's own files, which hold pickles of ours alone"""
TABLE = "sweep"
MINUTES = 24 * 60
"""a job's time limit, where the file gives none"""
POLL = 0.2
"""seconds between two looks at the jobs"""


@dataclass(frozen=True)
class Member:
    """One run of a sweep: its configuration, its folder inside the sweep, and the values that tell it from the others."""

    config: RunConfig
    folder: str
    varied: Mapping[str, Any]

    def finished(self, out: Path) -> bool:
        """Whether its run is there and trained to the end. Raises ConfigError where the folder holds another run."""
        run = Run.expected(out / self.folder, self.config, resume=True)
        return run is not None and run.finished


@dataclass(frozen=True)
class Sweep:
    """What to train."""

    base: RunConfig
    streams: tuple[str, ...] = ("none",)
    seeds: tuple[int, ...] = (0,)
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """a field such as "train.batch_size" -> its values"""
    cluster: Mapping[str, Any] = field(default_factory=dict)
    """submitit's parameters, such as slurm_partition or timeout_min"""

    @classmethod
    def from_yaml(cls, path: Path) -> Sweep:
        """Read a sweep's file: preset (or config, a file), stream, seeds, vary, set, cluster. Raises ConfigError for what it cannot be."""
        values = parsed_yaml(read_text(path, "sweep"), str(path))
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path}: expected a mapping of {', '.join(KEYS)}, got {values!r}")
        for key in values:
            if key not in KEYS:
                raise ConfigError(f"{path}: {unknown_name('field', str(key), KEYS)}")
        if ("preset" in values) == ("config" in values):
            raise ConfigError(f"{path}: give preset (workbench presets lists them) or config (a file), one of the two")
        base = preset(str(values["preset"])) if "preset" in values else read_config(path.parent / str(values["config"]))
        base = _changed(base, _fields(path, "set", values.get("set")))
        vary = {name: _values(path, name, several) for name, several in _fields(path, "vary", values.get("vary")).items()}
        made = cls(
            base, _streams(path, values.get("stream", "none")), _seeds(path, values.get("seeds", 0)), vary, values.get("cluster") or {}
        )
        made.members()  # says what does not fit together before anything is trained
        return made

    def members(self) -> list[Member]:
        """Every run, seed by seed, so that a sweep that was stopped has as many seeds of each cell. Raises ConfigError where values do
        not fit together."""
        if self.base.train is None or self.base.task is None:
            raise ConfigError("sweep: the configuration needs the sections task and train")
        found = []
        for seed, stream, values in itertools.product(self.seeds, self.streams, itertools.product(*self.vary.values())):
            varied = dict(zip(self.vary, values, strict=True))
            config = _changed(self.base.override(model=variant_fields(stream)), varied)
            config = config.override(model={"seed": seed}, train={"data_seed": seed})
            cell = ",".join(f"{name}={value}" for name, value in varied.items())
            folder = "/".join(part for part in (config.model.variant, cell.replace("/", "_"), f"seed_{seed}") if part)
            found.append(Member(config, folder, varied))
        return found


def run_sweep(
    sweep: Sweep, out: Path, *, where: str = "local", jobs: int | None = None, device: str = "auto", progress: bool = True
) -> pd.DataFrame:
    """Train what is not finished, and give the table of all members (`table_of`), which is also written to `out`.

    `where` is "local" or "slurm"; `jobs` is how many run at a time (default: here, the processors; on Slurm, all). A member that fails does
    not stop the others. Ctrl-C stops all of them, each after a checkpoint.

    Raises UsageError for an unknown place or number, ConfigError where a folder holds another run.
    """
    members = sweep.members()
    if where not in ("local", "slurm"):
        raise unknown_name("cluster", where, ("local", "slurm"))
    at_once, threads = shares(jobs, len(members)) if where == "local" else (jobs or len(members), None)
    waiting = [member for member in members if not member.finished(out)]
    errors: dict[str, str] = {}
    bar = tqdm(
        total=len(members), initial=len(members) - len(waiting), desc="sweep", unit="run", disable=not progress, file=sys.stderr,
        mininterval=0.1 if sys.stderr.isatty() else 20,
    )  # fmt: skip
    try:
        if waiting:
            with bar:
                for member, error in _trained(waiting, out, _executor(sweep, out, where, at_once), at_once, device, threads):
                    bar.update()
                    if error is not None:
                        errors[member.folder] = error
                        bar.write(f"{member.folder}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        done = sum(member.finished(out) for member in members)
        raise KeyboardInterrupt(f"stopped: {done} of {len(members)} runs are done; the same command goes on") from None
    finally:
        table = table_of(members, out, errors)
        Tables(out).write(TABLE, table)
    return table


def train_member(config: str, path: str, device: str, threads: int | None) -> None:
    """Train one member, in a job of its own; it goes on where it stood."""
    import torch

    from workbench.training.loop import train

    if threads is not None:
        torch.set_num_threads(threads)
    train(RunConfig.from_yaml(config), path, resume=True, device=device, progress=False)


def table_of(members: Sequence[Member], out: Path, errors: Mapping[str, str] = {}) -> pd.DataFrame:
    """A row for each member: run (its folder), variant, seed, the varied fields, status (finished, failed, unfinished), step (trained so
    far), formed_step (the first evaluation with an in-context accuracy of 0.95; nan where there is none), in_context_accuracy and loss of
    the last evaluation (of a task that asks for numbers: no formed_step, and loss, in_context_loss and excess_loss), error."""
    from workbench.analysis.emergence import ACCURACY, first_reached

    # A sweep of tasks that ask for numbers has no accuracy, and so no step at which it formed.
    numbers = any(member.config.task is not None and member.config.task.asks_numbers for member in members)
    measured = ["loss", "in_context_loss", "excess_loss"] if numbers else ["in_context_accuracy", "loss"]
    rows = []
    for member in members:
        row: dict[str, Any] = {"run": member.folder, "variant": member.config.model.variant, "seed": member.config.model.seed}
        row |= {**member.varied, "status": "unfinished", "step": 0, "error": errors.get(member.folder, "")}
        path = out / member.folder
        if Run.is_run(path):
            run = Run.load(path)
            metrics = run.metrics()
            if len(metrics):
                last = metrics.iloc[-1]
                row |= {"step": int(last["step"])} | {name: last[name] for name in measured}
                if not numbers:
                    formed = first_reached(metrics["step"].tolist(), metrics["in_context_accuracy"].fillna(0).tolist(), ACCURACY)
                    row |= {"formed_step": float("nan") if formed is None else float(formed)}
            row["status"] = "finished" if member.finished(out) else "unfinished"
        if row["error"]:
            row["status"] = "failed"
        rows.append(row)
    columns = ["run", "variant", "seed", *(members[0].varied if members else ()), "status", "step", *([] if numbers else ["formed_step"])]
    return pd.DataFrame(rows).reindex(columns=[*columns, *measured, "error"])


def _executor(sweep: Sweep, out: Path, where: str, at_once: int) -> Any:
    """submitit's executor, with a new folder in one that nobody else enters: a result that lay there before is never opened."""
    import submitit

    private = out / JOBS
    private.mkdir(parents=True, exist_ok=True)
    private.chmod(0o700)
    folder = tempfile.mkdtemp(dir=private)
    parameters = {"timeout_min": MINUTES, **sweep.cluster}
    if where == "slurm":
        parameters.setdefault("slurm_array_parallelism", at_once)
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=where)
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
        raise UsageError(f"submitit refuses the cluster {where} with {parameters}: {str(error).splitlines()[0]}") from error
    return executor


def _trained(
    members: Sequence[Member], out: Path, executor: Any, at_once: int, device: str, threads: int | None
) -> Iterator[tuple[Member, str | None]]:
    """Each member as it ends, with what went wrong; at most so many jobs at a time."""
    queue, running = list(members), {}
    try:
        while queue or running:
            while queue and len(running) < at_once:
                member = queue.pop(0)
                arguments = (member.config.to_yaml(), str((out / member.folder).resolve()), device, threads)
                with _silent():
                    running[executor.submit(train_member, *arguments)] = member
            ended = [job for job in running if job.done()]
            for job in ended:
                yield running.pop(job), _error(job)
            if not ended:
                time.sleep(POLL)
    finally:
        for job in running:
            job.cancel()
        for job in running:
            _wait(job)


@contextmanager
def _silent() -> Iterator[None]:
    """A process that is started meanwhile has no stderr: what a job says is in submitit's own files, and the process that submitit puts
    around it would answer Ctrl-C with a traceback."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _error(job: Any) -> str | None:
    """What a job died of, in one line; None where it ended well."""
    try:
        error = job.exception()
    except Exception as unreadable:  # submitit's own errors for jobs that left no result
        error = unreadable
    if error is None:
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # submitit wraps the traceback as text: its last line is the error itself.
    named = [line for line in lines if line.startswith("workbench.errors.") or "Error: " in line]
    said = named[-1] if named else (lines[-1] if lines else type(error).__name__)
    return said.removeprefix("workbench.errors.")[:300]


def _wait(job: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not job.done() and time.monotonic() < deadline:
        time.sleep(POLL)


def _changed(config: RunConfig, fields: Mapping[str, Any]) -> RunConfig:
    """The configuration with fields such as "train.lr" changed, all at once: they may only fit together."""
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for name, value in fields.items():
        section, dot, key = name.partition(".")
        if not dot or section not in SECTIONS:
            raise ConfigError(f"sweep: {name!r} is no field; expected one such as train.lr, with task., model. or train. in front")
        sections[section][key] = tuple(value) if isinstance(value, list) else value
    return config.override(**sections)


def _fields(path: Path, key: str, values: Any) -> dict[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: {key}: expected fields such as train.lr with their values, got {values!r}")
    return {str(name): value for name, value in values.items()}


def _values(path: Path, name: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{path}: vary: {name}: expected a list of values, got {values!r}")
    if len({str(value) for value in values}) < len(values):
        raise ConfigError(f"{path}: vary: {name}: a value stands twice in {values}")
    return tuple(values)


def _streams(path: Path, values: Any) -> tuple[str, ...]:
    names = [part.strip() for part in values.split(",")] if isinstance(values, str) else values
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: stream: expected a list of variants such as [none, value], got {values!r}")
    return tuple(dict.fromkeys(names))


def _seeds(path: Path, values: Any) -> tuple[int, ...]:
    seeds = seeds_of(values) if isinstance(values, str) else [values] if isinstance(values, int) else values
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    ):
        raise ConfigError(f"{path}: seeds: expected a list such as [0, 1, 2], or a range such as 0:4, got {values!r}")
    return tuple(dict.fromkeys(seeds))


def failures(table: pd.DataFrame) -> list[str]:
    """The members that failed, with their errors, in a line each."""
    failed = table[table["status"] == "failed"]
    return [f"{row.run}: {row.error}" for row in failed.itertuples()]


class Incomplete(WorkbenchError):
    """Some members of a sweep failed; the others are trained."""
