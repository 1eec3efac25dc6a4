"""The optimiser of a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from workbench.config import TrainConfig


def make_optimizer(config: TrainConfig, model: nn.Module) -> Optimizer:
    """AdamW or SGD over the parameters that are trained, in the model's order."""
    return optimizer_over(config, [parameter for parameter in model.parameters() if parameter.requires_grad])


def optimizer_over(config: TrainConfig, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """AdamW or SGD over these parameters."""
    if config.optimizer == "sgd":
        return SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return AdamW(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)
