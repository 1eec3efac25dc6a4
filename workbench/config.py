"""What a run is made of: frozen dataclasses, saved as YAML with the run; the saved file is the only way back.

Defaults live here and nowhere else. Every value is checked when the object is made: a wrong type, a value out
of range or an impossible combination is a `ConfigError` of one line. This module imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml

from workbench.config_base import Config
from workbench.config_file import parsed_yaml, read_text
from workbench.errors import ConfigError
from workbench.tasks.configs import (
    AffineRecurrenceConfig,
    ClassificationConfig,
    LinearRegressionConfig,
    RepeatedTokensConfig,
    TaskConfig,
    TriggerBigramConfig,
    task_config,
)
from workbench.variant import PLAIN_ADDITION, Stream, variant_name

__all__ = [
    "AffineRecurrenceConfig",
    "ClassificationConfig",
    "LinearRegressionConfig",
    "ModelConfig",
    "RepeatedTokensConfig",
    "RunConfig",
    "TaskConfig",
    "TrainConfig",
    "TriggerBigramConfig",
    "read_config",
]

StreamSource = Literal["previous", "accumulated", "first"]
HeadPermutation = Literal["none", "fixed", "by-position"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """A transformer, in the field names of TransformerLens's classic HookedTransformer, and its stream (Burns et al., section 3)."""

    section: ClassVar[str] = "model"
    n_layers: int = 2
    """number of blocks"""
    n_heads: int = 4
    """attention heads in each block"""
    d_model: int = 64
    """width of the residual stream"""
    d_head: int | None = None
    """width of a head; default d_model / n_heads"""
    d_mlp: int | None = None
    """width of the MLP; default 4 * d_model"""
    d_vocab: int = 65
    """number of tokens"""
    n_ctx: int = 64
    """longest sequence (size of the learned position table)"""
    act_fn: Literal["relu", "gelu", "gelu_new", "silu", "linear"] = "relu"
    """activation of the MLP"""
    attn_only: bool = True
    """no MLPs"""
    parallel_attn_mlp: bool = False
    """the MLP reads the block's input, beside attention rather than after it"""
    normalization_type: Literal["LN", "LNPre", "RMS", "RMSPre"] | None = "LN"
    """norm before attention, MLP and unembedding; the Pre forms have no learned scale and shift"""
    eps: float = 1e-5
    """added to the variance inside the norm"""
    positional_embedding_type: Literal["standard", "sinusoidal", "relative", "rotary", "none"] = "standard"
    """standard: learned; sinusoidal: fixed; relative: a learned vector a distance, added to the key (Wang & Sato); rotary; none"""
    max_distance: int | None = None
    """relative: distances from this one on share a vector; default n_ctx - 1"""
    rotary_base: float = 10000.0
    """base of the rotary frequencies"""
    attn_scale: float = -1.0
    """divisor of the attention scores; -1 means sqrt(d_head), 1.0 means unscaled"""
    attn_bias: bool = True
    """b_Q, b_K, b_V and b_O are trained; otherwise they stay zero"""
    mlp_bias: bool = True
    """b_in and b_out are trained; otherwise they stay zero"""
    unembed_bias: bool = True
    """b_U is trained; otherwise it stays zero"""
    tie_word_embeddings: bool = False
    """W_U is the transpose of W_E"""
    readout: Literal["unembed", "classifier"] = "unembed"
    """from the residual stream to logits: unembed is W_U alone, classifier puts three relu layers of width d_model before it (Reddy)"""
    dropout: float = 0.0
    """probability of dropping an activation in training (embedding, pattern, attention output, MLP output)"""
    initializer_range: float = -1.0
    """standard deviation of the initial weights; -1 means 0.8 / sqrt(d_model), as in HookedTransformer"""
    embed_std: float | None = None
    """standard deviation of W_E, W_pos and W_U at the start; default initializer_range"""
    frozen: tuple[str, ...] = ()
    """parameters that are not trained, as patterns such as blocks.*.attn.W_V"""
    identity: tuple[str, ...] = ()
    """attention matrices fixed to the identity, as patterns (needs one head with d_head = d_model)"""
    stream: Stream = "none"
    """which projection also travels from head to head: none, query, key or value (Burns et al.)"""
    stream_source: StreamSource = "previous"
    """where it comes from: the layer before, the accumulated projections, or the first layer (Zhou et al.)"""
    stream_mix: Literal["add", "learned"] = "add"
    """used = a * own + b * source: add keeps a and b as stream_init says, learned trains them, a pair a layer (Zhou et al.)"""
    stream_init: tuple[float, float] = PLAIN_ADDITION
    """(a, b) at the start; 1.0 1.0 is plain addition (Burns et al.), 1.0 0.0 the plain model, 0.5 0.5 the scale-keeping control"""
    stream_permute_heads: HeadPermutation = "none"
    """control: head h receives from head h + 1 (fixed), or at position s from head h + s (by-position), counted around"""
    stream_detach: bool = False
    """control: no gradient flows back along the wire"""
    seed: int = 0
    """seed of the initial weights"""

    @property
    def head_width(self) -> int:
        """The width of a head in force: d_head, or d_model / n_heads."""
        return self.d_model // self.n_heads if self.d_head is None else self.d_head

    @property
    def mlp_width(self) -> int:
        """The width of the MLP in force: d_mlp, or 4 * d_model."""
        return 4 * self.d_model if self.d_mlp is None else self.d_mlp

    @property
    def longest_distance(self) -> int:
        """The distance in force from which relative positions share a vector: max_distance, or n_ctx - 1."""
        return self.n_ctx - 1 if self.max_distance is None else self.max_distance

    @property
    def score_divisor(self) -> float:
        """What attention scores are divided by: attn_scale, or sqrt(d_head) for -1."""
        return self.head_width**0.5 if self.attn_scale == -1.0 else self.attn_scale

    @property
    def variant(self) -> str:
        """How tables and figures call this model: the stream, with a suffix for what differs from the default."""
        return variant_name(self)

    def receives_stream(self, layer: int) -> bool:
        """Whether the heads of `layer` receive the projection of an earlier layer."""
        return self.stream != "none" and layer > 0

    def check(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "d_vocab", "n_ctx"):
            self.require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        self.require(self.d_head is None or self.d_head >= 1, f"d_head must be at least 1, got {self.d_head}")
        self.require(self.max_distance is None or self.max_distance >= 1, f"max_distance must be at least 1, got {self.max_distance}")
        self.require(self.d_mlp is None or self.d_mlp >= 1, f"d_mlp must be at least 1, got {self.d_mlp}")
        self.require(
            self.d_head is not None or self.d_model % self.n_heads == 0,
            f"d_model={self.d_model} is not a multiple of n_heads={self.n_heads}; change one or give d_head",
        )
        self.require(
            self.positional_embedding_type != "rotary" or self.head_width % 2 == 0,
            f"rotary positions need an even d_head, got {self.head_width}",
        )
        self.require(
            self.positional_embedding_type != "sinusoidal" or self.d_model % 2 == 0,
            f"sinusoidal positions need an even d_model, got {self.d_model}",
        )
        self.require(
            self.attn_scale == -1.0 or self.attn_scale > 0, f"attn_scale must be positive, or -1 for sqrt(d_head), got {self.attn_scale}"
        )
        self.require(0 <= self.dropout < 1, f"dropout must lie in [0, 1), got {self.dropout}")
        self.require(self.eps > 0, f"eps must be positive, got {self.eps}")
        self.require(
            self.initializer_range == -1.0 or self.initializer_range > 0,
            f"initializer_range must be positive, or -1, got {self.initializer_range}",
        )
        self.require(self.embed_std is None or self.embed_std > 0, f"embed_std must be positive, got {self.embed_std}")
        self.require(
            self.stream == "none" or self.n_layers >= 2,
            f"stream={self.stream!r} needs at least two layers, got n_layers={self.n_layers}",
        )
        self.require(
            self.stream_permute_heads == "none" or self.n_heads >= 2,
            f"stream_permute_heads={self.stream_permute_heads!r} needs at least two heads, got n_heads={self.n_heads}",
        )
        sizes = f"n_heads={self.n_heads}, d_head={self.head_width}, d_model={self.d_model}"
        self.require(
            not self.identity or (self.n_heads == 1 and self.head_width == self.d_model),
            f"identity weights need one head with d_head = d_model, got {sizes}",
        )
        self.require(
            self.readout == "unembed" or not self.tie_word_embeddings,
            "tie_word_embeddings needs readout='unembed': a classifier's W_U reads the last relu layer",
        )
        self.require(
            not (self.attn_only and self.parallel_attn_mlp),
            "parallel_attn_mlp needs MLPs, but attn_only is true",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How a model is trained, evaluated on the way, and saved."""

    section: ClassVar[str] = "train"
    steps: int = 600
    """optimiser updates"""
    batch_size: int = 64
    """sequences in an update"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum"""
    lr: float = 3e-3
    """peak learning rate"""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW: decay of the two running means"""
    momentum: float = 0.9
    """SGD: momentum"""
    weight_decay: float = 0.0
    """AdamW: decoupled decay; SGD: torch's weight_decay (added to the gradient)"""
    schedule: Literal["constant", "cosine"] = "constant"
    """learning rate after the warm-up"""
    warmup_steps: int = 0
    """updates over which the learning rate rises linearly to lr"""
    final_lr_fraction: float = 0.0
    """cosine: learning rate at the end, as a fraction of lr"""
    grad_clip: float | None = None
    """largest norm of the gradient; none: not clipped"""
    loss_on: Literal["all", "answered"] = "all"
    """positions in the loss: all at which a prediction is asked for, or only those whose answer the context has already shown"""
    dtype: Literal["auto", "fp32", "bf16"] = "fp32"
    """arithmetic of the forward pass; auto: bf16 mixed precision where the hardware has it"""
    data_seed: int = 0
    """seed of the training sequences"""
    eval_seed: int = 0
    """seed of the evaluation sequences (never shared with training, whatever data_seed is)"""
    eval_every: int = 25
    """updates between evaluations"""
    eval_size: int = 256
    """sequences in an evaluation"""
    checkpoint_steps: tuple[int, ...] = ()
    """steps to save, as a list"""
    checkpoint_every: int | None = None
    """also save every so many steps"""
    checkpoint_log: int | None = None
    """also save this many steps, spaced evenly in their logarithm"""
    checkpoint_dense: tuple[int, int, int] | None = None
    """also save densely inside a window: first step, last step, every"""

    def check(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "eval_size"):
            self.require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("checkpoint_every", "checkpoint_log"):
            self.require(getattr(self, name) is None or getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("data_seed", "eval_seed"):
            self.require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")
        self.require(self.lr > 0, f"lr must be positive, got {self.lr}")
        self.require(all(0 <= beta < 1 for beta in self.betas), f"betas must lie in [0, 1), got {self.betas}")
        self.require(0 <= self.momentum < 1, f"momentum must lie in [0, 1), got {self.momentum}")
        self.require(self.weight_decay >= 0, f"weight_decay must be at least 0, got {self.weight_decay}")
        self.require(
            0 <= self.warmup_steps <= self.steps, f"warmup_steps must be between 0 and steps={self.steps}, got {self.warmup_steps}"
        )
        self.require(0 <= self.final_lr_fraction <= 1, f"final_lr_fraction must lie in [0, 1], got {self.final_lr_fraction}")
        self.require(self.grad_clip is None or self.grad_clip > 0, f"grad_clip must be positive, got {self.grad_clip}")
        beyond = [step for step in self.checkpoint_steps if not 0 <= step <= self.steps]
        self.require(not beyond, f"checkpoint_steps must lie between 0 and steps={self.steps}, got {beyond[:1]}")
        if self.checkpoint_dense is not None:
            first, last, every = self.checkpoint_dense
            self.require(
                0 <= first <= last and every >= 1,
                f"checkpoint_dense must be (first, last, every) with first <= last, got {self.checkpoint_dense}",
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Everything that decides a run. A run made by somebody else's training loop has no task or train section."""

    section: ClassVar[str] = "run"
    model: ModelConfig
    task: TaskConfig | None = None
    train: TrainConfig | None = None

    def check(self) -> None:
        if self.task is None:
            self.require(self.train is None, "a train section needs a task section")
            return
        if self.task.asks_numbers:
            self.require(
                self.model.d_vocab == 1,
                f"model.d_vocab={self.model.d_vocab}, but the task {self.task.name} asks for one number; set model.d_vocab to 1",
            )
        if self.task.d_input is not None:
            self.require(
                self.model.d_vocab == self.task.d_vocab,
                f"model.d_vocab={self.model.d_vocab} differs from the number of labels that the task {self.task.name} asks for, "
                f"{self.task.d_vocab}; set both",
            )
            self.require(
                self.model.d_model == self.task.d_input,
                f"model.d_model={self.model.d_model} differs from the width of the inputs of the task {self.task.name}, "
                f"{self.task.d_input}; set model.d_model to that",
            )
        self.require(
            self.model.d_vocab == self.task.d_vocab,
            f"model.d_vocab={self.model.d_vocab} differs from task.d_vocab={self.task.d_vocab}; set both",
        )
        self.require(
            self.model.n_ctx >= self.task.seq_len,
            f"model.n_ctx={self.model.n_ctx} is shorter than task.seq_len={self.task.seq_len}; raise model.n_ctx",
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        sections: dict[str, Any] = dict(values) if isinstance(values, Mapping) else {}
        if isinstance(sections.get("task"), Mapping):
            sections["task"] = task_config(sections["task"])
        for name, kind in (("model", ModelConfig), ("train", TrainConfig)):
            if isinstance(sections.get(name), Mapping):
                sections[name] = kind.from_dict(sections[name])
        if "model" not in sections:
            raise ConfigError(f"run: expected the sections task, model and train, got {sorted(map(str, sections)) or values!r}")
        return super().from_dict(sections)

    def override(self, task: Mapping[str, Any] = {}, model: Mapping[str, Any] = {}, train: Mapping[str, Any] = {}) -> RunConfig:
        """A copy with some fields of some sections changed, all checked again."""
        changed: dict[str, Any] = {}
        for name, changes in (("task", task), ("model", model), ("train", train)):
            if changes:
                section = getattr(self, name)
                if section is None:
                    raise ConfigError(f"run: there is no {name} section to change")
                changed[name] = section.replace(**changes)
        return self.replace(**changed)

    def to_yaml(self) -> str:
        """The configuration as YAML text, complete, fields in the order of the class."""
        # In ASCII: with allow_unicode, PyYAML does not read back every line break that it wrote.
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, where: str = "configuration") -> RunConfig:
        """Read what `to_yaml` wrote, or what a person wrote. `where` names the file in errors."""
        values = parsed_yaml(text, where)
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    def differences(self, other: RunConfig) -> list[str]:
        """The fields in which two configurations differ, as 'train.lr is 0.003, not 0.001'."""
        mine, theirs = _flat(self.to_dict()), _flat(other.to_dict())
        keys = [*mine, *(key for key in theirs if key not in mine)]
        return [f"{key} is {mine.get(key)}, not {theirs.get(key)}" for key in keys if mine.get(key) != theirs.get(key)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read_config(path: Path) -> RunConfig:
    """The RunConfig in a YAML file. Raises ConfigError where it cannot be read."""
    return RunConfig.from_yaml(read_text(path, "configuration"), where=str(path))
