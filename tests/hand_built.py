"""Attention-only models whose every attention and output is known: weights set by hand, no norm, exact in float32.

The residual stream has four blocks: the token, the position, the token before (written by layer 0) and the output (read by
the unembedding). Scores are 0 or `SHARP`, so that attention is exactly 1 or 0 (or even among equals). Head 0 of each layer
does the work; head 1 is idle: it attends evenly and writes nothing.
"""

from __future__ import annotations

import torch

from workbench.config import ModelConfig
from workbench.model import HookedTransformer

D_VOCAB, N_CTX = 13, 17
SHARP = 200.0
TOKEN = slice(0, D_VOCAB)
POSITION = slice(TOKEN.stop, TOKEN.stop + N_CTX)
BEFORE = slice(POSITION.stop, POSITION.stop + D_VOCAB)
OUTPUT = slice(BEFORE.stop, BEFORE.stop + D_VOCAB)
D_MODEL, D_HEAD = OUTPUT.stop, 29


def blank(**fields) -> HookedTransformer:
    """The embedding and the unembedding of all of these models, and heads that do nothing."""
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": D_MODEL, "d_head": D_HEAD, "d_vocab": D_VOCAB, "n_ctx": N_CTX}
    model = HookedTransformer(ModelConfig(**(sizes | {"normalization_type": None, "attn_scale": 1.0} | fields))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E[:, TOKEN] = torch.eye(D_VOCAB)
        if "pos_embed.W_pos" in model.state_dict():
            model.pos_embed.W_pos[:, POSITION] = torch.eye(N_CTX)
        model.unembed.W_U[OUTPUT] = torch.eye(D_VOCAB)
    return model


def induction(stream: str = "none", copying: str = "own", strength: float = 3.0, **fields) -> HookedTransformer:
    """A previous-token head (L0H0) and an induction head (L1H0), both perfect. The token after earlier occurrences of the
    current token gets the logit `strength` (shared, where they differ), every other token 0.

    copying: "own" (L1H0's own values), "stream" (values that arrive from L0H0 along a value stream; its own W_V is zero),
    or "both" (half each). Where the token has not occurred, L1H0 attends evenly to positions 1 .. t (to 0 from 0).
    With copying "own", L0H0's values stand in dimensions of the head that L1H0's W_O does not read, so that a value stream
    carries them and nothing comes of it.
    """
    model = blank(stream=stream, **fields)
    first, second = model.blocks[0].attn, model.blocks[1].attn
    unread = D_VOCAB if copying == "own" else 0
    with torch.no_grad():
        for t in range(1, N_CTX):
            first.W_Q[0, POSITION.start + t, t - 1] = SHARP
        first.W_K[0, POSITION, :N_CTX] = torch.eye(N_CTX)
        for v in range(D_VOCAB):
            first.W_V[0, TOKEN.start + v, v + unread] = 1.0
            first.W_O[0, v + unread, BEFORE.start + v] = 1.0
        second.W_Q[0, TOKEN, :D_VOCAB] = SHARP * torch.eye(D_VOCAB)
        second.W_K[0, BEFORE, :D_VOCAB] = torch.eye(D_VOCAB)
        # Position 0 has no token before, so layer 0 writes its own there: the key takes that back.
        second.W_K[0, POSITION.start, :D_VOCAB] = -1.0
        share = {"own": 1.0, "stream": 0.0, "both": 1.0}[copying]
        second.W_V[0, TOKEN, :D_VOCAB] = share * torch.eye(D_VOCAB)
        scale = strength / 2 if copying == "both" else strength
        second.W_O[0, :D_VOCAB, OUTPUT] = scale * torch.eye(D_VOCAB)
    return model


def bag_of_tokens(strength: float = 3.0) -> HookedTransformer:
    """L1H0 attends evenly to everything and copies it: it predicts what is frequent in the context, and matches nothing."""
    model = blank()
    with torch.no_grad():
        model.blocks[1].attn.W_V[0, TOKEN, :D_VOCAB] = torch.eye(D_VOCAB)
        model.blocks[1].attn.W_O[0, :D_VOCAB, OUTPUT] = strength * torch.eye(D_VOCAB)
    return model


def positional(distance: int, layer: int = 1, strength: float = 3.0) -> HookedTransformer:
    """Head 0 of `layer` attends `distance` positions back and copies: perfect on repeats of period `distance` + 1, and no
    induction head. Positions before `distance` attend evenly."""
    model = blank()
    attn = model.blocks[layer].attn
    with torch.no_grad():
        for t in range(distance, N_CTX):
            attn.W_Q[0, POSITION.start + t, t - distance] = SHARP
        attn.W_K[0, POSITION, :N_CTX] = torch.eye(N_CTX)
        attn.W_V[0, TOKEN, :D_VOCAB] = torch.eye(D_VOCAB)
        attn.W_O[0, :D_VOCAB, OUTPUT] = strength * torch.eye(D_VOCAB)
    return model
