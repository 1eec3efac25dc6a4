"""The section `formation`: does the model learn in context, and which heads attend as an induction circuit does?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.analysis import heads, icl, interventions
from workbench.analysis.data import AnalysisData, scoring_half, selection_half
from workbench.analysis.estimates import PerSequence
from workbench.analysis.interventions import CHUNK
from workbench.analysis.roles import Roles
from workbench.analysis.rows import SAMPLE, Row, numbers
from workbench.evaluation import Evaluation
from workbench.model import HookedTransformer
from workbench.tasks.base import Batch

MODEL_METRICS = (icl.loss, icl.in_context_accuracy, icl.in_context_loss, icl.bigram_loss, icl.in_context_score)
NUMBER_METRICS = (icl.loss, icl.in_context_loss, icl.excess_loss)
"""of a task that asks for numbers, where nothing is right or wrong"""
EVALUATION_METRICS = {"mixed": icl.accuracy, "flipped": icl.flipped_accuracy, "in_weights": icl.in_weights_accuracy}
"""evaluation (AnalysisData.evaluations) -> what is measured on it"""
Scores = dict[tuple[str, int], PerSequence]
"""(metric, layer) -> [batch, head]"""


def measure(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> Iterator[Row]:
    """Rows of every formation metric: losses and accuracies on the model's own task, head scores on each task.

    A head's value is its score on one half of the sequences, `selection` that on the other, by which heads are named.
    `baseline` is what tells nothing: for a score that looks for tokens, the same pattern scored at the places of
    another sequence; for one that looks for a distance, attention spread evenly over all positions up to the own.
    """
    for task, batch in data.batches.items():
        evaluation, scores, baselines = _run(model, batch)
        if task == data.own:
            for function in MODEL_METRICS if batch.values is None else NUMBER_METRICS:
                sample = function(evaluation, batch)
                # Nothing counts, where no position is unanswerable or a prediction is asked for at one place alone.
                if batch.asked is None or sample.counts.any():
                    yield {"task": task, "metric": function.__name__, **numbers(sample.estimate()), SAMPLE: sample}
            for name, other in data.evaluations.items():
                sample = EVALUATION_METRICS[name](interventions.run(model, other).evaluation, other)
                yield {"task": task, "metric": EVALUATION_METRICS[name].__name__, **numbers(sample.estimate()), SAMPLE: sample}
        half = scoring_half(len(batch))
        for (metric, layer), sample in scores.items():
            if batch.values is not None and not sample.counts.any():
                continue  # positions are all named differently: there are no earlier occurrences to look for
            estimate, selection = sample[half].estimate(), sample[selection_half(len(batch))].estimate()
            baseline = baselines[metric, layer].estimate()
            for head in range(model.config.n_heads):
                yield {
                    "task": task, "layer": layer, "head": head, "metric": metric, **numbers(estimate, head),
                    "selection": selection.value[head].item(), "baseline": baseline.value[head].item(),
                    SAMPLE: sample[half].part(head),
                }  # fmt: skip


@torch.inference_mode()
def _run(model: HookedTransformer, batch: Batch) -> tuple[Evaluation, Scores, Scores]:
    """One pass over a batch: what every position predicts, and every layer's scores and baselines, sequence by
    sequence. Patterns are held for one layer after the other, never all together."""
    evaluations: list[Evaluation] = []
    scores: dict[tuple[str, int], list[PerSequence]] = {}
    baselines: dict[tuple[str, int], list[PerSequence]] = {}
    for start in range(0, len(batch), CHUNK):
        rows = batch[start : start + CHUNK].to(model.W_E.device)
        targets = [(score.metric.__name__, *_targets(score, rows)) for score in heads.SCORES]
        # All scores of a layer in one product: [batch, head, dst * src] with [batch, dst * src, score].
        wanted = torch.stack([places for _, at_home, other in targets for places in (at_home[0], other[0])], dim=-1).flatten(1, 2)

        def score(pattern: Tensor, hook: Any, targets: list[Any] = targets, wanted: Tensor = wanted) -> None:
            sums = (pattern.flatten(2) @ wanted.to(pattern.dtype)).cpu().unflatten(-1, (-1, 2))
            for number, (name, (_, counts), (_, other_counts)) in enumerate(targets):
                key = (name, hook.layer())
                scores.setdefault(key, []).append(PerSequence(sums[:, :, number, 0], counts))
                baselines.setdefault(key, []).append(PerSequence(sums[:, :, number, 1], other_counts))

        logits = model.run_with_hooks(**rows.model_inputs, fwd_hooks=[(lambda name: name.endswith("hook_pattern"), score)])
        part = Evaluation.of_logits(logits, rows.targets, rows.values)
        evaluations.append(Evaluation(part.losses.cpu(), part.correct.cpu()))
    cat = {key: PerSequence.cat(parts) for key, parts in scores.items()}
    return Evaluation.cat(evaluations), cat, {key: PerSequence.cat(parts) for key, parts in baselines.items()}


Target = tuple[Float[Tensor, "batch dst src"], Float[Tensor, " batch"]]
"""what is summed with a pattern, and how many rows count"""


def _targets(score: heads.Score, rows: Batch) -> tuple[Target, Target]:
    """The places of a score, and those of its baseline: spread evenly over all positions up to the own, for a score that
    looks for a distance; of the next sequence, for one that looks for tokens (none, where there is only one)."""
    places = score.places(rows.tokens, rows.answered)
    counts = places.any(dim=-1).sum(dim=-1).float().cpu()
    if score.by_distance:
        # Even attention puts places / (t + 1) on them whatever the pattern is: spread that over the row, which sums to 1.
        share = places.sum(dim=-1, keepdim=True) / torch.arange(1, places.shape[-1] + 1, device=places.device)[:, None]
        return (places.float(), counts), (share.expand_as(places), counts)
    if len(places) == 1:
        return (places.float(), counts), (torch.zeros_like(places, dtype=torch.float32), torch.zeros_like(counts))
    return (places.float(), counts), (places.roll(-1, dims=0).float(), counts.roll(-1, dims=0))
