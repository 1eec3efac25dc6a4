"""In-context classification: vectors of objects and labels in pairs, then an object whose label is asked for (Reddy,
arXiv 2312.03002; the two-layer experiment of Burns et al., arXiv 2412.15113)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from workbench.config import ClassificationConfig
from workbench.errors import UsageError, unknown_name
from workbench.tasks.base import Batch, Split

Classes = Int[np.ndarray, "batch pair"]
Query = Int[np.ndarray, " batch"]
Rows = Bool[np.ndarray, " batch"]
SPLITS: tuple[Split, ...] = tuple(split for split in get_args(Split) if split != "ood")


class Classification:
    """Each sequence is N pairs of an object and its label, then a query object: 2 N + 1 vectors. With g ~ N(0, 1):

    - an object of class k is (mean_k + eps * g / sqrt(D)) / sqrt(1 + eps^2), a label is its mean without noise. Means of
      classes and labels have D coordinates ~ N(0, 1/D). Class k has the label k mod n_labels.
    - before the content stands a one-hot window of positions; where in it a sequence begins is drawn uniformly.
    - bursty: N / B different classes (with `no_repeats`, of different labels), each B times, in random order; the query is
      of one of them. Otherwise the classes of context and query are drawn independently.

    Splits: "train" has novel classes with p_novel, else is bursty with p_bursty; "in-context" has novel classes alone;
    "flipped" is bursty, with every label shifted by one (right is the shifted label); "in-weights" draws context and query
    independently, with `exclude_query` the context among the classes of other labels.

    `tokens` name the positions: class k is k, label l is n_classes + l, novel class j is n_classes + n_labels + j (sets of
    novel classes share these numbers). `targets` hold at an object, and at the label after it, the label of the pair.
    Only at the query is a prediction asked for: `answered` there where the context shows the query's class, `unanswerable` where it
    does not.
    """

    def __init__(self, config: ClassificationConfig) -> None:
        self.config = config
        rng = np.random.default_rng(np.random.SeedSequence(config.means_seed))
        self.class_means = _means((config.n_classes, config.d_content), rng)
        self.label_means = _means((config.n_labels, config.d_content), rng)
        weights = 1.0 / np.arange(1, config.n_classes + 1) ** config.zipf_exponent
        self.frequencies: Float[np.ndarray, " class"] = weights / weights.sum()

    def sample(self, batch_size: int, rng: np.random.Generator, split: Split = "train") -> Batch:
        """Draw sequences of seq_len vectors. Raises UsageError for a split that there is not."""
        if split not in SPLITS:
            raise unknown_name("split", str(split), SPLITS)
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        config = self.config
        p_novel = {"train": config.p_novel, "in-context": 1.0}.get(split, 0.0)
        p_bursty = {"train": config.p_bursty, "flipped": 1.0}.get(split, 0.0)
        novel = rng.random(batch_size) < p_novel
        bursty = rng.random(batch_size) < p_bursty
        context, query = self._independent(batch_size, rng, excluding=split == "in-weights" and config.exclude_query)
        for rows, frequencies in (
            (bursty & ~novel, self.frequencies),
            (novel, np.full(config.n_novel, 1 / config.n_novel)),
        ):
            context[rows], query[rows] = self._bursty(int(rows.sum()), frequencies, rng)
        classes = np.concatenate([context, query[:, None]], axis=1)
        labels = (classes + (split == "flipped")) % config.n_labels
        seen = (context == query[:, None]).any(axis=1)
        return self._batch(classes, labels, novel, seen, self._vectors(classes, labels, novel, rng))

    def describe(self) -> str:
        """One paragraph: what the sequences are."""
        config = self.config
        return (
            f"Sequences of {config.n_pairs} pairs of an object and its label and one more object, whose label is asked for: vectors of "
            f"{config.d_content} coordinates after a window of {config.window} positions. {config.n_classes} classes carry "
            f"{config.n_labels} labels. {config.p_novel:.0%} of the sequences have classes that were never seen before, so that only the "
            f"context tells the label; of the others, {config.p_bursty:.0%} show the query's class in the context. "
            f"Where classes come from the context, each has {config.burstiness} of its objects."
        )

    def to_strings(self, tokens: Iterable[int]) -> list[str]:
        """Objects as x0, x1, ... by their class (novel classes: n0, n1, ...), labels as y0, y1, ..."""
        names: list[str] = []
        for token in tokens:
            label = token - self.config.n_classes
            novel = label - self.config.n_labels
            names.append(f"x{token}" if label < 0 else f"y{label}" if novel < 0 else f"n{novel}")
        return names

    def fingerprint(self) -> str:
        """sha256 of the configuration, which decides everything."""
        return hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode()).hexdigest()

    def references(self) -> dict[str, float]:
        """None: no loss has a floor that is known in closed form."""
        return {}

    def _independent(self, n: int, rng: np.random.Generator, *, excluding: bool) -> tuple[Classes, Query]:
        """Context and query drawn independently of each other; `excluding`: the context among the classes of other labels."""
        n_labels = self.config.n_labels
        # Classes in the order of their labels, so that a label is one stretch of the cumulated frequencies.
        in_order = np.arange(self.config.n_classes).reshape(-1, n_labels).T
        mass = self.frequencies[in_order].sum(axis=1)
        start = mass.cumsum() - mass
        cumulated = self.frequencies[in_order].cumsum()

        def classes(places: np.ndarray) -> np.ndarray:
            return in_order.reshape(-1)[np.minimum(np.searchsorted(cumulated, places, side="right"), in_order.size - 1)]

        query = classes(rng.random(n))
        places = rng.random((n, self.config.n_pairs))
        if excluding:
            left_out, begins = mass[query % n_labels, None], start[query % n_labels, None]
            places = places * (1 - left_out)
            # The stretch of the query's label is skipped.
            places = places + left_out * (places >= begins)
        return classes(places), query

    def _bursty(self, n: int, frequencies: Float[np.ndarray, " class"], rng: np.random.Generator) -> tuple[Classes, Query]:
        """N / B different classes, each B times in random order, and a query of one of them."""
        config = self.config
        if config.no_repeats:
            by_label = frequencies.reshape(-1, config.n_labels).T
            labels = _without_replacement(n, by_label.sum(axis=1), config.n_bursty, rng)
            share = (by_label / by_label.sum(axis=1, keepdims=True)).cumsum(axis=1)[labels]
            number = (rng.random((n, config.n_bursty, 1)) >= share[:, :, :-1]).sum(axis=2)
            chosen = labels + config.n_labels * number
        else:
            chosen = _without_replacement(n, frequencies, config.n_bursty, rng)
        query = chosen[np.arange(n), rng.integers(config.n_bursty, size=n)]
        return rng.permuted(np.tile(chosen, (1, config.burstiness)), axis=1), query

    def _vectors(self, classes: Classes, labels: Classes, novel: Rows, rng: np.random.Generator) -> Float[np.ndarray, "batch pos d_model"]:
        """The inputs, for the class and the shown label of every pair; the query's label is not shown."""
        config, n = self.config, len(classes)
        inputs = np.zeros((n, config.seq_len, config.d_input), dtype=np.float32)
        fresh = _means((-(-n // config.novel_every), config.n_novel, config.d_content), rng)
        number = np.arange(n) // config.novel_every
        # An id may be beyond the other kind's table; what is looked up there is not used.
        known_means = self.class_means[classes % config.n_classes]
        novel_means = fresh[number[:, None], classes % config.n_novel]
        means = np.where(novel[:, None, None], novel_means, known_means)
        noise = rng.standard_normal(means.shape, dtype=np.float32) / np.float32(config.d_content**0.5)
        content = inputs[:, :, config.window :]
        content[:, ::2] = (means + np.float32(config.eps) * noise) / np.float32((1 + config.eps**2) ** 0.5)
        content[:, 1::2] = self.label_means[labels[:, :-1]]
        begin = rng.integers(config.window - config.seq_len + 1, size=(n, 1))
        inputs[np.arange(n)[:, None], np.arange(config.seq_len), begin + np.arange(config.seq_len)] = 1
        return inputs

    def _batch(
        self,
        classes: Classes,
        labels: Classes,
        novel: Rows,
        seen: Rows,
        inputs: Float[np.ndarray, "batch pos d_model"],
    ) -> Batch:
        config = self.config
        shape = (len(classes), config.seq_len)
        tokens = np.empty(shape, dtype=np.int64)
        tokens[:, ::2] = classes + novel[:, None] * (config.n_classes + config.n_labels)
        tokens[:, 1::2] = config.n_classes + labels[:, :-1]
        asked = np.arange(config.seq_len) == np.full((shape[0], 1), config.seq_len - 1)
        return Batch(
            tokens=torch.from_numpy(tokens),
            targets=torch.from_numpy(labels.repeat(2, axis=1)[:, :-1].astype(np.int64)),
            answered=torch.from_numpy(asked & seen[:, None]),
            unanswerable=torch.from_numpy(asked & ~seen[:, None]),
            inputs=torch.from_numpy(inputs),
            asked=torch.from_numpy(asked),
        )


def _means(shape: tuple[int, ...], rng: np.random.Generator) -> Float[np.ndarray, "*shape"]:
    """Vectors along the last axis, D coordinates ~ N(0, 1/D)."""
    return rng.standard_normal(shape, dtype=np.float32) / np.float32(shape[-1] ** 0.5)


def _without_replacement(
    n: int, frequencies: Float[np.ndarray, " item"], count: int, rng: np.random.Generator
) -> Int[np.ndarray, "batch count"]:
    """`count` different items for each of n sequences, drawn one after the other by their frequencies: the largest of
    log frequency + Gumbel noise, in the order of size."""
    keys = np.log(frequencies) + rng.gumbel(size=(n, len(frequencies)))
    return np.argsort(-keys, axis=1)[:, :count]
