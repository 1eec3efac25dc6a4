"""The one attention path: training and analysis, every stream and every source run through this code.

A residual attention stream (Burns et al., arXiv 2412.15113, section 3) adds one wire: a head also receives the
query, key or value that the same head of an earlier layer computed (Burns et al. 2024, 2412.15113).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint

from workbench.axes import HeadVectors, Pattern, Resid
from workbench.config import ModelConfig
from workbench.model.positions import rotate
from workbench.variant import PLAIN_ADDITION

STREAM_LETTER: dict[str, Literal["q", "k", "v"]] = {"query": "q", "key": "k", "value": "v"}

Scores = Float[Tensor, "batch head dst src"]

# One copy of the residual stream for each head, where TransformerLens's tools ask for split inputs.
SplitResid = Float[Tensor, "batch pos head d_model"]


class Attention(nn.Module):
    """Causal multi-head attention with an optional wire from the heads of an earlier layer.

    With P one of query, key, value, in the layers that receive a stream: `hook_P_stream` is b times the source and
    `hook_P_used` = a * `hook_P` + `hook_P_stream`, with (a, b) = (1, 1) unless the configuration mixes otherwise.
    """

    W_Q: nn.Parameter
    W_K: nn.Parameter
    W_V: nn.Parameter
    b_Q: nn.Parameter
    b_K: nn.Parameter
    b_V: nn.Parameter

    def __init__(self, config: ModelConfig, cfg: TransformerBridgeConfig, layer: int) -> None:
        super().__init__()
        self.config, self.cfg, self.layer = config, cfg, layer
        n_heads, d_model, d_head = config.n_heads, config.d_model, config.head_width
        for letter in "QKV":
            self.register_parameter(f"W_{letter}", nn.Parameter(torch.empty(n_heads, d_model, d_head)))
        self.W_O = nn.Parameter(torch.empty(n_heads, d_head, d_model))
        for letter in "QKV":
            self.register_parameter(f"b_{letter}", nn.Parameter(torch.zeros(n_heads, d_head), requires_grad=config.attn_bias))
        self.b_O = nn.Parameter(torch.zeros(d_model), requires_grad=config.attn_bias)
        if config.positional_embedding_type == "relative":
            self.rel_pos = nn.Parameter(torch.empty(n_heads, config.longest_distance + 1, d_head))
        self.dropout = nn.Dropout(config.dropout)

        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.receives = STREAM_LETTER[config.stream] if config.receives_stream(layer) else None
        if self.receives:
            setattr(self, f"hook_{self.receives}_stream", HookPoint())
            setattr(self, f"hook_{self.receives}_used", HookPoint())
            if config.stream_mix == "learned":
                own, incoming = config.stream_init
                self.stream_own, self.stream_in = nn.Parameter(torch.tensor(own)), nn.Parameter(torch.tensor(incoming))
        if config.positional_embedding_type == "rotary":
            self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z, self.hook_result = HookPoint(), HookPoint()

    def forward(
        self,
        query_input: Resid | SplitResid,
        key_input: Resid | SplitResid,
        value_input: Resid | SplitResid,
        source: HeadVectors | None = None,
    ) -> tuple[Resid, HeadVectors | None]:
        """Attend, and hand on what the next layer's heads receive.

        `source` is the projection that arrives along the wire (None in the first layer and without a stream).
        Returns the attention output and the source of the next layer (None without a stream).
        """
        own = {
            "q": self.hook_q(self._project(query_input, self.W_Q, self.b_Q)),
            "k": self.hook_k(self._project(key_input, self.W_K, self.b_K)),
            "v": self.hook_v(self._project(value_input, self.W_V, self.b_V)),
        }
        used = dict(own)
        if self.receives is not None and source is not None:
            used[self.receives] = self._join(own[self.receives], source)
        pattern = self._pattern(used["q"], used["k"])
        z = self.dropout(pattern).to(used["v"].dtype) @ used["v"].transpose(1, 2)
        z = self.hook_z(z.transpose(1, 2))
        return self._output(z), self._handed_on(own, used, source)

    def _project(
        self, x: Resid | SplitResid, weight: Float[Tensor, "head d_model d_head"], bias: Float[Tensor, "head d_head"]
    ) -> HeadVectors:
        if x.ndim == 4:
            return torch.einsum("bphm,hmd->bphd", x, weight) + bias
        flat = F.linear(x, weight.transpose(1, 2).flatten(0, 1), bias.flatten())
        return flat.unflatten(-1, bias.shape)

    @property
    def mix(self) -> tuple[float | Tensor, float | Tensor]:
        """(a, b) of used = a * own + b * source: trained scalars, or the configuration's numbers."""
        return (self.stream_own, self.stream_in) if self.config.stream_mix == "learned" else self.config.stream_init

    def _join(self, own: HeadVectors, source: HeadVectors) -> HeadVectors:
        """What attention uses where a stream arrives: a times the head's own projection plus b times the source."""
        if self.config.stream_detach:
            source = source.detach()
        source = self._permuted(source)
        if self.config.stream_mix == "learned" or self.config.stream_init != PLAIN_ADDITION:
            a, b = self.mix
            own, source = a * own, b * source
        streamed = getattr(self, f"hook_{self.receives}_stream")(source)
        return getattr(self, f"hook_{self.receives}_used")(own + streamed)

    def _permuted(self, source: HeadVectors) -> HeadVectors:
        """The source with its heads exchanged, where the configuration asks for that control."""
        if self.config.stream_permute_heads == "none":
            return source
        n_pos, n_heads = source.shape[1:3]
        if self.config.stream_permute_heads == "fixed":
            return source.roll(-1, dims=2)
        position = torch.arange(n_pos, device=source.device)[:, None]
        return source[:, position, (position + torch.arange(n_heads, device=source.device)) % n_heads]

    def _handed_on(self, own: dict[str, Tensor], used: dict[str, Tensor], source: HeadVectors | None) -> HeadVectors | None:
        if self.config.stream == "none":
            return None
        letter = STREAM_LETTER[self.config.stream]
        if self.config.stream_source == "accumulated":
            return used[letter]
        if self.config.stream_source == "first" and source is not None:
            return source
        return own[letter]

    def _pattern(self, q: HeadVectors, k: HeadVectors) -> Pattern:
        if self.config.positional_embedding_type == "rotary":
            q = self.hook_rot_q(rotate(q, self.config.rotary_base))
            k = self.hook_rot_k(rotate(k, self.config.rotary_base))
        n_batch, n_pos, n_heads, d_head = q.shape
        added = torch.full((n_pos, n_pos), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
        if self.config.positional_embedding_type == "relative":
            added = (added + self.relative_scores(q)).flatten(0, 1)
        # One call adds the mask, multiplies and scales: masking afterwards costs two more copies of all scores.
        scores = torch.baddbmm(
            added,
            q.transpose(1, 2).reshape(-1, n_pos, d_head),
            k.transpose(1, 2).reshape(-1, n_pos, d_head).transpose(1, 2),
            alpha=1 / self.config.score_divisor,
        )
        scores = self.hook_attn_scores(scores.view(n_batch, n_heads, n_pos, n_pos))
        return self.hook_pattern(scores.softmax(dim=-1))

    def relative_scores(self, q: HeadVectors) -> Scores:
        """What relative positions add to the scores: the query's product with the vector of each distance t - s
        (the last vector, for distances beyond), over the divisor. Above the diagonal the values mean nothing."""
        by_distance = torch.einsum("bthd,hrd->bhtr", q, self.rel_pos) / self.config.score_divisor
        position = torch.arange(q.shape[1], device=q.device)
        distance = (position[:, None] - position).clamp(0, self.config.longest_distance)
        return by_distance.gather(3, distance.expand(*by_distance.shape[:2], -1, -1))

    def _output(self, z: HeadVectors) -> Resid:
        if self.cfg.use_attn_result:
            return self.hook_result(torch.einsum("bphd,hdm->bphm", z, self.W_O)).sum(dim=2) + self.b_O
        return F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)
