"""Which hijack prompts a model is asked: designs over a task's own triggers (tasks/hijack.py builds the prompts)."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.errors import UsageError
from workbench.tasks.hijack import Design, Prompts, beat_of, grid, hijack_prompts
from workbench.tasks.trigger_bigram import TriggerBigram

EACH = 2
"""prompts of each design"""
SPREAD = 5
"""tokens that stand for random triggers"""
LENGTHS = (0.25, 0.5, 1, 2, 4)
"""lengths of the prompts by position, in training lengths"""
EACH_LENGTH = 4
"""prompts of each design at each of them"""
DISTANCES = (2, 8)
"""how far before the end their last pair ends: the least that is taken, and what is taken where it fits"""


def designed_prompts(task: TriggerBigram, rng: np.random.Generator) -> Prompts | None:
    """A grid of prompts over the triggers that `asked` gives, as far as the task's sequences are long enough. None where
    nothing fits."""
    bigram, length = task.language.bigram, task.config.seq_len
    fitting = [design for design in _grid(task, asked(task)) if design.shortest(beat_of(bigram, design.trigger)[0]) <= length]
    return hijack_prompts(fitting * EACH, bigram, length, rng) if fitting else None


def prompts_by_length(task: TriggerBigram, longest: int, rng: np.random.Generator) -> list[Prompts]:
    """Prompts of the same designs at several lengths, up to `longest` tokens: only where they end differs. The context shows c once,
    8 tokens before the end, or less where the shortest prompt has no room for it; a length without room for 2 is left out. They are
    asked of the fixed (or most frequent) triggers, which a trained model answers from the context: what it then misses at other
    positions, it misses because of the position."""
    bigram, triggers = task.language.bigram, task.fixed_triggers.tolist()
    beat, _ = beat_of(bigram, triggers[0])
    least, wanted = DISTANCES
    designs = _grid(task, triggers, n_context=(1,), n_prior=(0,), distance=(least,))
    if not designs:
        return []
    shortest = max(design.shortest(beat) for design in designs)
    lengths = [length for share in LENGTHS if shortest <= (length := int(share * task.config.seq_len)) <= longest]
    if not lengths:
        return []
    designs = _grid(task, triggers, n_context=(1,), n_prior=(0,), distance=(min(wanted, least + lengths[0] - shortest),))
    return [hijack_prompts(designs * EACH_LENGTH, bigram, length, rng) for length in lengths]


def asked(task: TriggerBigram) -> list[int]:
    """The triggers of the grid: the fixed ones, or tokens spread over the more frequent half. Random triggers are drawn by their
    frequency: the most frequent tokens nearly always are triggers, and what follows them by the language is then never learnt."""
    if task.config.triggers == "fixed":
        return task.fixed_triggers.tolist()
    weights = task.language.trigger_weights()
    half = max(1, np.count_nonzero(weights) // 2)
    return np.argsort(-weights, kind="stable")[: half : -(-half // SPREAD)].tolist()


def _grid(task: TriggerBigram, triggers: list[int], **factors: Any) -> list[Design]:
    """The designs over some triggers; none where they have too few followers in the language."""
    try:
        return grid(task.language.bigram, triggers, **factors)
    except UsageError:
        return []
