"""A run on disk, and the only code that knows how it is laid out.

<run>/config.yaml, provenance.json, metrics.jsonl, checkpoints/step_00000400/, analysis/*.parquet, report.html
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from workbench.config import RunConfig, read_config
from workbench.errors import CheckpointError, ConfigError, UsageError, WorkbenchError
from workbench.provenance import provenance
from workbench.storage import discard_parts, is_part, write_json, write_text
from workbench.tables import Tables

if TYPE_CHECKING:
    import pandas as pd
    from torch.optim import Optimizer

    from workbench.checkpoints import Checkpoint
    from workbench.model import HookedTransformer
    from workbench.tasks.base import Task

CONFIG, PROVENANCE, METRICS, LOCK = "config.yaml", "provenance.json", "metrics.jsonl", ".lock"
CHECKPOINTS, ANALYSIS, REPORT = "checkpoints", "analysis", "report.html"
KEPT_TRAINERS = 2
"""Newest checkpoints that keep the optimiser's state: one to resume from, one in reserve."""


class Run:
    """A folder with a configuration, its provenance, checkpoints over training, metrics and tables."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path, self.config = path, config
        self.tables = Tables(path / ANALYSIS)
        self._task: Task | None = None

    @classmethod
    def create(cls, path: str | Path, config: RunConfig, **origin: Any) -> Run:
        """Make a new run. `origin` (seeds, device, ...) is added to its provenance.

        With your own training loop: `run = Run.create("runs/x", RunConfig(model=...))`, then
        `run.save(step, model, optimizer)` and `run.log({...})`. Raises UsageError where the folder holds something.
        """
        path = Path(path)
        _require_free(path)
        discard_parts(path)
        write_json(path / PROVENANCE, provenance(**origin))
        # Last: a folder is a run from the moment it has a configuration.
        write_text(path / CONFIG, config.to_yaml())
        return cls(path, config)

    @classmethod
    def expected(cls, path: Path, config: RunConfig, *, resume: bool) -> Run | None:
        """The run at `path`, if it is the one of this configuration and may go on; None where a new one may begin.

        Raises UsageError where the folder holds something else, or this run and `resume` is false; ConfigError where
        it holds a run of another configuration (a dtype of auto fits any).
        """
        if not cls.is_run(path):
            _require_free(path)
            return None
        run = cls.load(path)
        if config.train is not None and run.config.train is not None and config.train.dtype == "auto":
            config = config.override(train={"dtype": run.config.train.dtype})
        if different := run.config.differences(config):
            raise ConfigError(f"{path} holds a run of another configuration ({'; '.join(different[:3])}); choose another folder")
        if not resume:
            raise UsageError(f"{path} already holds this run ({run.progress}); pass --resume to go on, or choose another folder")
        return run

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Open a run. Raises UsageError where the path is none, ConfigError where its configuration is damaged."""
        path = Path(path)
        if not path.exists():
            raise UsageError(f"there is no {path}")
        if not (path / CONFIG).is_file():
            raise UsageError(f"{path} is not a run: it has no {CONFIG}")
        return cls(path, read_config(path / CONFIG))

    @staticmethod
    def is_run(path: Path) -> bool:
        """Whether a folder is a run."""
        return (path / CONFIG).is_file()

    @staticmethod
    def of_checkpoint(path: str | Path) -> tuple[Run, int] | None:
        """The run and the step of a checkpoint's folder (or of a link to one, or from inside one); None for any other path."""
        path = Path(path)
        # A link to a checkpoint, or the folder one stands in, has its name elsewhere.
        place = path if path.name.startswith("step_") else path.resolve()
        folder = Path(os.path.normpath(place / ".." / ".."))
        step = re.fullmatch(r"step_(\d+)", place.name)
        return (Run.load(folder), int(step[1])) if step and Run.is_run(folder) else None

    @staticmethod
    def find(path: str | Path) -> list[Run]:
        """The run at `path`, or every run below it, in order of their paths."""
        path = Path(path)
        if Run.is_run(path):
            return [Run.load(path)]
        return [Run.load(config.parent) for config in sorted(path.rglob(CONFIG))]

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.config.model.variant}, seed {self.config.model.seed}, {len(self.steps)} checkpoints)"

    def _repr_html_(self) -> str:
        from workbench.representation import run_html

        return run_html(self)

    # What it is.

    @property
    def name(self) -> str:
        """A short label: the folder's name, or variant/seed_n inside a folder of several."""
        resolved = self.path.resolve()
        return f"{resolved.parent.name}/{resolved.name}" if re.fullmatch(r"seed_\d+", resolved.name) else resolved.name

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, source, machine, seeds, command; empty where the file is missing."""
        path = self.path / PROVENANCE
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError:
            raise CheckpointError(f"{path} is damaged: it is not readable JSON") from None

    @property
    def task(self) -> Task | None:
        """The task, made once; None for a run without one. Raises CheckpointError where a text it reads has changed
        since the run was made."""
        if self._task is None and self.config.task is not None:
            from workbench.tasks import make_task

            task = make_task(self.config.task)
            recorded = self.provenance.get("task_fingerprint")
            if recorded not in (None, task.fingerprint()):
                raise CheckpointError(
                    f"{self.path}: the data of its task have changed since it was made (another text, or another Python's prose)"
                )
            self._task = task
        return self._task

    # Checkpoints.

    @property
    def steps(self) -> list[int]:
        """The steps that are saved, ascending."""
        folder = self.path / CHECKPOINTS
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step_(\d{8,})", name)))

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        """The verified checkpoint of a step (default: the last). Raises UsageError for a step that is not saved,
        CheckpointError for a damaged one, one of another architecture, or one of another step under this step's name."""
        from workbench.checkpoints import Checkpoint

        steps = self.steps
        if not steps:
            raise UsageError(f"{self.path} has no checkpoints")
        if step is not None and step not in steps:
            raise UsageError(f"{self.path} has no checkpoint of step {step}; it has {_spelled(steps)}")
        checkpoint = Checkpoint.open(self._checkpoint_path(steps[-1] if step is None else step))
        if checkpoint.model_config != self.config.model:
            ours, theirs = self.config.model.to_dict(), checkpoint.model_config.to_dict()
            field = next(name for name in ours if ours[name] != theirs[name])
            raise CheckpointError(f"{checkpoint.path} is of another architecture: {field} is {theirs[field]}, the run has {ours[field]}")
        if checkpoint.path != self._checkpoint_path(checkpoint.step):
            raise CheckpointError(f"{checkpoint.path} holds step {checkpoint.step}; give the folder back its name, or delete it")
        return checkpoint

    def model(self, step: int | None = None, device: str = "cpu") -> HookedTransformer:
        """The model of a step (default: the last), in evaluation mode."""
        from workbench.model import HookedTransformer

        weights = self.checkpoint(step).weights()
        return HookedTransformer.from_state_dict(weights, self.config.model).to(device).eval()

    def load_weights(self, model: HookedTransformer, step: int) -> None:
        """Put the weights of a step into a model that is already there."""
        model.load_weights(self.checkpoint(step).weights())

    def save(
        self, step: int, model: HookedTransformer, optimizer: Optimizer | None = None, counters: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """Save a checkpoint, whole or not at all. With an optimiser, training can go on from it."""
        from workbench.checkpoints import write_checkpoint
        from workbench.optimizer_state import optimizer_tensors

        if model.config != self.config.model:
            raise UsageError("the model's configuration is not the run's")
        if step < 0:
            raise UsageError(f"a step is the number of updates done, at least 0, got {step}")
        trainer = None if optimizer is None else optimizer_tensors(optimizer, model)
        saved = write_checkpoint(self._checkpoint_path(step), step, model.config, model.state_dict(), trainer, counters)
        if trainer is not None:
            self._drop_trainers()
        return saved

    def _drop_trainers(self) -> None:
        from workbench.checkpoints import TRAINER, Checkpoint

        holding = [step for step in self.steps if (self._checkpoint_path(step) / TRAINER).exists()]
        for step in holding[:-KEPT_TRAINERS]:
            Checkpoint.open(self._checkpoint_path(step)).drop_trainer()

    def _checkpoint_path(self, step: int) -> Path:
        return self.path / CHECKPOINTS / f"step_{step:08d}"

    # Training metrics.

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl. After a crash, `rewind` comes first: it removes a line that was cut short."""
        try:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(row)) + "\n")
        except OSError as error:
            raise WorkbenchError(f"cannot write {self.path / METRICS}: {error.strerror}") from error

    def metrics(self) -> pd.DataFrame:
        """The logged rows, one a line; empty where nothing was logged. A last line cut short is left out."""
        import pandas as pd

        return pd.DataFrame(self.metric_rows())

    @property
    def finished(self) -> bool:
        """Whether training has reached its last step."""
        return self.config.train is not None and self.steps[-1:] == [self.config.train.steps]

    @property
    def progress(self) -> str:
        """How far training has come, in words."""
        steps = self.steps
        if self.config.train is None:
            return f"{len(steps)} checkpoints"
        return f"step {steps[-1] if steps else 0} of {self.config.train.steps}"

    def rewind(self, step: int) -> None:
        """Forget metrics logged after `step`, and what interrupted writes left behind, before training goes on.
        Rows without a step are kept."""
        rows = [row for row in self.metric_rows() if row.get("step", step) <= step]
        write_text(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in rows))
        for folder in (self.path, self.path / CHECKPOINTS):
            discard_parts(folder)
        self._drop_trainers()

    def metric_rows(self) -> list[dict[str, Any]]:
        """What `metrics` holds, as plain rows."""
        path = self.path / METRICS
        lines = path.read_bytes().splitlines() if path.is_file() else []
        rows = []
        for number, line in enumerate(lines):
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                if number != len(lines) - 1:
                    raise CheckpointError(f"{path}, line {number + 1}: damaged, not a JSON object") from None
        return rows

    # Tables and report.

    @property
    def report_path(self) -> Path:
        """Where the report of this run stands, unless it is sent elsewhere."""
        return self.path / REPORT

    def table(self, name: str) -> pd.DataFrame | None:
        """A table that an analysis wrote; None where there is none."""
        return self.tables.read(name)

    def summary(self) -> dict[str, Any] | None:
        """What the analysis said in words and numbers; None before the first analysis."""
        return self.tables.read_summary()

    def analyze(self, only: str | Iterable[str] | None = None, *, steps: Sequence[int] | None = None, **options: Any) -> pd.DataFrame:
        """Measure this run and write its tables: `analyze(run, ...)` with all of its options (workbench.analysis.sweep)."""
        from workbench.analysis.sweep import analyze

        return analyze(self, only=only, steps=steps, **options)

    def attention(self, step: int | None = None, sequence: int = 0) -> pd.DataFrame:
        """Every head's pattern on one sequence at any saved step (default: the last), analysed or not: the table that the figures of
        attention take. See workbench.analysis.attention_at for its columns."""
        from workbench.analysis.attention_at import attention_at

        return attention_at(self, step, sequence)

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report of this run as one HTML file (default: report.html in its folder), and give its path.

        Raises UsageError where the run has not been analysed.
        """
        if self.summary() is None:
            raise UsageError(f"{self.path} has not been analysed; call run.analyze() first")
        from workbench.report.build import write_report

        return write_report([self], self.report_path if out is None else Path(out))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Claim the run for writing, for the length of a `with`; the claim ends with the process, however it ends.
        Raises UsageError where another process has it."""
        claim = filelock.FileLock(self.path / LOCK)
        try:
            claim.acquire(timeout=0)
        except filelock.Timeout:
            raise UsageError(f"{self.path} is in use by another process; wait for it, or choose another folder") from None
        except OSError as error:
            raise WorkbenchError(f"cannot write to {self.path}: {error.strerror}") from error
        try:
            yield
        finally:
            claim.release()


def _require_free(path: Path) -> None:
    """Raise UsageError where a folder holds something. A creation that was cut short left no configuration and can be
    done again."""
    ours = {LOCK, PROVENANCE}
    if path.exists() and (not path.is_dir() or any(entry.name not in ours and not is_part(entry) for entry in path.iterdir())):
        raise UsageError(f"{path} already exists and is not empty; choose another folder")


def _spelled(steps: Iterable[int]) -> str:
    """Steps for an error message: all of a few, the ends of many."""
    steps = list(steps)
    return ", ".join(map(str, steps)) if len(steps) <= 8 else f"{len(steps)} from {steps[0]} to {steps[-1]}"
