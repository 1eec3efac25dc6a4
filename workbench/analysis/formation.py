"""The section `formation`: does the model learn in context, and which heads attend as an induction circuit does?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from workbench.analysis import heads, icl
from workbench.analysis.data import AnalysisData
from workbench.analysis.estimates import Estimate, PerSequence
from workbench.evaluation import Evaluation
from workbench.model import HookedTransformer
from workbench.tasks.base import Batch

Row = dict[str, Any]

MODEL_METRICS = (icl.loss, icl.in_context_accuracy, icl.in_context_loss, icl.bigram_loss, icl.in_context_score)
HEAD_METRICS = (heads.previous_token_score, heads.previous_token_at_answers, heads.prefix_matching_score, heads.duplicate_token_score)
ASKED = (heads.previous_token_at_answers, heads.prefix_matching_score)
"""metrics of the positions whose answer the context has shown"""
CHUNK = 64
"""Sequences in a forward pass: their patterns are held for one layer after the other, never all together."""


def measure(model: HookedTransformer, data: AnalysisData) -> Iterator[Row]:
    """Rows of every formation metric: losses and accuracies on the model's own task, head scores on each task."""
    for task, batch in data.batches.items():
        evaluation, scores = _run(model, batch)
        if task == data.own:
            for function in MODEL_METRICS:
                estimate = function(evaluation, batch).estimate()
                yield {"task": task, "metric": function.__name__, **_numbers(estimate, ())}
        for (metric, layer), per_sequence in scores.items():
            estimate = per_sequence.estimate()
            for head in range(model.config.n_heads):
                yield {"task": task, "layer": layer, "head": head, "metric": metric, **_numbers(estimate, (head,))}


@torch.inference_mode()
def _run(model: HookedTransformer, batch: Batch) -> tuple[Evaluation, dict[tuple[str, int], PerSequence]]:
    """One pass over a batch: what every position predicts, and every layer's scores, sequence by sequence."""
    evaluations: list[Evaluation] = []
    scores: dict[tuple[str, int], list[PerSequence]] = {}
    for start in range(0, len(batch), CHUNK):
        rows = batch[start : start + CHUNK].to(model.W_E.device)

        def score(pattern: torch.Tensor, hook: Any, rows: Batch = rows) -> None:
            for function in HEAD_METRICS:
                mask = rows.answered if function in ASKED else None
                part = function(pattern, rows.tokens, mask)
                cpu = PerSequence(part.sums.cpu(), part.counts.cpu())
                scores.setdefault((function.__name__, hook.layer()), []).append(cpu)

        logits = model.run_with_hooks(rows.tokens, fwd_hooks=[(lambda name: name.endswith("hook_pattern"), score)])
        part = Evaluation.of_logits(logits, rows.targets)
        evaluations.append(Evaluation(part.losses.cpu(), part.correct.cpu()))
    evaluation = Evaluation(torch.cat([part.losses for part in evaluations]), torch.cat([part.correct for part in evaluations]))
    return evaluation, {key: PerSequence.cat(parts) for key, parts in scores.items()}


def _numbers(estimate: Estimate, index: tuple[int, ...]) -> Row:
    value, low, high = (part[index].item() for part in (estimate.value, estimate.ci_low, estimate.ci_high))
    return {"value": value, "ci_low": low, "ci_high": high, "n": estimate.n}
