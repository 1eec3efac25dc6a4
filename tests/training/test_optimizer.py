"""The optimiser against torch's plain implementation, and its state there and back."""

import pytest
import torch

from tests.small_runs import small_config
from workbench.errors import CheckpointError
from workbench.model import HookedTransformer
from workbench.optimizer_state import optimizer_tensors, restore_optimizer
from workbench.training.optimizer import make_optimizer

TRAINS = [
    small_config(lr=0.01, weight_decay=0.1, betas=(0.7, 0.9)).train,
    small_config(optimizer="sgd", lr=0.01, weight_decay=0.1, momentum=0.6).train,
    small_config(optimizer="sgd", lr=0.01, momentum=0.0).train,
]


def make_model(**fields) -> HookedTransformer:
    return HookedTransformer(small_config(model=fields).model)


def update(model, optimizer, seed: int) -> None:
    """An update by gradients that depend on the seed only."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) if parameter.requires_grad else None
    optimizer.step()


def naive_update(config, values, state, gradients, step):
    """AdamW (Loshchilov and Hutter, algorithm 2) and SGD with momentum, in float64."""
    for name, gradient in gradients.items():
        gradient, value = gradient.double(), values[name]
        if config.optimizer == "sgd":
            gradient = gradient + config.weight_decay * value
            state[name] = gradient if name not in state else config.momentum * state[name] + gradient
            values[name] = value - config.lr * state[name]
        else:
            (first, second), (beta1, beta2) = state.get(name, (0.0, 0.0)), config.betas
            state[name] = first, second = beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient**2
            change = first / (1 - beta1**step) / ((second / (1 - beta2**step)).sqrt() + 1e-8)
            values[name] = value - config.lr * (change + config.weight_decay * value)


@pytest.mark.parametrize("config", TRAINS)
def test_updates_equal_the_formula(config):
    model = make_model()
    optimizer = make_optimizer(config, model)
    values, state = {name: value.detach().double() for name, value in model.named_parameters()}, {}
    for step in range(1, 6):
        update(model, optimizer, step)
        naive_update(config, values, state, {name: value.grad for name, value in model.named_parameters()}, step)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach().double(), values[name], rtol=1e-5, atol=1e-6)


def test_adamw_equals_the_plain_implementation():
    ours, theirs = make_model(), make_model()
    fused = make_optimizer(TRAINS[0], ours)
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, betas=(0.7, 0.9), fused=False, foreach=False)
    for seed in range(5):
        update(ours, fused, seed)
        update(theirs, plain, seed)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_frozen_parameters_stay():
    model = make_model(frozen=("blocks.*.attn.W_V",))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(TRAINS[0], model)
    update(model, optimizer, 0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.endswith("W_V")}
    assert not any("W_V" in name for name in optimizer_tensors(optimizer, model))


@pytest.mark.parametrize("config", TRAINS)
@pytest.mark.parametrize("updates", [0, 3])
def test_the_state_there_and_back(config, updates):
    model = make_model()
    optimizer = make_optimizer(config, model)
    for seed in range(updates):
        update(model, optimizer, seed)
    tensors = optimizer_tensors(optimizer, model)
    again = make_model()
    again.load_weights(model.state_dict())
    restored = make_optimizer(config, again)
    restore_optimizer(restored, again, tensors)
    update(model, optimizer, 99)
    update(again, restored, 99)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
    # What was given out is a copy.
    assert not tensors or any(not torch.equal(tensors[key], value) for key, value in optimizer_tensors(optimizer, model).items())


def test_the_state_of_another_model_is_refused():
    model = make_model()
    optimizer = make_optimizer(TRAINS[0], model)
    for tensors in ({"nowhere|exp_avg": torch.zeros(3)}, {"embed.W_E|exp_avg": torch.zeros(7, 11)}):
        with pytest.raises(CheckpointError, match="does not belong to this model"):
            restore_optimizer(optimizer, model, tensors)
