"""The configurations of the tasks: what a run's file says of its data. This module imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from workbench.config_base import Config
from workbench.errors import ConfigError, unknown_name


class TaskConfig(Config):
    """What every task's configuration has: a name, a vocabulary size and a sequence length."""

    section: ClassVar[str] = "task"
    evaluations: ClassVar[Mapping[str, str]] = {}
    """splits on which accuracy and loss are also measured in training: name before _accuracy and _loss -> split"""
    asks_numbers: ClassVar[bool] = False
    """numbers are asked for, and the loss is the squared error; otherwise classes, with the cross-entropy in nats"""
    name: str
    d_vocab: int
    seq_len: int

    @property
    def d_input(self) -> int | None:
        """The width of the vectors that a model reads; None where it reads tokens."""
        return None


@dataclass(frozen=True, kw_only=True)
class TriggerBigramConfig(TaskConfig):
    """Sequences from a bigram language in which trigger tokens are followed by an output drawn anew for each
    sequence (Bietti et al., arXiv 2306.00802, section 3)."""

    name: Literal["trigger-bigram"] = "trigger-bigram"  # pyright: ignore[reportIncompatibleVariableOverride]
    d_vocab: int = 65
    """vocabulary size; of a text, the d_vocab most frequent characters are kept"""
    seq_len: int = 64
    """tokens in a training sequence (one more is drawn, as the last target)"""
    language: str = "synthetic"
    """synthetic (Zipf-Dirichlet), prose (the standard library's own documentation), facts (sentences of plain facts,
    65 words), or the path of a text file"""
    language_seed: int = 0
    """seed of the synthetic language and of the choice of held-out outputs"""
    zipf_exponent: float = 1.0
    """synthetic language: base frequency of the token of rank r is proportional to 1 / r ** zipf_exponent; facts: that of subjects"""
    concentration: float = 10.0
    """synthetic language: each row of the bigram matrix is Dirichlet(concentration * base frequencies)"""
    n_triggers: int = 5
    """triggers in each sequence"""
    triggers: Literal["fixed", "random"] = "fixed"
    """fixed: the most frequent tokens; random: drawn from the unigram distribution for each sequence"""
    outputs: Literal["uniform", "bigram", "followers"] = "uniform"
    """a trigger's output is uniform over the vocabulary, a bigram draw from the trigger, or uniform over the tokens that
    can follow the trigger in the language"""
    no_repeat: bool = False
    """an output never equals its trigger"""
    ood_fraction: float = 0.0
    """share of the vocabulary kept out of the training outputs, for the split "ood" (published: 0.25)"""

    def check(self) -> None:
        self.require(self.d_vocab >= 2, f"d_vocab must be at least 2, got {self.d_vocab}")
        self.require(self.seq_len >= 2, f"seq_len must be at least 2, got {self.seq_len}")
        self.require(
            1 <= self.n_triggers <= self.d_vocab, f"n_triggers must be between 1 and d_vocab={self.d_vocab}, got {self.n_triggers}"
        )
        self.require(self.zipf_exponent >= 0, f"zipf_exponent must be at least 0, got {self.zipf_exponent}")
        self.require(self.language_seed >= 0, f"language_seed must be at least 0, got {self.language_seed}")
        self.require(self.concentration > 0, f"concentration must be positive, got {self.concentration}")
        self.require(0 <= self.ood_fraction < 1, f"ood_fraction must lie in [0, 1), got {self.ood_fraction}")


@dataclass(frozen=True, kw_only=True)
class RepeatedTokensConfig(TaskConfig):
    """Uniformly random tokens, parts of which occur again, so that the context gives the next token
    (Olsson et al., arXiv 2209.11895), with the placements that tell an induction head from a positional one."""

    name: Literal["repeated-tokens"] = "repeated-tokens"  # pyright: ignore[reportIncompatibleVariableOverride]
    d_vocab: int = 64
    """vocabulary size"""
    seq_len: int = 64
    """tokens in a sequence (one more is drawn, as the last target)"""
    placement: Literal["equal", "jittered", "non-periodic"] = "equal"
    """equal: one block repeated at a fixed period; jittered: a period drawn for each sequence; non-periodic:
    copies of earlier stretches at random places among fresh tokens"""
    block_len: int | None = None
    """length of the repeated block (jittered: the longest); default seq_len // 2"""
    distinct: bool = False
    """the tokens of a block all differ"""

    @property
    def period(self) -> int:
        """The block length in force."""
        return self.seq_len // 2 if self.block_len is None else self.block_len

    def check(self) -> None:
        self.require(self.d_vocab >= 2, f"d_vocab must be at least 2, got {self.d_vocab}")
        self.require(self.seq_len >= 4, f"seq_len must be at least 4, got {self.seq_len}")
        self.require(
            2 <= self.period < self.seq_len, f"block_len must be between 2 and seq_len - 1 = {self.seq_len - 1}, got {self.period}"
        )
        self.require(
            not self.distinct or self.period <= self.d_vocab,
            f"distinct blocks of {self.period} need d_vocab of at least as many, got {self.d_vocab}",
        )


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(TaskConfig):
    """Pairs of an object and its label, then an object whose label is asked for: vectors, which either the context or
    what was learnt in training can classify (Reddy, arXiv 2312.03002). The defaults are those of Burns et al., arXiv 2412.15113."""

    evaluations: ClassVar[Mapping[str, str]] = {
        "in_context": "in-context",
        "flipped": "flipped",
        "in_weights": "in-weights",
    }
    name: Literal["in-context-classification"] = "in-context-classification"  # pyright: ignore[reportIncompatibleVariableOverride]
    n_classes: int = 512
    """classes that are the same in all sequences (K), a multiple of n_labels; class k has the label k mod n_labels"""
    n_labels: int = 32
    """labels (L): what a model chooses from"""
    n_pairs: int = 8
    """pairs of an object and its label in a sequence (N); the query follows"""
    max_pairs: int = 32
    """pairs for which the window of positions has room (Nmax): it is 2 * max_pairs + 1 wide"""
    d_content: int = 85
    """coordinates of a class or label (D)"""
    eps: float = 0.1
    """size of the noise that tells objects of one class apart"""
    burstiness: int = 2
    """objects of each class in the context of a bursty sequence (B)"""
    p_bursty: float = 0.5
    """share of bursty sequences among those of known classes"""
    p_novel: float = 0.5
    """share of sequences of novel classes, whose labels only the context tells; they are always bursty"""
    n_novel: int = 128
    """novel classes in a set, a multiple of n_labels; class k has the label k mod n_labels"""
    novel_every: int = 128
    """sequences after which a new set of novel classes is drawn (published: each batch)"""
    zipf_exponent: float = 0.0
    """the frequency of known class k is proportional to 1 / (k + 1) ** zipf_exponent"""
    no_repeats: bool = True
    """the classes of a bursty sequence have different labels"""
    exclude_query: bool = False
    """evaluation of what the weights know: no object of the query's class or label stands in the context"""
    means_seed: int = 0
    """seed of the known classes and the labels"""

    @property
    def d_vocab(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many labels a model chooses from."""
        return self.n_labels

    @property
    def seq_len(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Vectors in a sequence."""
        return 2 * self.n_pairs + 1

    @property
    def window(self) -> int:
        """The width of the window of positions."""
        return 2 * self.max_pairs + 1

    @property
    def d_input(self) -> int:
        """The width of an input: the window of positions and the content."""
        return self.window + self.d_content

    @property
    def n_bursty(self) -> int:
        """Different classes in a bursty sequence."""
        return self.n_pairs // self.burstiness

    def check(self) -> None:
        for name in ("n_classes", "n_pairs", "d_content", "burstiness", "n_novel", "novel_every"):
            self.require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        self.require(self.n_labels >= 2, f"n_labels must be at least 2, got {self.n_labels}")
        for name in ("n_classes", "n_novel"):
            number = getattr(self, name)
            self.require(number % self.n_labels == 0, f"{name} must be a multiple of n_labels={self.n_labels}, got {number}")
        self.require(self.max_pairs >= self.n_pairs, f"max_pairs must be at least n_pairs={self.n_pairs}, got {self.max_pairs}")
        self.require(
            self.n_pairs % self.burstiness == 0, f"n_pairs={self.n_pairs} is not a multiple of burstiness={self.burstiness}; change one"
        )
        limits = {"n_labels": self.n_labels} if self.no_repeats else {"n_classes": self.n_classes, "n_novel": self.n_novel}
        for name, limit in limits.items():
            self.require(
                self.n_bursty <= limit,
                f"a bursty sequence has n_pairs / burstiness = {self.n_bursty} different classes, but {name}={limit}",
            )
        for name in ("p_bursty", "p_novel"):
            self.require(0 <= getattr(self, name) <= 1, f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("eps", "zipf_exponent", "means_seed"):
            self.require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class LinearRegressionConfig(TaskConfig):
    """Pairs of a vector x and y = w . x / sqrt(D), with a w of each sequence's own; y is asked for at every x, the last of which has no
    pair: regression in context (Garg et al., arXiv 2208.01066)."""

    asks_numbers: ClassVar[bool] = True
    name: Literal["in-context-linear-regression"] = "in-context-linear-regression"  # pyright: ignore[reportIncompatibleVariableOverride]
    d_x: int = 5
    """coordinates of x (D)"""
    n_pairs: int = 10
    """pairs of x and y in a sequence (N); one more x follows"""
    noise: float = 0.0
    """standard deviation of what is added to each y"""
    d_input: int = 64  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    """width of the vectors, zero beyond x and y; equal to model.d_model"""

    @property
    def d_vocab(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One output: the number."""
        return 1

    @property
    def seq_len(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Vectors in a sequence."""
        return 2 * self.n_pairs + 1

    def check(self) -> None:
        self.require(self.d_x >= 1, f"d_x must be at least 1, got {self.d_x}")
        self.require(self.n_pairs >= self.d_x, f"n_pairs must be at least d_x={self.d_x}, which determine w, got {self.n_pairs}")
        self.require(self.noise >= 0, f"noise must be at least 0, got {self.noise}")
        self.require(self.d_input > self.d_x, f"d_input must be at least d_x + 1 = {self.d_x + 1} (x and y), got {self.d_input}")


@dataclass(frozen=True, kw_only=True)
class AffineRecurrenceConfig(TaskConfig):
    """Numbers that follow x' = a x + b, with an a and a b of each sequence's own; the next number is asked for at every position,
    and three numbers tell it."""

    asks_numbers: ClassVar[bool] = True
    name: Literal["affine-recurrence"] = "affine-recurrence"  # pyright: ignore[reportIncompatibleVariableOverride]
    seq_len: int = 16
    """numbers in a sequence (one more is drawn, as the last one asked for)"""
    max_slope: float = 0.9
    """a is uniform between -max_slope and max_slope; at most 1, so that numbers stay finite"""
    offset_std: float = 1.0
    """b is normal with mean 0 and this standard deviation"""
    noise: float = 0.0
    """standard deviation of what is added to each number after the first, and carried on"""
    d_input: int = 64  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    """width of the vectors, zero beyond the number; equal to model.d_model"""

    @property
    def d_vocab(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One output: the number."""
        return 1

    def check(self) -> None:
        self.require(self.seq_len >= 3, f"seq_len must be at least 3 (three numbers tell the next), got {self.seq_len}")
        self.require(0 < self.max_slope <= 1, f"max_slope must be above 0 and at most 1, got {self.max_slope}")
        self.require(self.offset_std >= 0, f"offset_std must be at least 0, got {self.offset_std}")
        self.require(self.noise >= 0, f"noise must be at least 0, got {self.noise}")
        self.require(self.d_input >= 1, f"d_input must be at least 1, got {self.d_input}")


TASK_CONFIGS: dict[str, type[TaskConfig]] = {
    "trigger-bigram": TriggerBigramConfig,
    "repeated-tokens": RepeatedTokensConfig,
    "in-context-classification": ClassificationConfig,
    "in-context-linear-regression": LinearRegressionConfig,
    "affine-recurrence": AffineRecurrenceConfig,
}


def task_config(values: Mapping[str, Any]) -> TaskConfig:
    """The configuration of the task that `values["name"]` names."""
    if "name" not in values:
        raise ConfigError(f"task: expected a name, one of {', '.join(TASK_CONFIGS)}")
    name = str(values["name"])
    if name not in TASK_CONFIGS:
        raise ConfigError(f"task: {unknown_name('task', name, TASK_CONFIGS)}")
    return TASK_CONFIGS[name].from_dict(values)
