"""The one vocabulary of tensor axes, used in every jaxtyping annotation of the package.

| axis       | what it counts                                                                |
|------------|-------------------------------------------------------------------------------|
| `member`   | models of an ensemble, stacked                                                |
| `batch`    | sequences                                                                     |
| `pos`      | positions in a sequence                                                       |
| `dst`      | positions as the query of attention (where information goes to)               |
| `src`      | positions as the key of attention (where information comes from)              |
| `layer`    | blocks, from 0                                                                |
| `head`     | heads inside a layer, from 0                                                  |
| `d_model`  | width of the residual stream                                                  |
| `d_head`   | width of a head                                                               |
| `d_mlp`    | width of an MLP                                                               |
| `d_vocab`  | tokens of the vocabulary                                                      |

Attention patterns are `[batch, head, dst, src]`, or `[batch, layer, head, dst, src]` where layers are stacked.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens = Int[Tensor, "batch pos"]
Mask = Bool[Tensor, "batch pos"]
Resid = Float[Tensor, "batch pos d_model"]
Logits = Float[Tensor, "batch pos d_vocab"]
HeadVectors = Float[Tensor, "batch pos head d_head"]
Pattern = Float[Tensor, "batch head dst src"]
Patterns = Float[Tensor, "batch layer head dst src"]
