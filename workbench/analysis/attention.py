"""Attention patterns of sample sequences as a table of exact values, and the sequences' tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from workbench.analysis.data import AnalysisData
from workbench.errors import UsageError
from workbench.model import HookedTransformer

if TYPE_CHECKING:
    from workbench.runs import Run

SAMPLES = 1


def attention_at(run: Run, step: int | None = None, sequence: int = 0) -> pd.DataFrame:
    """Every head's pattern on one of the sequences that `analyze` draws by default, at one saved step (default: the last).

    Columns: those of the table attention (run, variant, seed, step, sequence, layer, head, destination, source, value), and the two
    positions' tokens as text (destination_token, source_token); a row for every source up to its destination.

    Raises UsageError for a step that is not saved and a sequence that there is not.
    """
    step = run.checkpoint(step).step
    data = AnalysisData.of_run(run)
    if not 0 <= sequence < len(data.batches[data.own]):
        raise UsageError(f"sequence must be between 0 and {len(data.batches[data.own]) - 1}, got {sequence}")
    tokens = data.batches[data.own].tokens[sequence].tolist()
    texts = np.array(data.tasks[data.own].to_strings(tokens), dtype=object)
    table = patterns_table(run.model(step), data, slice(sequence, sequence + 1))
    model = run.config.model
    named = table.assign(run=run.name, variant=model.variant, seed=model.seed, step=step, sequence=sequence)
    return named.assign(destination_token=texts[table["destination"]], source_token=texts[table["source"]])


def patterns_table(model: HookedTransformer, data: AnalysisData, samples: slice = slice(SAMPLES)) -> pd.DataFrame:
    """Columns sequence (counted from the first of `samples`), layer, head, destination, source, value, for every source up to its
    destination."""
    batch = data.batches[data.own][samples].to(model.W_E.device)
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
