"""Who sees which random numbers: batches depend on seed and step only, and purposes never share a stream."""

import random
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.config import RepeatedTokensConfig
from workbench.tasks import make_task
from workbench.tasks.draw import CHUNK, TrainingBatches, generator

PURPOSES = ("train", "evaluate", "analyze", "dropout")
# 31 uniform tokens out of 101: two sequences that coincide by chance are not to be expected in the age of the universe.
TASK = make_task(RepeatedTokensConfig(d_vocab=101, seq_len=61, block_len=31))


def rows(batch) -> set[tuple[int, ...]]:
    return set(map(tuple, batch.tokens.tolist()))


@settings(deadline=None)
@given(st.integers(0, 2**70), st.integers(0, 10**6))
def test_purposes_seeds_and_indices_are_independent_streams(seed, index):
    keys = [(seed, purpose, i) for purpose in PURPOSES for i in (index, index + 1)] + [(seed + 1, purpose, index) for purpose in PURPOSES]
    assert len({generator(*key).integers(2**63) for key in keys}) == len(keys)
    assert generator(seed, "train", index).integers(2**63) == generator(seed, "train", index).integers(2**63)


def test_a_batch_is_a_function_of_seed_and_step():
    size = 257
    in_order = TrainingBatches(TASK, size, 5)
    expected = [in_order[step] for step in range(11)]
    assert 11 * size > 2 * CHUNK and all(batch.tokens.shape == (size, 61) for batch in expected)
    again, steps = TrainingBatches(TASK, size, 5), list(range(11)) * 2
    random.Random(0).shuffle(steps)
    for step in steps:
        for name in ("tokens", "targets", "answered", "unanswerable"):
            assert torch.equal(getattr(again[step], name), getattr(expected[step], name))
        assert torch.equal(again[step].annotations["source"], expected[step].annotations["source"])
        assert torch.equal(TrainingBatches(TASK, size, 5)[step].tokens, expected[step].tokens)
    assert all(rows(one).isdisjoint(rows(other)) for one, other in pairwise(expected))
    assert rows(TrainingBatches(TASK, size, 6)[0]).isdisjoint(rows(expected[0]))


def test_a_batch_larger_than_a_chunk():
    batches = TrainingBatches(TASK, CHUNK + 3, 0)
    assert len(batches[0]) == len(batches[1]) == CHUNK + 3 and rows(batches[0]).isdisjoint(rows(batches[1]))


def test_training_and_evaluation_never_coincide():
    for seed in (0, 1, 7):
        batches = TrainingBatches(TASK, 64, seed)
        trained = set().union(*(rows(batches[step]) for step in range(33)))
        for purpose in ("evaluate", "analyze"):
            for index in (0, 1):
                assert trained.isdisjoint(rows(TASK.sample(128, generator(seed, purpose, index))))
    # Without the purpose they would.
    assert not trained.isdisjoint(rows(TASK.sample(128, generator(7, "train"))))
