"""The forward pass once more, as slow loops in float64 over a state dict: the papers' formulas, one position, head and
layer at a time. It shares no code with the package, and gives every activation under its classic name."""

import math

import numpy as np
import torch

from workbench.config import ModelConfig
from workbench.model import HookedTransformer

P = {"query": "q", "key": "k", "value": "v"}


def random_model(seed: int = 0, **fields) -> HookedTransformer:
    """A float64 model of three layers whose biases, norms and weights are all random, so that none can hide."""
    sizes = {"n_layers": 3, "n_heads": 2, "d_model": 6, "d_head": 4, "d_mlp": 11, "d_vocab": 7, "n_ctx": 5, "act_fn": "gelu"}
    model = HookedTransformer(ModelConfig(**(sizes | fields))).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * 0.6 + (1.0 if name.endswith(".w") else 0.0))
            if not parameter.requires_grad:
                parameter.zero_()
    return model


def random_tokens(batch: int = 2, pos: int = 5, d_vocab: int = 7, seed: int = 1) -> torch.Tensor:
    return torch.randint(d_vocab, (batch, pos), generator=torch.Generator().manual_seed(seed))


def activation(name: str, x: float) -> float:
    if name == "relu":
        return max(x, 0.0)
    if name == "gelu":
        return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
    if name == "gelu_new":
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name == "silu":
        return x / (1 + math.exp(-x))
    assert name == "linear"
    return x


def norm(x, kind, eps, weight, shift):
    """(divisor, normalized, result with scale and shift) of one vector."""
    if kind is None:
        return None, None, x
    if kind.startswith("LN"):
        x = x - sum(x) / len(x)
    divisor = math.sqrt(sum(value * value for value in x) / len(x) + eps)
    x = normalized = x / divisor
    if kind in ("LN", "RMS"):
        x = x * weight
    if kind == "LN":
        x = x + shift
    return divisor, normalized, x


def rotated(x, position, base):
    """Pairs (i, i + half) turned by position / base ** (i / half)."""
    half, out = len(x) // 2, np.zeros(len(x))
    for i in range(half):
        turned = complex(x[i], x[i + half]) * complex(math.cos(position / base ** (i / half)), math.sin(position / base ** (i / half)))
        out[i], out[i + half] = turned.real, turned.imag
    return out


def reference(state, tokens, **c):
    """(logits, activations) of tokens [batch, pos] under the state dict and the fields of a ModelConfig."""
    state = {name: value.detach().double().numpy() for name, value in state.items()}
    runs = [one_sequence(state, [int(token) for token in row], c) for row in tokens]
    names = runs[0].keys()
    acts = {name: torch.tensor(np.array([run[name] for run in runs])) for name in names}
    return acts.pop("logits"), acts


def one_sequence(s, tokens, c):
    n, heads, eps, kind = len(tokens), c["n_heads"], c["eps"], c["normalization_type"]
    acts = {}

    def normed(x, name):
        all_three = [norm(x[t], kind, eps, s.get(f"{name}.w"), s.get(f"{name}.b")) for t in range(n)]
        if kind is not None:
            acts[f"{name}.hook_scale"] = np.array([[divisor] for divisor, _, _ in all_three])
            acts[f"{name}.hook_normalized"] = np.array([normalized for _, normalized, _ in all_three])
        return np.array([result for _, _, result in all_three])

    acts["hook_embed"] = np.array([s["embed.W_E"][token] for token in tokens])
    x = acts["hook_embed"]
    if c["positional_embedding_type"] == "standard":
        acts["hook_pos_embed"] = np.array([s["pos_embed.W_pos"][t] for t in range(n)])
        x = x + acts["hook_pos_embed"]
    if c["positional_embedding_type"] == "sinusoidal":
        width = c["d_model"]
        rows = [[(math.sin if i % 2 == 0 else math.cos)(t / 10000 ** (2 * (i // 2) / width)) for i in range(width)] for t in range(n)]
        acts["hook_pos_embed"] = np.array(rows)
        x = x + acts["hook_pos_embed"]

    own_of, used_of = [], []  # by layer: {"q", "k", "v"} -> [pos, head, d_head]
    for layer in range(c["n_layers"]):
        block = f"blocks.{layer}"
        acts[f"{block}.hook_resid_pre"] = x
        attended = attention(s, normed(x, f"{block}.ln1"), layer, own_of, used_of, acts, c, heads)
        acts[f"{block}.hook_attn_out"] = attended
        if c["attn_only"]:
            x = x + attended
        else:
            middle = x if c["parallel_attn_mlp"] else x + attended
            if not c["parallel_attn_mlp"]:
                acts[f"{block}.hook_resid_mid"] = middle
            out = mlp(s, normed(middle, f"{block}.ln2"), f"{block}.mlp", acts, c["act_fn"])
            acts[f"{block}.hook_mlp_out"] = out
            x = x + attended + out
        acts[f"{block}.hook_resid_post"] = x

    final = normed(x, "ln_final")
    W_U = s["unembed.W_U"] if "unembed.W_U" in s else s["embed.W_E"].T
    acts["unembed.hook_in"] = final
    acts["unembed.hook_out"] = np.array([final[t] @ W_U + s["unembed.b_U"] for t in range(n)])
    acts["logits"] = acts["unembed.hook_out"]
    return acts


def attention(s, x, layer, own_of, used_of, acts, c, heads):
    n, a, letter = len(x), f"blocks.{layer}.attn", P.get(c["stream"])
    own = {}
    for p in "qkv":
        W, b = s[f"{a}.W_{p.upper()}"], s[f"{a}.b_{p.upper()}"]
        own[p] = np.array([[x[t] @ W[h] + b[h] for h in range(heads)] for t in range(n)])
        acts[f"{a}.hook_{p}"] = own[p]
    used = dict(own)
    if letter and layer > 0:
        previous = {"previous": own_of[layer - 1], "accumulated": used_of[layer - 1], "first": own_of[0]}[c["stream_source"]]
        weights = c["stream_init"] if c["stream_mix"] == "add" else (s[f"{a}.stream_own"], s[f"{a}.stream_in"])
        arriving = np.array([[previous[letter][t, giver(c, t, h, heads)] for h in range(heads)] for t in range(n)])
        acts[f"{a}.hook_{letter}_stream"] = weights[1] * arriving
        used[letter] = weights[0] * own[letter] + weights[1] * arriving
        acts[f"{a}.hook_{letter}_used"] = used[letter]
    own_of.append(own)
    used_of.append(used)

    q, k, v = used["q"], used["k"], used["v"]
    if c["positional_embedding_type"] == "rotary":
        q, k = (np.array([[rotated(m[t, h], t, c["rotary_base"]) for h in range(heads)] for t in range(n)]) for m in (q, k))
        acts[f"{a}.hook_rot_q"], acts[f"{a}.hook_rot_k"] = q, k
    divisor = math.sqrt(q.shape[-1]) if c["attn_scale"] == -1.0 else c["attn_scale"]
    scores, pattern = np.full((heads, n, n), -np.inf), np.zeros((heads, n, n))
    z, out = np.zeros_like(v), np.zeros((n, c["d_model"]))
    for h in range(heads):
        for t in range(n):
            for u in range(t + 1):
                key = k[u, h]
                if c["positional_embedding_type"] == "relative":
                    vectors = s[f"{a}.rel_pos"][h]
                    key = key + vectors[min(t - u, len(vectors) - 1)]
                scores[h, t, u] = q[t, h] @ key / divisor
            total = sum(math.exp(scores[h, t, u]) for u in range(t + 1))
            for u in range(t + 1):
                pattern[h, t, u] = math.exp(scores[h, t, u]) / total
                z[t, h] += pattern[h, t, u] * v[u, h]
    for t in range(n):
        out[t] = sum(z[t, h] @ s[f"{a}.W_O"][h] for h in range(heads)) + s[f"{a}.b_O"]
    acts |= {f"{a}.hook_attn_scores": scores, f"{a}.hook_pattern": pattern, f"{a}.hook_z": z}
    return out


def giver(c, position, head, heads):
    """The head from which a head receives at a position."""
    return (head + {"none": 0, "fixed": 1, "by-position": position}[c["stream_permute_heads"]]) % heads


def mlp(s, x, name, acts, act_fn):
    pre = np.array([row @ s[f"{name}.W_in"] + s[f"{name}.b_in"] for row in x])
    post = np.array([[activation(act_fn, value) for value in row] for row in pre])
    acts |= {f"{name}.hook_pre": pre, f"{name}.hook_post": post}
    return np.array([row @ s[f"{name}.W_out"] + s[f"{name}.b_out"] for row in post])
