"""The sequences that a model is analysed on: drawn once, never seen in training."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

from workbench.analysis.hijack_prompts import designed_prompts, prompts_by_length
from workbench.config import ModelConfig, RepeatedTokensConfig
from workbench.errors import ConfigError, UsageError
from workbench.tasks import make_task
from workbench.tasks.base import Batch, Split, Task
from workbench.tasks.draw import generator
from workbench.tasks.hijack import Prompts
from workbench.tasks.repeated_tokens import RepeatedTokens
from workbench.tasks.trigger_bigram import TriggerBigram

if TYPE_CHECKING:
    from workbench.runs import Run

SEQUENCES = 256
REPEATS: dict[str, Literal["equal", "jittered", "non-periodic"]] = {
    "equal-repeats": "equal",
    "jittered-repeats": "jittered",
    "non-periodic-repeats": "non-periodic",
}
"""name in tables -> placement of the repeats. Equal repeats alone cannot tell an induction head from a head that attends
at one distance; on the other two it can be told."""
SHORTEST_CONTROL = 12
LONGER = 4
"""Sequences beyond the training length are so many times as long as those of training, at most."""
LONGEST_REPEATS = 256
"""Positions of the repeated-token sequences for a model without a task, at most."""


@dataclass(frozen=True)
class AnalysisData:
    """Batches by task name: the model's own task first (where it has one), then repeats of random tokens at one distance, at
    a distance that varies from sequence to sequence, and at random places. Half of each batch names heads, the other scores them."""

    tasks: dict[str, Task]
    batches: dict[str, Batch]
    seed: int = 0
    """the seed that everything was drawn with"""
    beyond: Batch | None = None
    """sequences of the own task up to four times as long as in training, as far as the model's positions go; None where they do not"""
    evaluations: dict[str, Batch] = field(default_factory=dict)
    """sequences of a task whose in-context part is analysed: those of the training mixture ("mixed") and of the other evaluations"""

    @property
    def own(self) -> str:
        """The task whose accuracy and losses are reported: the model's own, or equal repeats."""
        return next(iter(self.tasks))

    @property
    def control(self) -> str | None:
        """The task on which an induction head must hold its score: non-periodic repeats, where the own repeats all stand
        at one distance; None where they do not, or where the sequences are too short for repeats at random places."""
        config = self.tasks[self.own].config
        needed = isinstance(config, RepeatedTokensConfig) and config.placement == "equal"
        return "non-periodic-repeats" if needed and "non-periodic-repeats" in self.tasks else None

    @property
    def scoring(self) -> Batch:
        """The half of the own task's sequences on which heads are scored and interventions judged."""
        batch = self.batches[self.own]
        return batch[scoring_half(len(batch))]

    @cached_property
    def hijack_prompts(self) -> Prompts | None:
        """Prompts whose context disagrees with the bigrams, drawn once (hijack_prompts.py). None for a task without bigrams."""
        task = self.tasks[self.own]
        return designed_prompts(task, generator(self.seed, "analyze", len(self.tasks) + 1)) if isinstance(task, TriggerBigram) else None

    @cached_property
    def hijack_prompts_by_length(self) -> list[Prompts]:
        """Such prompts at several lengths, as far as the own sequences go, drawn once. Empty for a task without bigrams."""
        task = self.tasks[self.own]
        if not isinstance(task, TriggerBigram):
            return []
        longest = task.config.seq_len if self.beyond is None else self.beyond.tokens.shape[1]
        return prompts_by_length(task, longest, generator(self.seed, "analyze", len(self.tasks) + 2))

    @classmethod
    def draw(cls, model: ModelConfig, task: Task | None, seed: int = 0, sequences: int = SEQUENCES) -> AnalysisData:
        """Draw the sequences. Repeated tokens are uniform over the model's vocabulary, with a period of half the
        length and, where the vocabulary allows, all different inside the period. There are a quarter as many of each kind of
        repeats as of own sequences, and an eighth as many beyond the training length.

        A task with an evaluation of what only the context tells is analysed on that, and on no repeats where it gives vectors.
        Raises UsageError for a classifier without its task."""
        if task is None and model.readout == "classifier":
            raise UsageError("a model with readout='classifier' is analysed on the task that it was trained on; pass the task")
        tasks: dict[str, Task] = {} if task is None else {task.config.name: task}
        tasks |= {name: RepeatedTokens(config) for name, config in _repeats(model, task).items()}
        own = next(iter(tasks))
        batches = {
            name: tasks[name].sample(
                sequences if name == own else max(2, sequences // 4), generator(seed, "analyze", index), _split(tasks[name], "in_context")
            )
            for index, name in enumerate(tasks)
        }
        others = {"mixed", *tasks[own].config.evaluations} - {"in_context"} if tasks[own].config.evaluations else ()
        evaluations = {
            name: tasks[own].sample(sequences, generator(seed, "analyze", len(tasks) + 3 + index), _split(tasks[own], name))
            for index, name in enumerate(sorted(others))
        }
        return cls(tasks, batches, seed, _beyond(model, tasks[own], seed, max(2, sequences // 8), len(tasks)), evaluations)

    @classmethod
    def of_run(cls, run: Run, sequences: int = SEQUENCES) -> AnalysisData:
        """The sequences for a run: its own task, seeded by its evaluation seed."""
        seed = 0 if run.config.train is None else run.config.train.eval_seed
        return cls.draw(run.config.model, run.task, seed, sequences)


def selection_half(n: int) -> slice:
    """The first half of n sequences, by which heads are named (all of one sequence)."""
    return slice(0, max(1, n // 2))


def scoring_half(n: int) -> slice:
    """The second half of n sequences, on which they are scored."""
    return slice(n // 2, n)


def _split(task: Task, evaluation: str) -> Split:
    """The split of an evaluation; that of training for one that the task does not have."""
    return cast(Split, task.config.evaluations.get(evaluation, "train"))


def _beyond(model: ModelConfig, task: Task, seed: int, sequences: int, index: int) -> Batch | None:
    """Longer sequences of the same process: learned positions end at n_ctx, others never."""
    length = LONGER * task.config.seq_len
    if model.positional_embedding_type == "standard":
        length = min(length, model.n_ctx)
    if length <= task.config.seq_len:
        return None
    changes: dict[str, Any] = {"seq_len": length}
    if isinstance(task.config, RepeatedTokensConfig):
        changes["block_len"] = task.config.period
    try:
        longer = make_task(task.config.replace(**changes))
    except ConfigError:  # a task whose sequences have one length
        return None
    return longer.sample(sequences, generator(seed, "analyze", index))


def _repeats(model: ModelConfig, task: Task | None) -> dict[str, RepeatedTokensConfig]:
    if task is not None and task.config.d_input is not None:
        return {}
    length = min(model.n_ctx, LONGEST_REPEATS) if task is None else task.config.seq_len
    length = max(4, min(length, model.n_ctx) // 2 * 2)
    period = length // 2
    return {
        name: RepeatedTokensConfig(
            d_vocab=model.d_vocab, seq_len=length, placement=placement, distinct=period <= model.d_vocab - (placement == "non-periodic")
        )
        for name, placement in REPEATS.items()
        if placement == "equal" or length >= SHORTEST_CONTROL
    }
