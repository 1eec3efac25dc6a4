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
# # 3. Knowledge hijack
#
# The context says *q c*. The bigrams learnt in training say *q g*. Which does a model answer after the next *q*? Where the bigrams win over
# the context, [Wang and Sato](https://arxiv.org/abs/2412.11459) call it *knowledge hijack*, and give a closed form for a transformer whose
# weights are written down by hand. First you check the theory on that transformer, then you ask a trained one.
#
# One to two minutes on two cores. `WORKBENCH_FAST=1` runs everything in seconds, with numbers that mean nothing.

# %%
import numpy as np
import plotly.express as px
import torch
from pace import RUNS, pace

from workbench import Run, RunConfig, TriggerBigramConfig, make_task, presets, train
from workbench.analysis import hijack
from workbench.figures.hijack import hijack_map, margin_by_context
from workbench.figures.hijack_curves import hijack_curves
from workbench.figures.hijack_parts import margin_parts
from workbench.figures.theme import TEMPLATE
from workbench.model.constructed import Strengths, associative_memory, log_probabilities

# %% [markdown]
# ## A transformer written down by hand
#
# Two layers of one head. Layer 0 notes the token before. Layer 1 finds what followed the trigger, with strength t1, and prints it, with
# strength t2. An MLP adds the log-probabilities of the bigrams, with strength t3. Its logits have a closed form: the largest difference
# from the model, over all positions and tokens of some sequences, should be zero or rounding alone.

# %%
task = make_task(TriggerBigramConfig())
strengths = Strengths(t1=3.0, t2=6.0, t3=1.0)
triggers = task.fixed_triggers.tolist()
model = associative_memory(task.language.bigram, task.config.seq_len, strengths, triggers)
tokens = task.sample(32, np.random.default_rng(0)).tokens
with torch.no_grad():
    found = model(tokens)
theory = hijack.closed_form_logits(tokens, log_probabilities(task.language.bigram), strengths, triggers)
float((found - theory).abs().max())

# %% [markdown]
# As a run it is analysed like any other. The section `hijack` asks it prompts in which context and bigrams disagree. The margin is
# logit(c) - logit(g): above zero the context wins. See that the points, the model's, lie on the lines, the closed form's: the more pairs
# *q c* in the context, the higher the margin; each pair *q g* pulls it down; and the more the bigrams prefer g, the lower it starts.

# %%
folder = RUNS / "memory"
if Run.is_run(folder):
    memory = Run.load(folder)
else:
    memory = Run.create(folder, RunConfig(model=model.config, task=task.config))
    memory.save(0, model.float())
memory.analyze("hijack")
margin_by_context(memory.table("hijack_prompts"))

# %% [markdown]
# The theory in one line: margin = t2 · gap - t3 · log-odds, with the gap in attention (to c, less to g) and the log-odds of g over c in the
# language. It is zero on a line, gap = (t3 / t2) · log-odds, and below that line the bigrams win. With weaker bigrams (a smaller t3) the
# line is flatter and fewer prompts are hijacked:

# %%
prompts = memory.table("hijack_prompts").query("n_context > 0")
gap, odds = torch.tensor(prompts["gap"].to_numpy()), torch.tensor(prompts["log_odds"].to_numpy())
rates = [
    {"t3": t3, "hijacked": float((hijack.margin(gap, odds, Strengths(t2=6.0, t3=float(t3))) < 0).double().mean())}
    for t3 in np.linspace(0, 4, 41)
]
px.line(rates, x="t3", y="hijacked", template=TEMPLATE, range_y=[-0.02, 1.02], title="Share of prompts that are hijacked, with t2 = 6")

# %% [markdown]
# ## A trained model
#
# In the preset `hijack` any token may be a trigger in one sequence and an ordinary word in the next, so a model learns both what usually
# follows it and to look it up. Some checkpoints are analysed.

# %%
steps = pace(1000, 40)
trained = train(presets["hijack"].override(train={"steps": steps}), RUNS / "hijack", resume=True, progress=False)
trained.analyze("hijack", steps=[step for step in trained.steps if step % pace(100, 20) == 0 and step > 0], sequences=pace(256, 16))
trained

# %% [markdown]
# Every point is a prompt: how much the bigrams prefer g (across), how much more the induction heads attend to c than to g (up), and in
# colour who wins. Move the slider from the left. See that at step 100 no head has found the trigger: all gaps are near zero, and the
# bigrams win wherever they prefer g at all. Then the points spread upwards (the context says c) and downwards (it also says g). From some
# hundred steps on, the fitted boundary turns flatter: less attention is enough for the context to win.

# %%
hijack_map(trained.table("hijack_prompts"), trained.table("hijack"))

# %% [markdown]
# Over training. See three things. The hijack rate falls. The part of the margin that is there without this context (the bigrams alone)
# arrives first. And the closed form explains the margins well early, and less well late.

# %%
hijack_curves(trained.table("hijack"))

# %% [markdown]
# What the margin is made of at the end, by the number of pairs *q c* in the context. Bars below zero work for the bigrams. See that more
# pairs raise what the heads of layer 1 add, and leave the rest alone.

# %%
margin_parts(trained.table("hijack"))

# %% [markdown]
# ## Questions
#
# Each takes a line or two; what we found is in [answers.md](answers.md), 3.
#
# 1. How large may t3 be before the constructed model lets the bigrams win half of the time? Read it off the curve, then change `t2`.
# 2. Where does the closed form go wrong in the trained model? `trained.table("hijack").query("metric == 'hijack_residual'")`, at the last
#    step, by `condition`.
# 3. Does a value stream make a model less easily hijacked? Add `model={"stream": "value"}` to `override`, with another folder.
