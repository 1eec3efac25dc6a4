"""Tables of the section `hijack` such as an analysis writes: margins by the closed form with strengths that grow, plus noise."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

TRIGGERS = (3, 5)
N_CONTEXT, N_PRIOR, DISTANCE, LOG_ODDS = (0, 1, 2, 4), (0, 1), (2, 8, 24), (-2.0, 0.0, 2.0, 4.0)
STEPS = (0, 100, 200, 300, 400)
EVERY = 3
"""so many prompts, one is followed at every step; all are there at the last"""


def strengths(step: int) -> dict[str, float]:
    return {"t1": 0.5 + 0.011 * step, "t2": 0.2 + 0.0153 * step, "t3": 0.7 + 0.0005 * step}


def prompts_table(
    run: str = "none", variant: str = "none", seed: int = 0, steps: tuple[int, ...] = STEPS, gap: bool = True
) -> pd.DataFrame:
    """The table `hijack_prompts`; with `gap` False a run without induction heads."""
    random = np.random.default_rng([seed, len(variant)])
    designs = list(itertools.product(TRIGGERS, LOG_ODDS, N_CONTEXT, N_PRIOR, DISTANCE))
    columns = ("trigger", "log_odds", "n_context", "n_prior", "distance")
    grid = pd.DataFrame(designs, columns=columns).assign(context=11, prior=13)
    grid = grid.assign(prompt=np.arange(len(grid)), fitted=np.arange(len(grid)) % 2 == 0)
    grid["log_odds"] += random.uniform(-0.2, 0.2, len(grid))
    odds = grid["log_odds"].to_numpy()
    followed = random.permutation(len(grid)) % EVERY == 0
    parts = []
    for step in steps:
        t = strengths(step)
        high, pairs = np.exp(t["t1"]), (grid["n_context"] + grid["n_prior"]).to_numpy()
        theory = (grid["n_context"] - grid["n_prior"]).to_numpy() * high / (pairs * high + 64 - pairs)
        predicted = t["t2"] * theory - t["t3"] * odds
        margin = predicted + random.normal(0, 0.6, len(grid))
        own = np.clip(theory + random.normal(0, 0.07, len(grid)), -1, 1) if gap else np.full(len(grid), np.nan)
        part = grid.assign(step=step, margin=margin, gap=own, theory_gap=theory, predicted=predicted)
        parts.append(part if step == steps[-1] else part[followed])
    return pd.concat(parts, ignore_index=True).assign(run=run, variant=variant, seed=seed)


def contributions(bar: int, step: int, n_layers: int, n_heads: int, mlp: bool, stream: bool) -> list[tuple[Any, Any, Any, float]]:
    """(layer, head, part, value) for prompts with so many context pairs; own and streamed sum to the whole head."""
    grown, context = step / 400, np.sqrt(bar)
    rows: list[tuple[Any, Any, Any, float]] = [(None, None, "embed", -0.83), (None, None, "pos_embed", 0.07), (None, None, "bias", -0.11)]
    for layer in range(n_layers):
        if mlp:
            rows.append((layer, None, "mlp", -0.31 - 0.19 * layer))
        for head in range(n_heads):
            whole = -0.05 * (head + 1) if layer == 0 else grown * context * (3.1 if head == 1 else 0.17 * (head - 1.5)) / layer
            rows.append((layer, head, None, whole))
            if stream and layer:
                rows += [(layer, head, "own", 0.3 * whole - 0.05), (layer, head, "streamed", 0.7 * whole + 0.05)]
    return rows


AGAINST = "log_odds above 0"


def hijack_table(
    run: str = "none",
    variant: str = "none",
    seed: int = 0,
    steps: tuple[int, ...] = STEPS,
    *,
    n_layers: int = 2,
    n_heads: int = 3,
    mlp: bool = False,
) -> pd.DataFrame:
    """The table `hijack`, with the rows that the figures draw."""
    random = np.random.default_rng([seed, len(variant), 7])
    rows: list[dict[str, Any]] = []

    def add(metric: str, value: float, half: float = 0.1, **place: Any) -> None:
        rows.append({"step": step, "metric": metric, "value": value, "ci_low": value - half, "ci_high": value + half, "n": 97, **place})

    for step in steps:
        shift = random.normal(0, 0.02)
        for condition in (None, *(f"n_context {bar}" for bar in N_CONTEXT), "distance 8", "log_odds 2", AGAINST):
            bar = int(condition[-1]) if condition and condition.startswith("n_context") else 2
            parts = contributions(bar, step, n_layers, n_heads, mlp, variant.startswith("value"))
            margin = sum(value for _, _, part, value in parts if part not in ("own", "streamed"))
            if condition != "n_context 0":
                add("hijack_margin", margin, condition=condition)
                add("hijack_rate", 0.5 - 0.3 * step / 400 + shift, 0.03, condition=condition)
            for layer, head, part, value in parts:
                add("hijack_contribution", value, layer=layer, head=head, part=part, condition=condition)
            fixed = -0.9 - 0.001 * step - (0.3 if condition == AGAINST else 0.0)
            add("hijack_causal_part", fixed, part="global", condition=condition)
            add("hijack_causal_part", margin - fixed, part="in context", condition=condition)
        t = strengths(step)
        for name, value in t.items():
            add("hijack_strength", value + shift, 0.2, part=name)
        for part, better in (("closed form", 0.0), ("attention of the induction heads", 0.2)):
            add("hijack_r2", min(0.75, 0.002 * step) + better, part=part)
            add("hijack_boundary", t["t3"] / t["t2"] * (1 - better), 0.05, part=part)
    table = pd.DataFrame(rows).assign(run=run, variant=variant, seed=seed, task="trigger-bigram")
    return table.astype({"layer": "Int64", "head": "Int64"})
