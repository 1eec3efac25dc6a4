"""Attention patterns of sample sequences as a table of exact values, and the sequences' tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from workbench.analysis.data import AnalysisData
from workbench.model import HookedTransformer

SAMPLES = 1


def patterns_table(model: HookedTransformer, data: AnalysisData, samples: int = SAMPLES) -> pd.DataFrame:
    """Columns sequence, layer, head, destination, source, value, for every source up to its destination."""
    batch = data.batches[data.own][:samples].to(model.W_E.device)
    with torch.inference_mode():
        _, cache = model.run_with_cache(**batch.model_inputs, names_filter=lambda name: name.endswith("hook_pattern"))
    patterns = torch.stack([cache["pattern", layer] for layer in range(model.config.n_layers)], dim=1).cpu().numpy()
    n_pos = batch.tokens.shape[1]
    keep = np.tril(np.ones((n_pos, n_pos), dtype=bool))
    index = np.indices(patterns.shape)[:, :, :, :, keep].reshape(5, -1)
    names = ("sequence", "layer", "head", "destination", "source")
    columns = {name: values.astype(np.int16) for name, values in zip(names, index, strict=True)}
    return pd.DataFrame({**columns, "value": patterns[:, :, :, keep].reshape(-1)})


def tokens_table(data: AnalysisData, samples: int = SAMPLES) -> pd.DataFrame:
    """Columns sequence, position, token, text, answered, of the same sequences."""
    task, batch = data.tasks[data.own], data.batches[data.own][:samples]
    sequence, position = np.indices(batch.tokens.shape).reshape(2, -1)
    tokens = batch.tokens.reshape(-1).tolist()
    return pd.DataFrame(
        {
            "sequence": sequence,
            "position": position,
            "token": tokens,
            "text": task.to_strings(tokens),
            "answered": batch.answered.reshape(-1).numpy(),
        }
    )
