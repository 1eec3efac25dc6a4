"""`workbench import`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from workbench.commands.train import Fields
from workbench.config import RunConfig
from workbench.errors import CheckpointError, ConfigError, UsageError
from workbench.runs import Run

if TYPE_CHECKING:
    from torch import Tensor


def import_weights(
    state_dict: Annotated[Path, Parameter(help="a .safetensors file, or a .pt file that holds nothing but tensors")],
    *,
    out: Annotated[Path, Parameter(help="folder of the new run")],
    step: Annotated[int, Parameter(help="the training step these weights are from")] = 0,
    model: Annotated[Fields, Parameter(help="what shapes cannot tell: --model.act-fn gelu_new --model.normalization-type LNPre")] = None,
) -> None:
    """Make a run, with one checkpoint, of a classic HookedTransformer's state dict.

    Sizes are read off the tensors; what they cannot tell is asked for. The run is then analysed like any other.
    """
    tensors = read_state_dict(state_dict)

    from workbench.model import HookedTransformer

    fields = {name.replace("-", "_"): value for name, value in (model or {}).items()}
    try:
        imported = HookedTransformer.from_state_dict(tensors, None, **fields)
    except ConfigError as error:
        raise ConfigError(f"{error}; on the command line: --model.normalization-type LNPre and the like") from error
    run = Run.create(out, RunConfig(model=imported.config), imported_from=state_dict.name)
    run.save(step, imported)
    print(run.path)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file: safetensors, or a .pt file through torch's restricted loader, which runs no code.

    Raises UsageError for a file that is not there or of another kind, CheckpointError for a damaged one.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise UsageError(f"{path} is neither .safetensors nor .pt, .pth or .bin")

    import warnings

    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    # A file that is something else makes the restricted loader stumble anywhere: its errors have no common base.
    except Exception as error:
        raise CheckpointError(f"{path} is damaged, or holds more than tensors ({type(error).__name__})") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path} is not a state dict: expected names with tensors")
    return tensors
