# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Positions, and sequences longer than in training
#
# An induction head needs a previous-token head, and that needs to know what "previous" is. How a model is told about positions decides
# whether its circuit holds on longer sequences than it was trained on. You train one model for each kind and ask each at up to four times
# the training length.
#
# Two to three minutes on two cores. `WORKBENCH_FAST=1` runs everything in seconds, with numbers that mean nothing.

# %%
import pandas as pd
from pace import RUNS, pace

from workbench import presets, train
from workbench.figures.formation import accuracy_curves, from_metrics
from workbench.figures.length import accuracy_by_position
from workbench.figures.patterns import pattern_panels
from workbench.variant import variant_fields

# %% [markdown]
# ## Train one of each
#
# *standard* learns a vector for each position, *relative* a vector for each distance (added to the key), *rotary* turns queries and keys
# by an angle that grows with the position, and *nopos* knows no positions at all. A variant's name sets the fields of the configuration:

# %%
variant_fields("none-rotary")

# %%
start = presets["positions"].override(train={"steps": pace(800, 30), "checkpoint_every": pace(100, 10)})
runs = {}
for position in ("standard", "relative", "rotary", "nopos"):
    config = start.override(model=variant_fields(f"none-{position}"))
    runs[position] = train(config, RUNS / "positions" / position, resume=True, progress=False)

# %% [markdown]
# Inside the training length, the three that know positions should learn the task, and *nopos* stay behind.

# %%
curves = [from_metrics(run.metrics(), run=position, variant=run.config.model.variant, seed=0) for position, run in runs.items()]
accuracy_curves(pd.concat(curves))

# %% [markdown]
# ## Beyond the training length
#
# Three panels by position: in-context accuracy, the score of the best previous-token head, and how often a prompt that shows its answer
# is hijacked by the bigrams. Training ended at the dashed line. See that the accuracy of *relative* hardly notices it, though its head
# weakens. *standard* has lost its previous-token head even before the line, and its prompts are hijacked; yet its accuracy stays high:
# answers shown early still serve late positions. *rotary* holds to twice the length and fades.

# %%
for run in runs.values():
    run.analyze(["length", "formation"], steps=run.steps[-1:], sequences=pace(256, 16))
accuracy_by_position(pd.concat([run.table("length") for run in runs.values()]), {run.name: position for position, run in runs.items()})

# %% [markdown]
# The same in numbers, averaged over stretches: inside the training length, up to twice it, and up to four times it.

# %%
length = pd.concat([run.table("length").assign(positions=position) for position, run in runs.items()])
length["stretch"] = pd.cut(length["position"], [-1, 63, 127, 255], labels=["inside", "1x to 2x", "2x to 4x"])
found = length[length["metric"].isin(["accuracy_by_position", "previous_token_by_position"])]
best = found.groupby(["metric", "positions", "stretch", "position"], observed=True)["value"].max()  # of the heads, the best
best.groupby(["metric", "positions", "stretch"], observed=True).mean().unstack("stretch").round(2)

# %% [markdown]
# ## Why relative positions hold
#
# The vector of the distance 1 is the same wherever it is used. The pattern of layer 0 shows it: in the *relative* model the line below the
# diagonal (L0H1) is even from the first position to the last.

# %%
pattern_panels(runs["relative"].attention(), [f"L0H{head}" for head in range(4)])

# %% [markdown]
# ## Questions
#
# Each takes a line or two; what we found is in [answers.md](answers.md), 5.
#
# 1. Does a third layer help a model without positions? `start.override(model={**variant_fields("none-nopos"), "n_layers": 3})`, in
#    another folder.
# 2. And sinusoidal positions, which have no table that ends? Add `"sinusoidal"` to the list above and run the notebook again.
# 3. Is accuracy at far positions a good test of the circuit? Compare the two upper panels for *standard*.
