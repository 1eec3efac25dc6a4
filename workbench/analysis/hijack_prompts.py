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
PAIRS = (1, 2)
"""pairs of trigger and context token in them"""
DISTANCES = (2, 8)
"""how far before the end their last pair ends: the least that is taken, and what is taken where it fits"""


def designed_prompts(task: TriggerBigram, rng: np.random.Generator) -> Prompts | None:
    """The grid of papers.md section 5 over the triggers that `asked` gives, as far as the task's sequences are long enough. None where
    nothing fits."""
    bigram, length = task.language.bigram, task.config.seq_len
    fitting = [design for design in _grid(task) if design.shortest(beat_of(bigram, design.trigger)[0]) <= length]
    return hijack_prompts(fitting * EACH, bigram, length, rng) if fitting else None


def prompts_by_length(task: TriggerBigram, longest: int, rng: np.random.Generator) -> list[Prompts]:
    """Prompts of the same designs at several lengths, up to `longest` tokens: only where they end differs. The last pair ends 8 tokens
    before the end, or less where the shortest has no room for it; a length without room for 2 is left out."""
    bigram = task.language.bigram
    beat, _ = beat_of(bigram, asked(task)[0])
    least, wanted = DISTANCES
    designs = _grid(task, n_context=PAIRS, n_prior=(0,), distance=(least,))
    if not designs:
        return []
    shortest = max(design.shortest(beat) for design in designs)
    lengths = [length for share in LENGTHS if shortest <= (length := int(share * task.config.seq_len)) <= longest]
    if not lengths:
        return []
    designs = _grid(task, n_context=PAIRS, n_prior=(0,), distance=(min(wanted, least + lengths[0] - shortest),))
    return [hijack_prompts(designs, bigram, length, rng) for length in lengths]


def asked(task: TriggerBigram) -> list[int]:
    """The triggers of the prompts: the fixed ones, or tokens spread over the more frequent half. Random triggers are drawn by their
    frequency: the most frequent tokens nearly always are triggers, and what follows them by the language is then never learnt."""
    if task.config.triggers == "fixed":
        return task.fixed_triggers.tolist()
    weights = task.language.trigger_weights()
    half = max(1, np.count_nonzero(weights) // 2)
    return np.argsort(-weights, kind="stable")[: half : -(-half // SPREAD)].tolist()


def _grid(task: TriggerBigram, **factors: Any) -> list[Design]:
    """The designs over these triggers; none where they have too few followers in the language."""
    try:
        return grid(task.language.bigram, asked(task), **factors)
    except UsageError:
        return []
