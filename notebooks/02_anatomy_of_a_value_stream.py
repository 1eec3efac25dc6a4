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
# # 2. Anatomy of a value stream
#
# What does the wire carry? You take a trained model apart: who plays which role, what the weights do, what arrives along the wire, and
# what is lost when it is cut. If you know TransformerLens you know the names; two hooks are new.
#
# Half a minute on two cores where notebook 1 has been run (it trains the model), a minute otherwise. `WORKBENCH_FAST=1` runs everything in
# seconds, with numbers that mean nothing.

# %%
import numpy as np
import plotly.express as px
import torch
from pace import RUNS, pace

from workbench import presets, train
from workbench.evaluation import evaluate, masked_mean
from workbench.figures.heads import score_heat_map
from workbench.figures.theme import TEMPLATE

config = presets["trigger-bigram"].override(model={"stream": "value"}, train={"steps": pace(600, 30), "checkpoint_every": pace(15, 10)})
run = train(config, RUNS / "trigger-bigram" / "value" / "seed_0", resume=True, progress=False)
torch.set_grad_enabled(False)  # nothing is trained from here on
last = run.analyze(["formation", "circuits", "stream"], steps=run.steps[-1:], sequences=pace(256, 16), write=False)

# %% [markdown]
# ## Roles
#
# One head of layer 0 should look at the token before, at the positions that hold answers, and none of layer 1. Heads of layer 1 should
# match prefixes. Heads are named on one half of the sequences and scored on the other; these are the scores.

# %%
formation = last[last["metric"].isin(["previous_token_at_answers", "prefix_matching_score"])]
score_heat_map(formation, task="trigger-bigram", metrics=["previous_token_at_answers", "prefix_matching_score"])

# %% [markdown]
# ## The wire, by its hooks
#
# In layer 1, `hook_v` is the head's own projection, `hook_v_stream` what arrives, and `hook_v_used` their sum, which attention uses.
# What arrives is layer 0's `hook_v`. So both differences below are zero.

# %%
model = run.model()
batch = run.task.sample(pace(256, 16), np.random.default_rng(0))
logits, cache = model.run_with_cache(batch.tokens)
own, streamed, used = cache["v", 1], cache["v_stream", 1], cache["v_used", 1]  # each [batch, pos, head, d_head]
float((own + streamed - used).abs().max()), float((streamed - cache["v", 0]).abs().max())

# %% [markdown]
# ## Two OV circuits
#
# A head of layer 1 now has two ways from a token to the logits: its own values, `W_V` of layer 1, and the streamed ones, `W_V` of layer 0,
# both through its `W_O`. Here they are in token space, all heads of layer 1 together: row, the token that is looked at; column, the token
# whose logit it moves (norms are left out). A blue diagonal is *copying*. See that it is clear in the streamed circuit, and faint in the
# own one.

# %%
through = model.W_O[1]
circuits = {
    "own": model.W_E @ (model.W_V[1] @ through).sum(0) @ model.W_U,
    "streamed": model.W_E @ (model.W_V[0] @ through).sum(0) @ model.W_U,
}
px.imshow(
    torch.stack(list(circuits.values())).numpy(),
    facet_col=0,
    color_continuous_scale="RdBu",
    color_continuous_midpoint=0,
    labels={"x": "token whose logit moves", "y": "token looked at", "color": "logit"},
    template=TEMPLATE,
).for_each_annotation(lambda note: note.update(text=list(circuits)[int(note.text.split("=")[1])]))

# %% [markdown]
# The same as one number a head, from the eigenvalues of these matrices: the copying score is 1 when all of them are positive, -1 when all
# are negative. `total` is both circuits together. The score does not know how large a matrix is, so the own circuit's half is half of
# little.

# %%
last.query("metric == 'copying_score' and layer == 1").pivot_table(index="head", columns="part", values="value").round(2)

# %% [markdown]
# ## How much of the output came along the wire?
#
# Since `hook_v_used` is a sum and attention is linear in it, what a head writes splits exactly. A share of 1 would mean that all of it
# came from layer 0 along the wire, a share of 0 that the wire might as well not be there.

# %%
last.query("metric == 'streamed_output_share'")[["layer", "head", "value", "ci_low", "ci_high"]].round(2)

# %% [markdown]
# ## Cut it
#
# An edit of `hook_v_stream` cuts the wire and leaves everything else alone. By hand: the mean over sequences in place of what arrives.
# Accuracy where the context has the answer should fall a long way.


# %%
def cut(values, hook):
    return values.mean(dim=0, keepdim=True).expand_as(values)


def accuracy(hooks=()) -> float:
    with model.hooks(hooks):
        return masked_mean(evaluate(model, batch, chunk=len(batch)).correct, batch.answered)


accuracy(), accuracy([("blocks.1.attn.hook_v_stream", cut)])

# %% [markdown]
# The analysis does the same with other replacements, with intervals: zero, the mean, another sequence's values, the next head's. Shares of
# the in-context accuracy that are lost:

# %%
last.query("metric == 'cut_accuracy_share' and head.isna()")[["intervention", "value", "ci_low", "ci_high"]].round(2)

# %% [markdown]
# ## Wire or residual stream?
#
# Layer 0 reaches layer 1 in two ways. The loss when layer 0's values are another sequence's for the wire alone, for the residual stream
# alone, and for both. If one could stand in for the other, losing it alone would cost little. See that each alone costs nearly all:
# the residual stream brings the *match*, the wire brings *what is copied*.

# %%
paths = last.query("metric == 'path_accuracy_share' and intervention == 'resample' and part != 'interaction'")
px.bar(paths, x="part", y="value", template=TEMPLATE, labels={"part": "", "value": "share of in-context accuracy lost"}, range_y=[0, 1.05])

# %% [markdown]
# ## Questions
#
# Each takes a line or two; what we found is in [answers.md](answers.md), 2.
#
# 1. Which single head's wire matters most? `last.query("metric == 'cut_accuracy_share' and intervention == 'resample'")`: the rows with a
#    head. Why do they not add up to the row without?
# 2. Does the wire matter where only learnt statistics can tell the next token? `last.query("metric == 'cut_bigram_increase'")`.
# 3. Is a mean over sequences a fair way to cut? Let `cut` return `values * 0`, or `values.roll(1, dims=0)`, and ask `accuracy` again.
