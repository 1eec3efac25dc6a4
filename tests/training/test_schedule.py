"""The steps that are saved, and the learning rate against its formula."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.config import TrainConfig
from workbench.training.schedule import checkpoint_steps, learning_rate

COUNTS = st.integers(1, 5000)


@given(data=st.data(), steps=COUNTS)
def test_steps_are_sorted_unique_and_in_range(data, steps):
    first = data.draw(st.integers(0, 9000))
    config = TrainConfig(
        steps=steps,
        checkpoint_steps=tuple(data.draw(st.lists(st.integers(0, steps), max_size=5))),
        checkpoint_every=data.draw(st.none() | COUNTS),
        checkpoint_log=data.draw(st.none() | st.integers(1, 300)),
        checkpoint_dense=data.draw(st.none() | st.just((first, first + data.draw(COUNTS), data.draw(COUNTS)))),
    )
    saved = checkpoint_steps(config)
    assert saved == sorted(set(saved)) and saved[0] == 0 and saved[-1] == steps
    expected = {0, steps, *config.checkpoint_steps}
    if config.checkpoint_every:
        expected |= {step for step in range(steps) if step % config.checkpoint_every == 0}
    if config.checkpoint_dense:
        low, high, every = config.checkpoint_dense
        expected |= {step for step in range(steps + 1) if low <= step <= high and (step - low) % every == 0}
    logarithmic = set(saved) - expected
    assert expected <= set(saved) and len(logarithmic) <= (config.checkpoint_log or 0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0, 100]),
        ({"checkpoint_steps": (50, 7, 7, 0)}, [0, 7, 50, 100]),
        ({"checkpoint_every": 30}, [0, 30, 60, 90, 100]),
        ({"checkpoint_log": 1}, [0, 1, 100]),
        ({"checkpoint_log": 3}, [0, 1, 10, 100]),
        ({"checkpoint_dense": (95, 300, 2)}, [0, 95, 97, 99, 100]),
        ({"checkpoint_dense": (200, 300, 2)}, [0, 100]),
        ({"checkpoint_every": 50, "checkpoint_dense": (20, 24, 4)}, [0, 20, 24, 50, 100]),
    ],
)
def test_known_schedules(fields, expected):
    assert checkpoint_steps(TrainConfig(steps=100, **fields)) == expected


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 13, 101])
@pytest.mark.parametrize("fraction", [0.0, 0.1])
def test_learning_rate_equals_its_formula(schedule, warmup, fraction):
    config = TrainConfig(steps=101, lr=0.7, schedule=schedule, warmup_steps=warmup, final_lr_fraction=fraction)
    for step in range(101):
        if step < warmup:
            expected = 0.7 * (step + 1) / warmup
        elif schedule == "constant":
            expected = 0.7
        else:
            angle = math.pi * (step - warmup) / (101 - warmup)
            expected = 0.7 * fraction + (0.7 - 0.7 * fraction) * math.cos(angle / 2) ** 2
        assert learning_rate(config, step) == pytest.approx(expected, rel=1e-12)
    end = 0.7 * fraction if schedule == "cosine" and warmup < 101 else 0.7
    assert learning_rate(config, 101) == pytest.approx(end)
