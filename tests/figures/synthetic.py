"""Tables such as an analysis writes, without a model: sigmoid curves, one previous-token head and one induction head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

RUN_METRICS = {"loss": (4.1, 2.4), "in_context_accuracy": (0.03, 0.985), "in_context_loss": (4.2, 0.1), "bigram_loss": (4.1, 2.38)}
HEAD_METRICS = ("previous_token_score", "prefix_matching_score", "duplicate_token_score")
TASKS = ("trigger-bigram", "equal-repeats")


@dataclass(frozen=True)
class Sizes:
    """How large the tables are. The default sizes are distinct primes, so that no swapped axis can pass."""

    n_layers: int = 2
    n_heads: int = 3
    n_tokens: int = 11
    n_steps: int = 5
    every: int = 100

    @property
    def steps(self) -> list[int]:
        return [self.every * number for number in range(self.n_steps)]


SMALL = Sizes()
GROWING = {("previous_token_score", 0, 1): 0.93, ("prefix_matching_score", 1, 2): 0.86}
"""The heads whose score rises to about this, as (metric, layer, head)."""


def formation_table(
    run: str = "none", variant: str = "none", seed: int = 0, sizes: Sizes = SMALL, tasks: Sequence[str] = TASKS
) -> pd.DataFrame:
    """One run's formation table: scores of heads on each of `tasks`, everything else on the first."""
    random = np.random.default_rng([seed, len(variant)])
    middle = sizes.every * sizes.n_steps * (0.55 if variant == "none" else 0.45)
    rows = []
    for step in sizes.steps:
        rise = 1 / (1 + np.exp(-(step - middle) / (0.06 * sizes.every * sizes.n_steps)))
        for metric, (start, end) in RUN_METRICS.items():
            value = start + (end - start) * rise + random.normal(0, 0.005)
            rows.append((tasks[0], step, None, None, metric, value, value - 0.03, value + 0.03))
        for task in tasks:
            for metric in HEAD_METRICS:
                for layer in range(sizes.n_layers):
                    for head in range(sizes.n_heads):
                        grown = GROWING.get((metric, layer, head), 0.08)
                        value = float(np.clip(0.03 + grown * rise + random.uniform(0, 0.04), 0, 1))
                        rows.append((task, step, layer, head, metric, value, value - 0.01, value + 0.01))
    columns = ["task", "step", "layer", "head", "metric", "value", "ci_low", "ci_high"]
    table = pd.DataFrame(rows, columns=columns).assign(run=run, variant=variant, seed=seed, n=257)
    return table.astype({"layer": "Int64", "head": "Int64"})


def attention_table(run: str = "none", variant: str = "none", seed: int = 0, sizes: Sizes = SMALL) -> pd.DataFrame:
    """One run's attention at every step, on two sequences: L0H1 comes to attend one back, L1H2 seven back, the others anywhere.
    With a stream in the variant's name, layers from 1 on have a streamed part (for a value stream a share of each source)."""
    random = np.random.default_rng([seed, len(variant)])
    lower = np.tril_indices(sizes.n_tokens)
    shape = (sizes.n_layers, sizes.n_heads, sizes.n_tokens, sizes.n_tokens)
    layer, head = (index.reshape(*shape[:2], 1) for index in np.indices(shape[:2]))
    parts = []
    for step in sizes.steps:
        for sequence in range(2):
            scores = random.normal(0, 1, shape)
            for (at_layer, at_head), lag in {(0, 1): 1, (1, 2): 7}.items():
                scores[at_layer, at_head] += 8 * step / sizes.steps[-1] * np.eye(sizes.n_tokens, k=-lag)
            weights = np.tril(np.exp(scores))
            pattern = weights / weights.sum(axis=-1, keepdims=True)
            lengths = random.uniform(0.2, 3.0, (*shape[:2], 1, shape[2]))
            values = {"attention": pattern, "value_weighted": pattern * lengths}
            if variant != "none":
                share = random.uniform(-0.5, 1, (*shape[:2], 1, shape[2])) * lengths
                streamed = pattern * share if variant == "value" else np.tril(random.normal(0, 2, shape))
                streamed[0] = np.nan
                values["streamed"] = streamed
            columns = {name: value[..., *lower].ravel().astype(np.float32) for name, value in values.items()}
            each = np.broadcast_to(0, (*shape[:2], len(lower[0])))
            place = {"layer": layer, "head": head, "destination": lower[0], "source": lower[1]}
            place = {name: (each + index).ravel().astype(np.int16) for name, index in place.items()}
            parts.append(pd.DataFrame({"step": np.int32(step), "sequence": np.int16(sequence), **place, **columns}))
    return pd.concat(parts, ignore_index=True).assign(run=run, variant=variant, seed=seed)


def tokens_table(texts: Sequence[str], run: str = "none", variant: str = "none", seed: int = 0) -> pd.DataFrame:
    """The tokens of the two sequences (the second is the first, reversed); every fifth position is answered, from three before."""
    parts = []
    for sequence, words in enumerate([list(texts), list(texts)[::-1]]):
        position = np.arange(len(words))
        answered = position % 5 == 4
        columns = {"position": position, "token": position, "text": words, "answered": answered}
        columns["read_from"] = np.where(answered, position - 3, -1)
        parts.append(pd.DataFrame(columns).assign(sequence=sequence))
    return pd.concat(parts, ignore_index=True).assign(run=run, variant=variant, seed=seed)


def predictions_table(texts: Sequence[str], run: str = "none", variant: str = "none", seed: int = 0, top: int = 3) -> pd.DataFrame:
    """Predictions on the sequences of `tokens_table`, each followed by its first token: the `top` of a random distribution over the
    texts, and the right one."""
    rng = np.random.default_rng(seed)
    rows = []
    for sequence, words in enumerate([list(texts), list(texts)[::-1]]):
        for position in range(len(words)):
            log_probs = np.log(rng.dirichlet(np.full(len(words), 0.5)) + 1e-6)
            target = (position + 1) % len(words)
            for rank, token in enumerate(np.argsort(-log_probs, kind="stable").tolist()):
                if rank < top or token == target:
                    rows.append((sequence, position, rank, token, words[token], log_probs[token], token == target))
    columns = ["sequence", "position", "rank", "token", "text", "log_prob", "target"]
    return pd.DataFrame(rows, columns=columns).assign(run=run, variant=variant, seed=seed, step=SMALL.steps[-1])


def training_metrics(sizes: Sizes = SMALL) -> pd.DataFrame:
    """What training wrote: a row for each step, evaluations at every other row only."""
    steps = np.arange(0, sizes.steps[-1] + 1, sizes.every // 2)
    table = pd.DataFrame({"step": steps, "train_loss": 4.0 / (1 + steps), "lr": 3e-3, "seconds": 0.1 * steps})
    for metric, (start, end) in RUN_METRICS.items():
        values = np.linspace(start, end, len(steps))
        values[1::2] = np.nan
        table[metric] = values
    return table


INSIDE, BEYOND = (0, 5, 10), (13, 18, 26, 36)
"""bins of a training length of 13"""


def _part_of(position: int) -> str:
    return "inside" if position < 13 else "1x to 2x" if position < 26 else "2x to 4x"


def length_table(run: str = "a", variant: str = "none", shift: float = 0.0, positions: Sequence[int] = (*INSIDE, *BEYOND)) -> pd.DataFrame:
    """One run's table of the section length: head 1 of layer 0 is the best at the last step, and head 0 before."""
    rows: list[dict[str, object]] = []
    for step in (0, 70):
        for position in (*positions, None):
            part = "inside" if position is None else _part_of(position)
            at = {"step": step, "position": position, "part": part}
            value = 0.5 if position is None else 0.9 - position / 100 - shift
            rows.append({**at, "metric": "accuracy_by_position", "value": value * step / 70})
            for layer, head in ((0, 0), (0, 1), (1, 0)):
                score = 0.3 + 0.1 * head * (1 if step else -1) - 0.001 * (position or 0) - shift
                rows.append({**at, "metric": "previous_token_by_position", "layer": layer, "head": head, "value": score - 0.2 * layer})
        rows += [
            {"step": step, "position": last, "part": _part_of(last), "metric": "hijack_rate_by_position", "value": last / 100 + shift}
            for last in (6, 12, 25, 51)
            if last <= max(positions) + 17
        ]
    found = pd.DataFrame(rows).assign(run=run, variant=variant, seed=0, task="trigger-bigram", n=7)
    found = found.assign(ci_low=found["value"] - 0.02, ci_high=found["value"] + 0.02)
    return found.astype({"position": "Int64", "layer": "Int64", "head": "Int64"})
