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
# # 4. AMICL: in-context learning without training
#
# An associative memory can do a little in-context learning with no training at all
# ([Burns et al.](https://arxiv.org/abs/2412.15113), section 2). It is the idea from which the value stream came. You set its one strength,
# change what counts as alike, and put your own data in.
#
# A quarter of a minute on two cores. `WORKBENCH_FAST=1` runs everything in seconds, with wider intervals.

# %%
import numpy as np
import pandas as pd
from pace import pace

from workbench.amicl.accuracy import pearson_ceiling, sweep
from workbench.amicl.attention import attention_table
from workbench.amicl.config import PAPER
from workbench.amicl.data import Sequences, draw
from workbench.amicl.published import PUBLISHED, by_strength, comparison
from workbench.figures.amicl import accuracy_by_size, accuracy_by_strength, attention_matrices

trials = pace(1000, 60)

# %% [markdown]
# ## The model
#
# A sequence alternates objects and labels, ends with a query object and an empty slot. The key of a position is its token mixed with the
# token before, which has the strength a. The slot answers with the token whose key is most like its query. So a label is found by the
# object *before* it: a match that an induction head makes with two layers is made here in one.
#
# See that a strength of 1 is right in a third of the sequences, and 1.5 in nearly all, and that the published proportions lie within the
# intervals or close to them.

# %%
comparison(trials)[["a", "value", "ci_low", "ci_high", "n", "published"]].round(3)

# %% [markdown]
# ## Change the strength, and what counts as alike
#
# The four similarities on the same sequences. See that the dot product climbs steeply between a = 1 and 1.5 (diamonds: the published
# values). Pearson's correlation stays below a dotted line however large a is: the first object has nothing before it, so its key is a bare
# object, and where it is of the query's class it wins.

# %%
strengths = by_strength(trials, quick=True)
accuracy_by_strength(strengths, PUBLISHED, pearson_ceiling(PAPER.n_tokens, PAPER.n_classes))

# %% [markdown]
# ## Where it looks
#
# One sequence, every similarity: scores, softmax and argmax. A letter names a class (A an object, a its label). See that in the last row,
# the empty slot, one cell is darkest: the label that followed the query's own class.

# %%
attention_matrices(attention_table())

# %% [markdown]
# ## Longer sequences, fewer dimensions
#
# Random vectors are less orthogonal the fewer numbers they have, and a longer sequence has more wrong keys to be taken for the right one.
# See that accuracy falls with the length at small dimensions, and hardly at large ones.

# %%
sizes = pace((10, 20, 40, 100), (10, 20))
setting = PAPER.replace(n_classes=50)
accuracy_by_size(pd.concat([sweep("n", sizes, setting.replace(d=d), trials) for d in sizes]))

# %% [markdown]
# ## Your own data
#
# A function that draws sequences is all it takes. Here the labels are no longer random vectors: each lies near one common label. Now a key
# says less about which label it is, but the match is made by the object before it, and objects have not changed. Before you look: does
# accuracy fall?


# %%
def alike_labels(config, trials: int, generator: np.random.Generator) -> Sequences:
    plain = draw(config, trials, generator)
    common = (generator.normal(size=config.d) / np.sqrt(config.d)).astype(np.float32)
    tokens = plain.tokens.copy()
    tokens[:, 1:-2:2] = 0.5 * tokens[:, 1:-2:2] + common
    return Sequences(tokens, 0.5 * plain.labels + common)


at = (1.0, 1.25, 1.5, 2.0)
pd.DataFrame(
    {"random labels": sweep("a", at, trials=trials)["value"], "labels alike": sweep("a", at, trials=trials, draw=alike_labels)["value"]}
).set_axis(pd.Index(at, name="a"))

# %% [markdown]
# ## Questions
#
# Each takes one line; what we found is in [answers.md](answers.md), 4.
#
# 1. Does the mean of all values (softmax) answer as well as the best one? `sweep("a", at, PAPER.replace(answer="softmax"), trials)`, then
#    the same with `beta=100`.
# 2. How noisy may the objects be? `[sweep("a", [1.5], PAPER.replace(eps=eps), trials)["value"][0] for eps in (0.1, 0.5, 1, 2)]`.
