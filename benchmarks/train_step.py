"""What a stream costs: the time of a training step with each stream, over that of the plain model.

    python -m benchmarks.train_step [--preset trigger-bigram] [--rounds 60]

The variants take turns, step by step, so that a busy machine slows them all alike; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time

from workbench.config import RunConfig
from workbench.model import HookedTransformer
from workbench.preset import preset
from workbench.tasks import make_task
from workbench.tasks.draw import TrainingBatches
from workbench.training.hardware import arithmetic, resolve_device, resolve_dtype
from workbench.training.optimizer import make_optimizer

VARIANTS = ("none", "value", "query", "key")
WARM_UP = 5


class Stepper:
    """One variant, ready to take timed steps."""

    def __init__(self, config: RunConfig, device: str) -> None:
        assert config.task is not None and config.train is not None
        self.train, self.device = config.train, device
        self.dtype = resolve_dtype(config.train.dtype, device)
        self.model = HookedTransformer(config.model).to(device)
        self.optimizer = make_optimizer(config.train, self.model)
        self.batches = TrainingBatches(make_task(config.task), config.train.batch_size, 0)

    def seconds(self, step: int) -> float:
        """The time of one update, data apart."""
        batch = self.batches[step].to(self.device)
        started = time.perf_counter()
        with arithmetic(self.dtype, self.device):
            loss = self.model(batch.tokens, return_type="loss", targets=batch.targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()
        return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="trigger-bigram")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    steppers = {stream: Stepper(preset(arguments.preset).override(model={"stream": stream}), device) for stream in VARIANTS}
    times: dict[str, list[float]] = {stream: [] for stream in VARIANTS}
    for step in range(WARM_UP + arguments.rounds):
        for stream, stepper in steppers.items():
            seconds = stepper.seconds(step)
            if step >= WARM_UP:
                times[stream].append(seconds)
    plain = statistics.median(times["none"])
    for stream, measured in times.items():
        median = statistics.median(measured)
        print(f"{stream:<6} {median * 1e3:7.1f} ms a step   {median / plain:.3f} of the plain model's")


if __name__ == "__main__":
    main()
