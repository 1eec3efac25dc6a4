"""The sequences that a model is analysed on: drawn once, never seen in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.config import ModelConfig, RepeatedTokensConfig, TaskConfig
from workbench.tasks.base import Batch, Task
from workbench.tasks.draw import generator
from workbench.tasks.repeated_tokens import RepeatedTokens

if TYPE_CHECKING:
    from workbench.runs import Run

SEQUENCES = 256
CONTROL = "non-periodic-repeats"
"""The control's name in tables: at a fixed period, a head that attends at a fixed distance finds every answer too."""
SHORTEST_CONTROL = 12
LONGEST_REPEATS = 256
"""Positions of the repeated-token sequences for a model without a task, at most."""


@dataclass(frozen=True)
class AnalysisData:
    """Batches by task name: the model's own task first (where it has one), then repeated random tokens, or, where those
    are its own task at one fixed period, the control that tells an induction head from a positional one."""

    tasks: dict[str, Task]
    batches: dict[str, Batch]

    @property
    def own(self) -> str:
        """The task whose accuracy and losses are reported: the model's own, or repeated tokens."""
        return next(iter(self.tasks))

    @classmethod
    def draw(cls, model: ModelConfig, task: Task | None, seed: int = 0, sequences: int = SEQUENCES) -> AnalysisData:
        """Draw the sequences. Repeated tokens are uniform over the model's vocabulary, with a period of half the
        length and, where the vocabulary allows, all different inside the period."""
        tasks = {} if task is None else {task.config.name: task}
        if "repeated-tokens" not in tasks:
            tasks["repeated-tokens"] = RepeatedTokens(_repeats(model, task))
        own = next(iter(tasks.values()))
        if (control := _control(own.config)) is not None:
            tasks[CONTROL] = RepeatedTokens(control)
        batches = {name: tasks[name].sample(sequences, generator(seed, "analyze", index)) for index, name in enumerate(tasks)}
        return cls(tasks, batches)

    @classmethod
    def of_run(cls, run: Run, sequences: int = SEQUENCES) -> AnalysisData:
        """The sequences for a run: its own task, seeded by its evaluation seed."""
        seed = 0 if run.config.train is None else run.config.train.eval_seed
        return cls.draw(run.config.model, run.task, seed, sequences)


def _control(config: TaskConfig) -> RepeatedTokensConfig | None:
    """Repeats at random places, for a model whose own repeats stand at one fixed distance; None where it needs none,
    or where the sequences are too short."""
    if not isinstance(config, RepeatedTokensConfig) or config.placement != "equal" or config.seq_len < SHORTEST_CONTROL:
        return None
    return RepeatedTokensConfig(d_vocab=config.d_vocab, seq_len=config.seq_len, placement="non-periodic")


def _repeats(model: ModelConfig, task: Task | None) -> RepeatedTokensConfig:
    length = min(model.n_ctx, LONGEST_REPEATS) if task is None else task.config.seq_len
    length = max(4, min(length, model.n_ctx) // 2 * 2)
    return RepeatedTokensConfig(d_vocab=model.d_vocab, seq_len=length, distinct=length // 2 <= model.d_vocab)
