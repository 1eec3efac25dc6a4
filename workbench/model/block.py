"""One layer: attention and, unless the model is attention-only, an MLP after or beside it."""

from __future__ import annotations

from torch import nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint

from workbench.axes import HeadVectors, Resid
from workbench.config import ModelConfig
from workbench.model.attention import Attention, SplitResid
from workbench.model.components import MLP, make_norm


class TransformerBlock(nn.Module):
    """Pre-norm residual block. It passes the residual stream and, beside it, the attention stream."""

    # TransformerLens's logit lens asks whether a block's output is the one residual stream.
    hook_out_is_single_residual_stream = True

    def __init__(self, config: ModelConfig, cfg: TransformerBridgeConfig, layer: int) -> None:
        super().__init__()
        self.config, self.cfg = config, cfg
        self.ln1 = make_norm(config)
        self.attn = Attention(config, cfg, layer)
        if not config.attn_only:
            self.ln2 = make_norm(config)
            self.mlp = MLP(config)
            self.hook_mlp_in, self.hook_mlp_out = HookPoint(), HookPoint()
            if not config.parallel_attn_mlp:
                self.hook_resid_mid = HookPoint()
        self.dropout = nn.Dropout(config.dropout)
        self.hook_attn_in, self.hook_q_input, self.hook_k_input, self.hook_v_input = (HookPoint() for _ in range(4))
        self.hook_attn_out, self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()

    def forward(self, resid_pre: Resid, source: HeadVectors | None) -> tuple[Resid, HeadVectors | None]:
        """The residual stream after this layer, and what the next layer's heads receive along the wire."""
        resid_pre = self.hook_resid_pre(resid_pre)
        attn_out, handed_on = self.attn(*self._attention_inputs(resid_pre), source)
        attn_out = self.hook_attn_out(self.dropout(attn_out))
        if self.config.attn_only:
            return self.hook_resid_post(resid_pre + attn_out), handed_on
        if self.config.parallel_attn_mlp:
            return self.hook_resid_post(resid_pre + attn_out + self._mlp_out(resid_pre)), handed_on
        resid_mid = self.hook_resid_mid(resid_pre + attn_out)
        return self.hook_resid_post(resid_mid + self._mlp_out(resid_mid)), handed_on

    def _attention_inputs(self, resid_pre: Resid) -> tuple[Resid | SplitResid, Resid | SplitResid, Resid | SplitResid]:
        """The normed inputs of query, key and value: one tensor, or a copy a head where a tool asked for it."""
        if not (self.cfg.use_attn_in or self.cfg.use_split_qkv_input):
            normed = self.ln1(resid_pre)
            return normed, normed, normed
        split = resid_pre.unsqueeze(2).expand(-1, -1, self.config.n_heads, -1)
        if self.cfg.use_attn_in:
            normed = self.ln1(self.hook_attn_in(split.clone()))
            return normed, normed, normed
        hooks = (self.hook_q_input, self.hook_k_input, self.hook_v_input)
        query, key, value = (self.ln1(hook(split.clone())) for hook in hooks)
        return query, key, value

    def _mlp_out(self, resid: Resid) -> Resid:
        if self.cfg.use_hook_mlp_in:
            resid = self.hook_mlp_in(resid.clone())
        return self.hook_mlp_out(self.dropout(self.mlp(self.ln2(resid))))
