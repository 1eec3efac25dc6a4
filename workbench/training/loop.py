"""The training loop: from a configuration to a run, or on from where a run stopped."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from workbench.config import RunConfig, TrainConfig
from workbench.errors import ConfigError, DivergedError
from workbench.evaluation import Evaluation, evaluate, masked_mean, summary_values
from workbench.model import HookedTransformer
from workbench.optimizer_state import restore_optimizer
from workbench.runs import Run
from workbench.tasks.base import Batch, Split
from workbench.tasks.draw import TrainingBatches, generator
from workbench.training.hardware import arithmetic, resolve_device, resolve_dtype
from workbench.training.interrupt import stop_on_interrupt
from workbench.training.optimizer import make_optimizer
from workbench.training.schedule import checkpoint_steps, learning_rate


class Interrupted(KeyboardInterrupt):
    """Training stopped, with a checkpoint, because the user asked it to."""


@dataclass
class Counters:
    """What the loop carries from step to step beside weights and optimiser; saved with each checkpoint."""

    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    watch: Callable[[int, str], bool] | None = None,
) -> Run:
    """Train a model and give the run in the folder `out`.

    With `resume`, a run that is there goes on from its last checkpoint, as if it had never stopped (on a CPU in fp32
    bit for bit), and a folder without a run is started. The first Ctrl-C saves a checkpoint and raises Interrupted.
    `watch` is told the step, and the last evaluation in words, after each update; where it answers True, the same happens.

    Raises:
        UsageError: the folder holds something else, this run already (without `resume`), or is in use.
        ConfigError: the folder holds a run of another configuration, or a section is missing.
        DivergedError: the loss or a weight is not finite; the last good checkpoint is kept.
    """
    if config.task is None or config.train is None:
        raise ConfigError("run: training needs the sections task and train")
    device = resolve_device(device)
    run = open_run(config, Path(out), resume=resume, device=device)
    with run.lock():
        trainer = Trainer(run, device)
        trainer.restore()
        trainer.train(progress, watch)
    return run


def open_run(config: RunConfig, out: Path, *, resume: bool, device: str) -> Run:
    """The run at `out` that may go on, or a new one. Its arithmetic is settled here, so that it goes on in the same on another
    machine. Raises UsageError and ConfigError as `train` does."""
    from workbench.tasks import make_task

    if run := Run.expected(out, config, resume=resume):
        return run
    assert config.task is not None and config.train is not None
    fingerprint = make_task(config.task).fingerprint()
    config = config.override(train={"dtype": resolve_dtype(config.train.dtype, device)})
    return Run.create(out, config, device=device, threads=torch.get_num_threads(), task_fingerprint=fingerprint)


def loss_arguments(config: TrainConfig, batch: Batch) -> dict[str, Tensor]:
    """What the model is called with for its loss on a batch, by the name of the argument."""
    mask = batch.answered if config.loss_on == "answered" else batch.asked
    named = {"targets": batch.targets, "values": batch.values, "loss_mask": mask}
    return batch.model_inputs | {name: tensor for name, tensor in named.items() if tensor is not None}


class Trainer:
    """A run being trained: model, optimiser, data, and where it stands."""

    def __init__(self, run: Run, device: str) -> None:
        assert run.config.train is not None and run.task is not None
        self.run, self.device = run, device
        self.config: TrainConfig = run.config.train
        self.model = HookedTransformer(run.config.model).to(device)
        self.optimizer = make_optimizer(self.config, self.model)
        self.batches = TrainingBatches(run.task, self.config.batch_size, self.config.data_seed)
        self.held_out: Batch = run.task.sample(self.config.eval_size, generator(self.config.eval_seed, "evaluate"))
        self.evaluations: dict[str, Batch] = {
            name: run.task.sample(self.config.eval_size, generator(self.config.eval_seed, "evaluate", index), cast(Split, split))
            for index, (name, split) in enumerate(run.task.config.evaluations.items(), start=1)
        }
        self.step, self.counters = 0, Counters()
        self._saves = set(checkpoint_steps(self.config))
        self.evaluated = ""
        """the last evaluation, in words"""

    def restore(self) -> None:
        """Go back to the run's last checkpoint, or to the beginning where none was reached."""
        if not self.run.steps:
            self.run.rewind(-1)
            return
        checkpoint = self.run.checkpoint()
        self.model.load_weights(checkpoint.weights())
        tensors, counters = checkpoint.trainer()
        restore_optimizer(self.optimizer, self.model, tensors)
        self.step, self.counters = checkpoint.step, Counters(**counters)
        self.run.rewind(self.step)

    def train(self, progress: bool = True, watch: Callable[[int, str], bool] | None = None) -> None:
        """Make the updates that are left."""
        self.begin()
        with stop_on_interrupt() as wish, self._random_state(), self._bar(progress) as bar:
            while self.step < self.config.steps:
                self._update()
                bar.update()
                if self.evaluation_due:
                    self._evaluate()
                    bar.set_postfix_str(self.evaluated)
                if watch is not None and watch(self.step, self.evaluated):
                    wish.set()
                self.save_where_due(wish.is_set())

    def begin(self) -> None:
        """What comes before the first update: step 0 is evaluated and saved."""
        if not self.run.steps:
            self._evaluate()
            self._save()
        self.model.train()

    @property
    def evaluation_due(self) -> bool:
        """Whether the state after this update is to be logged."""
        return self.step % self.config.eval_every == 0 or self.step == self.config.steps

    def save_due(self, stopping: bool) -> bool:
        """Whether the state after this update is to be saved."""
        return stopping or self.step in self._saves

    def save_where_due(self, stopping: bool) -> None:
        """Save after an update where the schedule says so, or to stop here. Raises Interrupted where that leaves updates undone."""
        if self.save_due(stopping):
            self._save()
        if stopping and self.step < self.config.steps:
            raise Interrupted(f"stopped at step {self.step} of {self.config.steps}")

    def _update(self) -> None:
        started = time.perf_counter()
        batch = self.batches[self.step].to(self.device)
        if self.run.config.model.dropout:
            torch.manual_seed(int(generator(self.config.data_seed, "dropout", self.step).integers(2**63)))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        with arithmetic(self.config.dtype, self.device):
            loss = self.model(**loss_arguments(self.config, batch), return_type="loss")
        value = loss.item()
        self.require_finite(value, "the loss")
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.count(value, time.perf_counter() - started)

    def count(self, loss: float, seconds: float) -> None:
        """One more update has been made."""
        self.step += 1
        self.counters.loss_sum += loss
        self.counters.loss_count += 1
        self.counters.seconds += seconds

    @property
    def evaluated_on(self) -> list[Batch]:
        """The batches of an evaluation."""
        return [self.held_out, *self.evaluations.values()]

    def _evaluate(self) -> None:
        self.log([evaluate(self.model, batch) for batch in self.evaluated_on])

    def log(self, evaluations: Sequence[Evaluation]) -> None:
        """Log the state of training, as the model was found on the batches of `evaluated_on`."""
        values = summary_values(evaluations[0], self.held_out)
        for (name, batch), found in zip(self.evaluations.items(), evaluations[1:], strict=True):
            if batch.values is None:
                values[f"{name}_accuracy"] = masked_mean(found.correct, batch.predicted)
            values[f"{name}_loss"] = masked_mean(found.losses, batch.predicted)
        train_loss = self.counters.loss_sum / self.counters.loss_count if self.counters.loss_count else None
        self.counters.loss_sum, self.counters.loss_count = 0.0, 0
        measured = {"train_loss": train_loss, "lr": learning_rate(self.config, self.step), **values}
        row = {name: _finite(value) for name, value in measured.items()}
        self.run.log({"step": self.step, **row, "seconds": round(self.counters.seconds, 4)})
        name = "in_context_accuracy" if "in_context_accuracy" in values else "in_context_loss"
        self.evaluated = f"loss {values['loss']:.3f}, {name.replace('_', '-', 1).replace('_', ' ')} {values[name]:.3f}"

    def _save(self) -> None:
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                self.require_finite(float("nan"), f"the weight {name}")
        self.run.save(self.step, self.model, self.optimizer, asdict(self.counters))

    def require_finite(self, value: float, what: str) -> None:
        """Raises DivergedError, naming the last good checkpoint, where a value is not finite."""
        if not math.isfinite(value):
            kept = f"step {self.run.steps[-1]}" if self.run.steps else "none"
            raise DivergedError(f"training diverged: {what} is {value} at step {self.step}; last good checkpoint: {kept}; try a smaller lr")

    @contextmanager
    def _random_state(self) -> Iterator[None]:
        """Dropout draws from torch's global state, seeded at each step; the caller's state comes back."""
        state = torch.get_rng_state()
        try:
            yield
        finally:
            torch.set_rng_state(state)

    def _bar(self, progress: bool) -> tqdm[Any]:
        model = self.run.config.model
        return tqdm(
            total=self.config.steps,
            initial=self.step,
            disable=not progress,
            file=sys.stderr,
            dynamic_ncols=True,
            # In a log file, a line every 20 seconds is enough.
            mininterval=0.1 if sys.stderr.isatty() else 20,
            desc=f"{model.variant}, seed {model.seed}",
            unit="step",
        )


def _finite(value: float | None) -> float | None:
    """JSON has no nan."""
    return value if value is None or math.isfinite(value) else None
