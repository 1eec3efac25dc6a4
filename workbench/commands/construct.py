"""`workbench construct`"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from workbench.config import RunConfig, TriggerBigramConfig
from workbench.errors import UsageError, unknown_name
from workbench.runs import Run

if TYPE_CHECKING:
    from workbench.model.constructed import Strengths
    from workbench.tasks.trigger_bigram import TriggerBigram

NAMES = ("associative-memory",)


def construct(
    name: Annotated[str, Parameter(help="associative-memory")],
    *,
    out: Annotated[Path | None, Parameter(help="folder of the new run; default: runs/NAME")] = None,
    b0: Annotated[float, Parameter(help="layer 0's attention to the token before; inf: to nothing else")] = math.inf,
    t1: Annotated[float, Parameter(help="layer 1's attention to what followed the trigger; inf: to nothing else")] = math.inf,
    t2: Annotated[float, Parameter(help="logit of what is attended to")] = 8.0,
    t3: Annotated[float, Parameter(help="weight of the bigrams' log-probabilities")] = 1.0,
    positions: Annotated[
        Literal["standard", "relative"], Parameter(help="absolute positions, or one vector for the distance 1")
    ] = "standard",
    stream: Annotated[bool, Parameter(help="a value stream does the copying; layer 1's own values are zero")] = False,
    all_tokens: Annotated[bool, Parameter(help="look for every token, not only for the task's triggers")] = False,
    d_model: Annotated[int | None, Parameter(help="random near-orthonormal vectors of this dimension; default: exact ones")] = None,
    d_vocab: Annotated[int, Parameter(help="tokens of the bigram language")] = 65,
    n_ctx: Annotated[int, Parameter(help="longest sequence")] = 64,
    seed: Annotated[int, Parameter(help="seed of the random vectors")] = 0,
) -> None:
    """Make a run, with one checkpoint, of a transformer whose weights are written down (Wang & Sato, arXiv 2412.11459).

    associative-memory: layer 0 notes the token before, layer 1 finds what followed the trigger, an MLP knows the bigrams of the
    task trigger-bigram. The run is analysed like any other.
    """
    if name not in NAMES:
        raise unknown_name("construction", name, NAMES)
    task = TriggerBigramConfig(d_vocab=d_vocab, seq_len=n_ctx)
    for option, value in (("--d-model", d_model), ("--seed", seed)):
        if value is not None and value < (1 if option == "--d-model" else 0):
            raise UsageError(f"{option} must be at least {1 if option == '--d-model' else 0}, got {value}")

    from workbench.model.constructed import Strengths, associative_memory
    from workbench.tasks.trigger_bigram import TriggerBigram

    made = TriggerBigram(task)
    strengths = Strengths(b0, t1, t2, t3)
    triggers = None if all_tokens else made.fixed_triggers.tolist()
    model = associative_memory(
        made.language.bigram, n_ctx, strengths, triggers, positions=positions, stream=stream, d_model=d_model, seed=seed
    ).float()
    if d_model is not None:
        print(_crosstalk(strengths, made, triggers, d_model, positions=positions, stream=stream), file=sys.stderr)
    said = {part: "inf" if math.isinf(value) else value for part, value in vars(strengths).items()}  # JSON has no infinity
    run = Run.create(out or Path("runs") / name, RunConfig(model=model.config, task=task), constructed={"name": name, **said})
    run.save(0, model)
    print(run.path)


def _crosstalk(strengths: Strengths, task: TriggerBigram, triggers: list[int] | None, d_model: int, **options: Any) -> str:
    """How far random vectors are expected to be from the theory, on one sequence of the task."""
    import numpy as np
    import torch

    from workbench.analysis.hijack_crosstalk import expected_deviation

    if math.isinf(strengths.t1):
        return (
            "note: with --t1 inf the crosstalk of random vectors decides where layer 1 attends; give a finite --t1 for the theory to hold"
        )
    tokens = task.sample(1, np.random.default_rng(0)).tokens[0]
    trigger = torch.tensor([int(task.fixed_triggers[0])])
    expected = expected_deviation(torch.cat([tokens[:-1], trigger]), task.language.bigram, strengths, d_model, triggers, **options)
    size = expected.square().mean().sqrt().item()
    return f"random vectors of dimension {d_model}: logits are expected to be off the theory by {size:.2g} (standard deviation)"
