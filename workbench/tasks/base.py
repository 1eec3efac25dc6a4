"""What a task is: something that draws annotated batches of sequences and can describe itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.axes import Mask, Tokens
from workbench.config import TaskConfig

Split = Literal["train", "ood", "in-context", "flipped", "in-weights"]


@dataclass(frozen=True)
class Batch:
    """A batch of sequences with, for every position, what is known about the step to the next token."""

    tokens: Tokens
    """the model's input"""
    targets: Tokens
    """the next token at every position"""
    answered: Mask
    """where the context has already shown the answer: in-context accuracy is measured here"""
    unanswerable: Mask
    """where only the statistics learnt in training can tell the next token: bigram loss is measured here"""
    annotations: Mapping[str, Int[Tensor, "batch pos"] | Float[Tensor, "batch pos"]] = field(default_factory=dict)
    """whatever else the task knows about each position, by name"""
    inputs: Float[Tensor, "batch pos d_model"] | None = None
    """vectors that the model reads in place of the tokens, which then only name the positions"""
    asked: Mask | None = None
    """where a prediction is asked for; None: everywhere"""
    values: Float[Tensor, "batch pos"] | None = None
    """the number asked for at every position, of a task that asks for numbers: the loss is the squared error of the model's one
    output, `targets` only name the positions, and no prediction is right or wrong. The least-squares prediction from the context
    before each position stands in annotations["least_squares"]"""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> Batch:
        """Some of the sequences."""
        return self._each(lambda values: values[rows])

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on another device."""
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.tokens),
            change(self.targets),
            change(self.answered),
            change(self.unanswerable),
            {name: change(values) for name, values in self.annotations.items()},
            None if self.inputs is None else change(self.inputs),
            None if self.asked is None else change(self.asked),
            None if self.values is None else change(self.values),
        )

    @property
    def predicted(self) -> Mask:
        """The positions at which a prediction counts."""
        return torch.ones_like(self.answered) if self.asked is None else self.asked

    @property
    def model_inputs(self) -> dict[str, Any]:
        """What a HookedTransformer is called with, by the name of its argument."""
        return {"tokens": self.tokens} if self.inputs is None else {"inputs_embeds": self.inputs}


@runtime_checkable
class Task(Protocol):
    """A source of sequences. `sample` depends on nothing but its arguments and the task's configuration:
    the same generator state gives the same batch on any machine."""

    @property
    def config(self) -> TaskConfig:
        """What decides the task, and all of it but texts read from disk."""
        ...

    def sample(self, batch_size: int, rng: np.random.Generator, split: Split = "train") -> Batch:
        """Draw `batch_size` sequences of `config.seq_len` tokens. Raises UsageError for a split the task does not have."""
        ...

    def describe(self) -> str:
        """One paragraph: what the sequences are, in words and with this configuration's numbers."""
        ...

    def to_strings(self, tokens: Iterable[int]) -> list[str]:
        """Each token as text, for figures and tables."""
        ...

    def fingerprint(self) -> str:
        """A hash of everything that decides the distribution, texts read from disk included."""
        ...

    def references(self) -> dict[str, float]:
        """Values a perfect predictor would reach, by metric name (for example the bigram loss's floor, in nats)."""
        ...
