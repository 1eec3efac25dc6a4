"""Tokens a second of the vectorised trigger-bigram generator, and its ratio to a loop over sequences and positions.

    python -m benchmarks.generator [--batch-size 512] [--seq-len 256] [--repeats 7]

Run it from the root of the repository: the loop is the one that the tests compare with. Both make the sequences of
the published configuration (65 tokens, 5 triggers); the vectorised generator annotates them too, which the loop is
spared. The best of the repeats counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from tests.reference_tasks import naive_trigger_bigram
from workbench.config import TriggerBigramConfig
from workbench.tasks.trigger_bigram import TriggerBigram

NAIVE_SEQUENCES = 8


def tokens_per_second(make: Callable[[], object], tokens: int, repeats: int) -> float:
    """The best rate of several calls that make `tokens` tokens each, after one call to warm up."""
    make()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        make()
        seconds.append(time.perf_counter() - start)
    return tokens / min(seconds)


def loop_over_sequences(task: TriggerBigram, rng: np.random.Generator) -> None:
    """NAIVE_SEQUENCES sequences of `task`, one token at a time."""
    config, language = task.config, task.language
    triggers = task.fixed_triggers.tolist() if config.triggers == "fixed" else config.n_triggers
    for _ in range(NAIVE_SEQUENCES):
        naive_trigger_bigram(language.unigram, language.bigram, config.seq_len, triggers, range(config.d_vocab), rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    for triggers in ("fixed", "random"):
        task = TriggerBigram(TriggerBigramConfig(seq_len=args.seq_len, triggers=triggers))
        fast = tokens_per_second(partial(task.sample, args.batch_size, rng), args.batch_size * args.seq_len, args.repeats)
        slow = tokens_per_second(partial(loop_over_sequences, task, rng), NAIVE_SEQUENCES * args.seq_len, args.repeats)
        print(f"{triggers:6} triggers: {fast / 1e6:6.2f} M tokens/s vectorised, {slow / 1e6:.3f} M in a loop, ratio {fast / slow:.0f}")


if __name__ == "__main__":
    main()
