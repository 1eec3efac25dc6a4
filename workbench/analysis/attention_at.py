"""The attention of every head on one sequence, at any checkpoint of a run, analysed or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from workbench.analysis.data import AnalysisData
from workbench.errors import UsageError

if TYPE_CHECKING:
    from workbench.runs import Run


def attention_at(run: Run, step: int | None = None, sequence: int = 0) -> pd.DataFrame:
    """Every head's pattern on one of the sequences that `analyze` draws by default, at one saved step (default: the last).

    Columns: those of the table attention (run, variant, seed, step, sequence, layer, head, destination, source, value), and the two
    positions' tokens as text (destination_token, source_token); a row for every source up to its destination.

    Raises UsageError for a step that is not saved and a sequence that there is not.
    """
    step = run.checkpoint(step).step
    data = AnalysisData.of_run(run)
    drawn = data.batches[data.own]
    if not 0 <= sequence < len(drawn):
        raise UsageError(f"sequence must be between 0 and {len(drawn) - 1}, got {sequence}")
    batch, model = drawn[sequence : sequence + 1], run.model(step)
    with torch.inference_mode():
        _, cache = model.run_with_cache(**batch.model_inputs, names_filter=lambda name: name.endswith("hook_pattern"))
    patterns = torch.cat([cache["pattern", layer] for layer in range(model.config.n_layers)]).numpy()  # [layer, head, dst, src]
    texts = np.array(data.tasks[data.own].to_strings(batch.tokens[0].tolist()), dtype=object)
    keep = np.tril(np.ones(patterns.shape[2:], dtype=bool))
    layer, head, destination, source = np.indices(patterns.shape)[:, :, :, keep].reshape(4, -1)
    places = {"layer": layer, "head": head, "destination": destination, "source": source, "value": patterns[:, :, keep].reshape(-1)}
    named = {"run": run.name, "variant": model.config.variant, "seed": model.config.seed, "step": step, "sequence": sequence}
    tokens = {"destination_token": texts[destination], "source_token": texts[source]}
    return pd.DataFrame({**places, **tokens}).assign(**named)
