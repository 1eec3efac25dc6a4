"""Where a token stands: the position table added to the embedding, and the rotation of queries and keys."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.axes import HeadVectors
from workbench.config import ModelConfig
from workbench.errors import UsageError


def sinusoidal_table(n_pos: int, d_model: int) -> Float[Tensor, "pos d_model"]:
    """Fixed sine and cosine positions (Vaswani et al. 2017, section 3.5): even columns sine, odd columns cosine.

    >>> sinusoidal_table(1, 4)
    tensor([[0., 1., 0., 1.]])
    """
    position = torch.arange(n_pos, dtype=torch.float64)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angle = position * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(torch.float32)


def rotary_angles(n_pos: int, d_head: int, base: float) -> tuple[Float[Tensor, "pos d_head"], Float[Tensor, "pos d_head"]]:
    """Sine and cosine of the rotary angles (Su et al. 2021), for pairs that lie half a head apart."""
    position = torch.arange(n_pos, dtype=torch.float32)[:, None]
    frequency = base ** (torch.arange(d_head // 2, dtype=torch.float32) / (d_head / 2))
    angle = (position / frequency).repeat(1, 2)
    return angle.sin(), angle.cos()


def rotate(x: HeadVectors, base: float) -> HeadVectors:
    """Rotate queries or keys by the angle of their position (rotary positions, half-split pairs).

    The scores of rotated queries and keys depend on positions only through their difference.
    """
    sin, cos = (table[:, None, :].to(x) for table in rotary_angles(x.shape[1], x.shape[-1], base))
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class PosEmbed(nn.Module):
    """The table of positions that is added to the token embedding: learned (`standard`) or fixed (`sinusoidal`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.positional_embedding_type == "standard":
            self.W_pos = nn.Parameter(torch.empty(config.n_ctx, config.d_model))
        else:
            self.register_buffer("W_pos", sinusoidal_table(config.n_ctx, config.d_model), persistent=False)

    def forward(self, n_pos: int) -> Float[Tensor, "pos d_model"]:
        """The first `n_pos` rows. Raises UsageError where a learned table is too short; the sinusoidal one extends."""
        if n_pos <= self.config.n_ctx:
            return self.W_pos[:n_pos]
        if self.config.positional_embedding_type == "standard":
            raise UsageError(f"a sequence of {n_pos} positions is longer than the learned position table (n_ctx={self.config.n_ctx})")
        return sinusoidal_table(n_pos, self.config.d_model).to(self.W_pos)
