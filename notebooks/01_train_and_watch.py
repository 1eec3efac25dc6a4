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
# # 1. Train, and watch a circuit form
#
# Two small transformers, twins but for one wire: in the second, a head of layer 1 also receives the values of the same head of layer 0
# (a *value stream*, [Burns et al.](https://arxiv.org/abs/2412.15113)). Both learn the same task, and you watch when each begins to use
# its context, and which heads do it.
#
# Two to three minutes on two cores. `WORKBENCH_FAST=1` runs everything in seconds, with numbers that mean nothing.

# %%
import pandas as pd
from pace import RUNS, pace

from workbench import compare, presets, train
from workbench.figures.circuitsvis import attention_heads, token_log_probs
from workbench.figures.formation import accuracy_curves, from_metrics
from workbench.figures.head_curves import score_curves
from workbench.figures.patterns import pattern_panels
from workbench.figures.widget import AttentionWidget

# %% [markdown]
# ## The task
#
# A bigram language in which some tokens are *triggers*: in each sequence, a trigger is always followed by the same token, drawn anew for
# that sequence. From its second occurrence on, only the context can tell what follows. A head that does so finds the earlier occurrence
# and copies what came after it: an *induction head*.

# %%
config = presets["trigger-bigram"].override(train={"steps": pace(600, 30), "checkpoint_every": pace(15, 10)})


def trained(stream: str, seed: int):
    """The run of one variant and seed; what is there already is loaded."""
    own = config.override(model={"stream": stream, "seed": seed}, train={"data_seed": seed})
    return train(own, RUNS / "trigger-bigram" / stream / f"seed_{seed}", resume=True, progress=False)


none, value = trained("none", 0), trained("value", 0)
print(value.task.describe())

# %% [markdown]
# Each run is a folder of checkpoints. As the last line of a cell it shows what it is; once it is analysed, it says what was found.

# %%
none

# %% [markdown]
# ## When does the context count?
#
# In-context accuracy is the share of right answers where the context has shown the answer. Look for the *shape*: a first rise to nearly one
# half in both, which needs no induction head; a plateau; and a second rise to one, earlier with the value stream than without. The curves
# are drawn from the evaluations during training.

# %%
curves = [from_metrics(run.metrics(), run=run.name, variant=run.config.model.variant, seed=0) for run in (none, value)]
accuracy_curves(pd.concat(curves), threshold=0.95)

# %% [markdown]
# ## Which heads do it, and when did they form?
#
# `analyze` measures every checkpoint on sequences that training never saw, and writes tidy tables. Two scores matter here, each a share
# of attention between 0 and 1: *previous-token* (does a head look at the token before, where it matters?) and *prefix matching* (does it
# look at what followed the earlier occurrence of its token?).
#
# See that they rise with the second rise of accuracy: a head of layer 0 (orange) notes the token before, the heads of layer 1 (purple) look
# for it. Grey heads do neither. In both models prefix matching comes first and the previous-token head follows; with the value stream all
# of it comes some ninety steps earlier.

# %%
for run in (none, value):
    run.analyze(["formation", "probes"], sequences=pace(256, 16))

formation = pd.concat([run.table("formation") for run in (none, value)])
named = ("previous-token", "induction")
roles = {
    run.name: {head["head"]: f"{head['kind']} head" for head in run.summary()["heads"] if head["kind"] in named} for run in (none, value)
}
score_curves(formation, task="trigger-bigram", roles=roles, metrics=["previous_token_at_answers", "prefix_matching_score"])

# %% [markdown]
# The same run again. Now it gives the account of its analysis: every number in it is a value of a row of the tables.

# %%
value

# %% [markdown]
# The table `emergence` holds the events in numbers: `threshold_step` is the first checkpoint at which a curve is as high as `baseline`
# says. See when the weights of layer 1 copy half of the vocabulary: with the value stream at once, long before the answers; without it, not
# before the heads match.

# %%
events = pd.concat([run.table("emergence") for run in (none, value)])
events.query("metric == 'threshold_step'")[["variant", "part", "layer", "head", "value", "baseline"]]

# %% [markdown]
# ## The patterns themselves
#
# Each panel is a head; each row a position, and the dark cells of a row are where it looks. First at the start: all panels are smeared
# over everything before, as no head knows anything yet.

# %%
pattern_panels(value.attention(step=0))

# %% [markdown]
# At the end: a line one below the diagonal is the previous-token head (L0H1); one on the diagonal is a head that looks at its own position.
# Heads of layer 1 show single dark cells, each at what followed an earlier occurrence of the token. Hover to read the tokens. `attention`
# works at every saved checkpoint.

# %%
pattern_panels(value.attention())

# %% [markdown]
# One head large beside all of them, in CircuitsVis: point at a small pattern, click to keep it.

# %%
attention_heads(value.attention())

# %% [markdown]
# What comes of it. The redder a token, the more probable the last checkpoint held it; underlined are those that the context had already
# shown. See that these are deep red. Point at one to read what else was considered.

# %%
token_log_probs(value)

# %% [markdown]
# ## Scrub through training
#
# The same patterns at every checkpoint, under the curves from above; a number there marks the midpoint of a rise. Drag the slider from 150
# to 300 and watch the cells of L1H3 darken inside the circles, which mark what followed the last earlier occurrence: an induction head
# forms. (After several occurrences it spreads over all of them, so late circles stay paler.) Space plays it, a click keeps a row;
# *Compare with* puts the other run beside it.

# %%
AttentionWidget([none, value], run=value.name, step=150, head="L1H3")

# %% [markdown]
# ## The report, and more than one seed
#
# Everything on one page that needs no network:

# %%
value.report()

# %% [markdown]
# One seed is an illustration, not a result. `compare` pairs variants by seed and says only what the intervals allow; with three seeds
# they are wide. (The same from a terminal, several runs at once: `workbench train trigger-bigram --stream none,value --seeds 0:8`.)

# %%
for seed in range(1, pace(3, 2)):
    for stream in ("none", "value"):
        trained(stream, seed)
compare(RUNS / "trigger-bigram")

# %% [markdown]
# ## Questions
#
# Each takes one line; what we found is in [answers.md](answers.md), 1.
#
# 1. Does the value stream change what is reached in the end, or only when? `accuracy_curves(formation)`, and the last column of `compare`.
# 2. At which step can you *see* the induction head? `pattern_panels(value.attention(step=210), ["L1H3"])`, and other steps.
# 3. Is the head that forms the same with another seed? `trained("value", 1).analyze("formation")`, then `trained("value", 1)`.
