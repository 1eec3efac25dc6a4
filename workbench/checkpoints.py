"""One checkpoint on disk: weights, their architecture, and what training needs to go on. Nothing is unpickled.

step_00000400/model.safetensors     the weights
              trainer.safetensors   the optimiser's state (only the newest two checkpoints of a run keep it)
              trainer.json          counters of the training loop
              config.json           format, step, architecture, a hash of each file above, and of itself
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from workbench.config import ModelConfig
from workbench.errors import CheckpointError, ConfigError
from workbench.storage import beside

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
CONFIG, MODEL, TRAINER, COUNTERS = "config.json", "model.safetensors", "trainer.safetensors", "trainer.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose config.json has been read and verified; the tensors are read when asked for."""

    path: Path
    step: int
    model_config: ModelConfig
    hashes: Mapping[str, str]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read and verify config.json. Raises CheckpointError for a damaged file or a newer format."""
        try:
            values = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{path} is not a checkpoint: it has no {CONFIG}") from None
        except (ValueError, OSError):
            raise CheckpointError(f"{path / CONFIG} is damaged: it is not readable JSON; use another checkpoint") from None
        if not isinstance(values, dict) or not isinstance(values.get("format"), int):
            raise CheckpointError(f"{path / CONFIG} is not a checkpoint's description: it names no format")
        if values["format"] > FORMAT:
            raise CheckpointError(f"{path} has format {values['format']}, this version reads up to {FORMAT}: upgrade workbench")
        if values.pop("checksum", None) != _checksum(values):
            raise CheckpointError(f"{path / CONFIG} is damaged: its checksum does not match; use another checkpoint")
        try:
            return cls(path, values["step"], ModelConfig.from_dict(values["model"]), values["files"])
        except (KeyError, ConfigError) as error:
            raise CheckpointError(f"{path / CONFIG}: {error}") from error

    def weights(self) -> dict[str, Tensor]:
        """The model's state dict. Raises CheckpointError where the file is damaged."""
        return self._tensors(MODEL)

    def trainer(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The optimiser's tensors and the loop's counters. Raises CheckpointError where they were not kept."""
        if not (self.path / TRAINER).exists() or not (self.path / COUNTERS).exists():
            raise CheckpointError(f"{self.path} holds no optimiser state: training cannot go on from it")
        return self._tensors(TRAINER), json.loads(self._content(COUNTERS))

    def drop_trainer(self) -> None:
        """Delete what only resuming needs."""
        # The tensors last: while they are there, a run knows that something is left to delete.
        for name in (COUNTERS, TRAINER):
            (self.path / name).unlink(missing_ok=True)

    def _tensors(self, name: str) -> dict[str, Tensor]:
        try:
            return load(self._content(name))
        except SafetensorError as error:
            raise CheckpointError(f"{self.path / name} is damaged: {error}") from error

    def _content(self, name: str) -> bytes:
        """A file's content, verified: what is hashed is what is used."""
        try:
            content = (self.path / name).read_bytes()
        except FileNotFoundError:
            raise CheckpointError(f"{self.path} is incomplete: it has no {name}") from None
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path / name}: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != self.hashes.get(name):
            raise CheckpointError(f"{self.path / name} is damaged: its content does not match its hash; use another checkpoint")
        return content


def write_checkpoint(
    path: Path,
    step: int,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    trainer: Mapping[str, Tensor] | None = None,
    counters: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Write a checkpoint folder: it is there whole, or not at all. Without `trainer`, training cannot go on from it."""
    contents = {MODEL: _serialised(weights)}
    if trainer is not None:
        contents |= {TRAINER: _serialised(trainer), COUNTERS: json.dumps(dict(counters or {})).encode()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    values = {"format": FORMAT, "step": step, "model": config.to_dict(), "files": hashes}
    contents[CONFIG] = json.dumps({**values, "checksum": _checksum(values)}, indent=2).encode()
    with beside(path) as part:
        part.mkdir()
        for name, content in contents.items():
            (part / name).write_bytes(content)
    return Checkpoint(path, step, config, hashes)


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
