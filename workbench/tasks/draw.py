"""Which sequences are drawn when: training, evaluation, analysis and dropout never share a random stream."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from workbench.tasks.base import Batch, Split, Task

Purpose = Literal["train", "evaluate", "analyze", "dropout"]
_PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

CHUNK = 1024
"""Training sequences drawn at a time: the generator's cost a position is spread over many batches. It decides which
sequence a step sees, so it is part of what makes a run reproducible."""


def generator(seed: int, purpose: Purpose, index: int = 0) -> np.random.Generator:
    """The random stream of a purpose; equal seeds of different purposes give independent streams."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_PURPOSES.index(purpose), index)))


class TrainingBatches:
    """The batch of every step, as a function of the seed and the step alone: resuming needs no generator state."""

    def __init__(self, task: Task, batch_size: int, seed: int, split: Split = "train") -> None:
        self.task, self.batch_size, self.seed = task, batch_size, seed
        self.split: Split = split
        self.per_chunk = max(1, CHUNK // batch_size)
        self._held: tuple[int, Batch] | None = None

    def __getitem__(self, step: int) -> Batch:
        """The batch of the update that follows `step` updates."""
        index, offset = divmod(step, self.per_chunk)
        if self._held is None or self._held[0] != index:
            rng = generator(self.seed, "train", index)
            self._held = index, self.task.sample(self.per_chunk * self.batch_size, rng, self.split)
        return self._held[1][offset * self.batch_size : (offset + 1) * self.batch_size]
