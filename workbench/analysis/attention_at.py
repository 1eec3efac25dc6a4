"""The attention of every head on one sequence, at any checkpoint of a run, analysed or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from workbench.analysis.attention import PatternsOverSteps
from workbench.analysis.data import AnalysisData
from workbench.errors import UsageError

if TYPE_CHECKING:
    from workbench.runs import Run


def attention_at(run: Run, step: int | None = None, sequence: int = 0) -> pd.DataFrame:
    """Every head's pattern on one of the sequences that `analyze` draws by default, at one saved step (default: the last).

    Columns: those of the table attention (run, variant, seed, step, sequence, layer, head, destination, source, attention,
    value_weighted, and streamed where the model has a stream), and the two positions' tokens as text (destination_token,
    source_token); a row for every source up to its destination.

    Raises UsageError for a step that is not saved and a sequence that there is not.
    """
    step = run.checkpoint(step).step
    data = AnalysisData.of_run(run)
    drawn = data.batches[data.own]
    if not 0 <= sequence < len(drawn):
        raise UsageError(f"sequence must be between 0 and {len(drawn) - 1}, got {sequence}")
    recorded = PatternsOverSteps(data.tasks[data.own], drawn[sequence : sequence + 1], [step])
    recorded.add(step, model := run.model(step))
    table, texts = recorded.table(), recorded.tokens_table()["text"].to_numpy(dtype=object)
    return table.assign(
        run=run.name,
        variant=model.config.variant,
        seed=model.config.seed,
        sequence=sequence,
        destination_token=texts[table["destination"]],
        source_token=texts[table["source"]],
    )
