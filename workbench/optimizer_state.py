"""An optimiser's state as named tensors, there and back: what a checkpoint keeps, and nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from workbench.errors import CheckpointError


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as tensors named `<parameter>|<kind>`."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensors[f"{name}|{kind}"] = torch.as_tensor(value).detach().clone().contiguous()
    return tensors


def restore_optimizer(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave. Raises CheckpointError where it belongs to another model."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, kind = key.partition("|")
        if name not in parameters or (value.ndim and value.shape != parameters[name].shape):
            raise CheckpointError(f"the optimiser state {key} does not belong to this model")
        device = parameters[name].device
        optimizer.state[parameters[name]][kind] = value.clone().to(device)
