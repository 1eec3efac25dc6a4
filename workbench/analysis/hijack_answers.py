"""What a model does at the end of prompts in which context and bigrams disagree: who wins, where it attends, and who says so.

The margin logit(c) - logit(g), c from the context and g from the bigrams, is split twice, because an MLP also reads what attention
brought:

    directly   what each component writes along the direction of the margin, the final norm's scale held: a sum over components
    causally   the margin that is left when every head's z is replaced by its mean over a corpus at that position (global: all
               that does not depend on this context), and the rest (in context)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.analysis.attribution import Component, direct_contributions, needed
from workbench.analysis.interventions import chunks, run
from workbench.analysis.roles import Head
from workbench.axes import Tokens
from workbench.model import ActivationCache, HookedTransformer
from workbench.tasks.base import Batch
from workbench.tasks.hijack import Prompts

OfPrompts = Float[Tensor, " prompt"]


@dataclass(frozen=True)
class Answers:
    """What a model does at the end of each prompt, on the CPU."""

    margins: OfPrompts
    """logit(c) - logit(g)"""
    gaps: OfPrompts | None
    """A(c) - A(g), the mean over the induction heads; None without any"""
    contributions: Mapping[Component, OfPrompts]
    """what each component adds directly to the margin; they sum to it"""
    global_margins: OfPrompts | None = None
    """the margin without anything of this context; None without a corpus"""


@torch.inference_mode()
def answers(model: HookedTransformer, prompts: Prompts, heads: tuple[Head, ...] = (), corpus: Batch | None = None) -> Answers:
    """Margins of the prompts with both of their splits, and the attention gap of some heads at their ends.

    `corpus` are sequences at least as long as the prompts, whose mean z stands for no context.
    """
    names = sorted({*needed(model.config), *(f"blocks.{head.layer}.attn.hook_pattern" for head in heads)})
    margins, gaps = [], []
    contributions: dict[Component, list[Tensor]] = {}
    for rows in chunks(len(prompts), prompts.tokens.shape[1]):
        part = prompts[rows]
        tokens = part.tokens.to(model.W_E.device)
        context, prior = (part.design[name].to(tokens.device)[:, None] for name in ("context", "prior"))
        logits, cache = model.run_with_cache(tokens, names_filter=names)
        margins.append(_difference(logits[:, -1], context, prior))
        last = _at_the_end(model, cache)
        for_context, for_prior = (direct_contributions(model, last, token).by_component() for token in (context, prior))
        for component, value in for_context.items():
            contributions.setdefault(component, []).append((value - for_prior[component])[:, 0].cpu())
        if heads:
            attended = torch.stack([last["pattern", head.layer][:, head.head, 0] for head in heads]).mean(dim=0)
            sign = (tokens == context).to(attended.dtype) - (tokens == prior).to(attended.dtype)
            gaps.append((attended * sign).sum(dim=1).cpu())
    return Answers(
        torch.cat(margins),
        torch.cat(gaps) if heads else None,
        {component: torch.cat(parts) for component, parts in contributions.items()},
        None if corpus is None else global_margins(model, prompts, corpus),
    )


@torch.inference_mode()
def margins_of(model: HookedTransformer, prompts: Prompts) -> OfPrompts:
    """The margins of the prompts alone."""
    found = []
    for rows in chunks(len(prompts), prompts.tokens.shape[1]):
        context, prior = (prompts[rows].design[name].to(model.W_E.device)[:, None] for name in ("context", "prior"))
        found.append(_difference(model(prompts[rows].tokens.to(model.W_E.device))[:, -1], context, prior))
    return torch.cat(found)


@torch.inference_mode()
def global_margins(model: HookedTransformer, prompts: Prompts, corpus: Batch) -> OfPrompts:
    """The margins that are left when every head's z at the end of the prompt is its mean over the corpus at that position.

    At the end, nothing but the heads depends on earlier tokens, so one pass for each trigger is enough.
    """
    end = prompts.tokens.shape[1] - 1
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.config.n_layers)]
    recorded = run(model, corpus, record=names).recorded
    means = {name: z[:, end].mean(dim=0) for name, z in recorded.items()}

    def replaced(z: Tensor, hook) -> Tensor:
        z = z.clone()
        z[:, end] = means[hook.name]
        return z

    triggers, which = prompts.tokens[:, end].unique(return_inverse=True)
    tokens: Tokens = prompts.tokens[:1].repeat(len(triggers), 1)
    tokens[:, end] = triggers
    logits = model.run_with_hooks(tokens.to(model.W_E.device), fwd_hooks=[(name, replaced) for name in names])[:, end].cpu()
    context, prior = (prompts.design[name][:, None] for name in ("context", "prior"))
    return _difference(logits[which], context, prior)


def _difference(logits: Float[Tensor, "prompt d_vocab"], context: Tensor, prior: Tensor) -> OfPrompts:
    return (logits.gather(1, context) - logits.gather(1, prior))[:, 0].cpu()


def _at_the_end(model: HookedTransformer, cache: ActivationCache) -> ActivationCache:
    """The cache of the last position alone: the last row of patterns; values, which are read, at all positions."""

    def last(name: str, value: Tensor) -> Tensor:
        if name.endswith("hook_pattern"):
            return value[:, :, -1:]
        return value if name.endswith(("hook_v", "hook_v_stream", "hook_v_used")) else value[:, -1:]

    return ActivationCache({name: last(name, value) for name, value in cache.items()}, model)
