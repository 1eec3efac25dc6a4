"""What the model predicts at every position of the sample sequences: the most probable tokens, and where the right one ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.analysis.data import AnalysisData
from workbench.axes import Logits, Tokens
from workbench.model import HookedTransformer

TOP = 10
"""tokens that are kept at each position"""
COLUMNS = ("sequence", "position", "rank", "token", "text", "log_prob", "target")


def ranked_log_probs(logits: Logits) -> tuple[Int[Tensor, "batch pos d_vocab"], Float[Tensor, "batch pos d_vocab"]]:
    """The tokens of the vocabulary from the most to the least probable, and their log probabilities. Among equals, the smaller
    number comes first.

    >>> tokens, log_probs = ranked_log_probs(torch.tensor([[[0.25, 0.5, 0.25]]]).log())
    >>> tokens.tolist(), log_probs.exp().tolist()
    ([[[1, 0, 2]]], [[[0.5, 0.25, 0.25]]])

    Formula: logit - log sum exp(logits)
    Range: 0 or less, in nats
    """
    ordered = logits.float().log_softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    return ordered.indices, ordered.values


def target_ranks(ranked: Int[Tensor, "batch pos d_vocab"], targets: Tokens) -> Int[Tensor, "batch pos"]:
    """Where the right token stands among the ranked ones; 0: it is the most probable.

    >>> target_ranks(torch.tensor([[[1, 0, 2], [2, 1, 0]]]), torch.tensor([[1, 0]])).tolist()
    [[0, 2]]
    """
    return (ranked == targets[..., None]).int().argmax(dim=-1)


def predictions_table(model: HookedTransformer, data: AnalysisData, samples: int, top: int = TOP) -> pd.DataFrame:
    """Predictions on the first `samples` sequences of the model's own task, which are those of the attention table.

    Columns: sequence, position, rank (0: the most probable), token, text, log_prob (nats), and target: whether it is the true
    next token. At each position stand the `top` most probable tokens, and the target wherever it ranks. A task that gives
    vectors or asks for numbers has no rows.
    """
    batch = data.batches[data.own][:samples]
    if batch.inputs is not None or batch.values is not None:
        return pd.DataFrame({name: [] for name in COLUMNS})
    with torch.inference_mode():
        ranked, log_probs = (found.cpu() for found in ranked_log_probs(model(batch.tokens.to(model.W_E.device))))
    right = target_ranks(ranked, batch.targets)
    rank = torch.arange(ranked.shape[-1])
    kept = (rank < top) | (rank == right[..., None])
    sequence, position, place = (index.numpy() for index in torch.where(kept))
    tokens = ranked[kept].numpy()
    return pd.DataFrame(
        {
            "sequence": sequence,
            "position": position,
            "rank": place,
            "token": tokens,
            "text": data.tasks[data.own].to_strings(tokens.tolist()),
            "log_prob": log_probs[kept].numpy().astype(np.float64),
            "target": place == right.numpy()[sequence, position],
        },
        columns=list(COLUMNS),
    )
