"""The theory of knowledge hijack (Wang & Sato, arXiv 2412.11459): in closed form, which token the associative-memory
transformer prints when the context and the bigrams of training disagree.

With q the current token, a_s the attention of layer 1 and A(v) the attention that falls on tokens v,

    logit(v) = t3 log pi_b(v | q) + t2 A(v)                          A(v) = sum_s a_s [z_s = v]
    margin   = t2 (A(c) - A(g)) - t3 log(pi_b(g | q) / pi_b(c | q))  c from the context, g from the bigrams

The model prints c where the margin is positive; where it is negative the context is hijacked. The boundary is a line in the
plane of attention gap and prior log-odds. The model itself is built in model/constructed.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.axes import Logits, Tokens
from workbench.model.constructed import Strengths

Attention = Float[Tensor, "batch dst src"]


def noted_tokens(n_pos: int, b0: float) -> Float[Tensor, "dst src"]:
    """How much of each earlier token layer 0 notes at each position: exp(b0 [r = s - 1]) / sum over r <= s. For b0 = inf, all of
    the token before; position 0 can only note its own.

    >>> noted_tokens(3, math.inf)
    tensor([[1., 0., 0.],
            [1., 0., 0.],
            [0., 1., 0.]], dtype=torch.float64)
    """
    before = torch.eye(n_pos, dtype=torch.float64).roll(1, dims=0).tril(-1)
    if math.isinf(b0):
        before[0, 0] = 1.0
        return before
    weight = (1 + math.expm1(b0) * before).tril()
    return weight / weight.sum(dim=-1, keepdim=True)


def attention(tokens: Tokens, strengths: Strengths, triggers: Sequence[int] | None = None) -> Attention:
    """Where layer 1 attends: exp(t1 times how much of the current token is noted at s), normalised over s <= t; evenly, where
    the current token is no trigger (`triggers`; None: all are) or nothing is noted of it.

    >>> attention(torch.tensor([[5, 7, 9, 5]]), Strengths())[0, 3]
    tensor([0.5000, 0.5000, 0.0000, 0.0000], dtype=torch.float64)

    Position 0 can only note its own token, and so looks like what follows it.
    """
    n_pos = tokens.shape[1]
    same = (tokens[:, :, None] == tokens[:, None, :]).double()
    looked_for = torch.ones_like(tokens, dtype=torch.bool)
    if triggers is not None:
        looked_for = torch.isin(tokens, torch.as_tensor(list(triggers), device=tokens.device, dtype=tokens.dtype))
    noted = (same @ noted_tokens(n_pos, strengths.b0).to(tokens.device).T) * looked_for[..., None]
    future = torch.full((n_pos, n_pos), -math.inf, dtype=torch.float64, device=tokens.device).triu(1)
    if math.isinf(strengths.t1):
        reachable = noted + future
        largest = (reachable == reachable.amax(dim=-1, keepdim=True)).double()
        return largest / largest.sum(dim=-1, keepdim=True)
    return (strengths.t1 * noted + future).softmax(dim=-1)


def attention_mass(attended: Attention, tokens: Tokens, d_vocab: int) -> Float[Tensor, "batch pos d_vocab"]:
    """A(v): how much attention falls on each token of the vocabulary.

    >>> attention_mass(torch.tensor([[[1.0, 0.0], [0.25, 0.75]]]).double(), torch.tensor([[2, 0]]), 3)[0, 1]
    tensor([0.7500, 0.0000, 0.2500], dtype=torch.float64)
    """
    return attended @ torch.nn.functional.one_hot(tokens, d_vocab).double()


def closed_form_logits(
    tokens: Tokens, log_bigram: Float[Tensor, "d_vocab d_vocab"], strengths: Strengths, triggers: Sequence[int] | None = None
) -> Logits:
    """The logits of the associative-memory transformer at every position, from tokens and strengths alone.

    >>> log_bigram = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5]]).double())
    >>> closed_form_logits(torch.tensor([[0]]), log_bigram, Strengths(t2=2.0))[0, 0].round(decimals=3)
    tensor([ 0.6140, -0.2880], dtype=torch.float64)
    """
    mass = attention_mass(attention(tokens, strengths, triggers), tokens, len(log_bigram))
    return strengths.t3 * log_bigram.double()[tokens] + strengths.t2 * mass


def attention_gap(
    mass: Float[Tensor, "batch pos d_vocab"], context: Int[Tensor, " batch"], prior: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """A(c) - A(g) at the last position: how much more attention falls on the context's token than on the bigrams'."""
    last = mass[:, -1]
    return (last.gather(1, context[:, None]) - last.gather(1, prior[:, None]))[:, 0]


def prior_log_odds(
    log_bigram: Float[Tensor, "d_vocab d_vocab"],
    trigger: Int[Tensor, " batch"],
    context: Int[Tensor, " batch"],
    prior: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """log(pi_b(g | q) / pi_b(c | q)): how much more likely the bigrams find g than c."""
    return log_bigram[trigger, prior] - log_bigram[trigger, context]


def margin(gap: Float[Tensor, " batch"], log_odds: Float[Tensor, " batch"], strengths: Strengths) -> Float[Tensor, " batch"]:
    """logit(c) - logit(g): positive where the context wins, negative where the bigrams hijack it.

    >>> margin(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 3.0]), Strengths(t2=2.0, t3=1.0))
    tensor([ 1., -1.])
    """
    return strengths.t2 * gap - strengths.t3 * log_odds


def boundary(log_odds: Float[Tensor, " batch"], strengths: Strengths) -> Float[Tensor, " batch"]:
    """The attention gap at which the margin is zero: the line between context and hijack. inf where t2 is zero and the
    bigrams decide alone.

    >>> boundary(torch.tensor([1.0, 3.0]), Strengths(t2=2.0, t3=1.0))
    tensor([0.5000, 1.5000])
    """
    return strengths.t3 * log_odds / strengths.t2 if strengths.t2 else torch.full_like(log_odds, math.inf)
