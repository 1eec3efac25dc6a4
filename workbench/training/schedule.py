"""When things happen: the steps to save, and the learning rate at each."""

from __future__ import annotations

import math

from workbench.config import TrainConfig


def checkpoint_steps(config: TrainConfig) -> list[int]:
    """The steps to save, ascending: step 0 and the last one always, and whatever the configuration adds.

    >>> checkpoint_steps(TrainConfig(steps=100, checkpoint_every=50, checkpoint_dense=(60, 80, 10)))
    [0, 50, 60, 70, 80, 100]
    >>> checkpoint_steps(TrainConfig(steps=1000, checkpoint_log=4))
    [0, 1, 10, 100, 1000]
    """
    steps = {0, config.steps, *config.checkpoint_steps}
    if config.checkpoint_every is not None:
        steps.update(range(0, config.steps, config.checkpoint_every))
    if config.checkpoint_log is not None:
        count = config.checkpoint_log
        steps.update(round(config.steps ** (index / max(1, count - 1))) for index in range(count))
    if config.checkpoint_dense is not None:
        first, last, every = config.checkpoint_dense
        steps.update(range(first, min(last, config.steps) + 1, every))
    return sorted(steps)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of the update that follows `step` updates: linear warm-up, then constant or cosine."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    floor = config.final_lr_fraction
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
