"""When things appear on curves over training, in which order, and whether they stay.

An event is a curve over the checkpoints and a threshold from which it counts as there. Its step is the midpoint of a fitted
logistic; intervals are percentiles over bootstrap replicates in which the units of the curve (sequences, or tokens of a
probe) are drawn anew, the same ones at every step. They hold the run fixed: how much seeds differ is another question
(analysis/seeds.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float

from workbench.analysis.data import scoring_half
from workbench.analysis.estimates import PerSequence
from workbench.analysis.hijack_measure import AGAINST
from workbench.analysis.hijack_theory import WANG_SATO
from workbench.analysis.logistic import Logistic, fit_logistic
from workbench.analysis.metrics import metric
from workbench.analysis.roles import PREFIX_MATCHING, PREVIOUS_TOKEN, Head, Roles
from workbench.analysis.rows import SAMPLE, Row
from workbench.config import ModelConfig

ACCURACY = 0.95
"""In-context accuracy from which in-context learning counts as formed."""
COPYING = 0.5
"""Share of the vocabulary that the heads' OV circuits copy, from which copying counts as there."""
CONTRIBUTION = 1.0
"""Direct contribution of the induction heads to the right logit, in nats, that counts as there."""
CAUSAL_WEIGHT = 0.5
"""In-context accuracy lost without the induction heads from which they count as carrying it."""
REPLICATES = 200
FEWEST_UNITS = 30
"""with fewer, percentiles of a bootstrap cover too little, and no interval is given"""
FEWEST_STEPS = 5
"""checkpoints below which no logistic (four numbers) is fitted"""
LASTING = 3
"""checkpoints that are averaged to say how high a curve got, and where it ends"""
SOURCE = "Bietti et al. 2023 (2306.00802), section 4 (order of learning); persistence: Singh et al. 2024 (2404.07129)"

Steps = Float[np.ndarray, " steps"]
Curve = Float[np.ndarray, "replicates steps"]
Key = tuple[str, int | None, int | None, str | None, str | None, str | None]
"""metric, layer, head, part, intervention, condition"""


def first_reached(steps: Sequence[int], values: Sequence[float], threshold: float) -> int | None:
    """The first step at which the value is at least `threshold`; None where the curve never gets there (censored).

    >>> first_reached([0, 10, 20], [0.1, 0.96, 0.99], 0.95)
    10
    >>> first_reached([0, 10, 20], [0.1, 0.2, 0.3], 0.95) is None
    True
    """
    return next((step for step, value in sorted(zip(steps, values, strict=True)) if value >= threshold), None)


@metric("emergence", "curve", formula="midpoint of the least-squares logistic", range="first to last checkpoint, in steps", source=SOURCE)
def emergence_step(fit: Logistic) -> Float[np.ndarray, " replicates"]:
    """The step at which half of a curve's rise is there; nan for a curve that does not rise.

    >>> emergence_step(fit_logistic([0, 10, 20, 30, 40], np.array([[0.0, 0.0, 0.5, 1.0, 1.0]]))).round(1)
    array([20.])
    """
    return fit.midpoint


@metric("emergence", "curve", formula="steps from 10 % to 90 % of the logistic's rise", range="0 or more, in steps", source=SOURCE)
def emergence_width(fit: Logistic) -> Float[np.ndarray, " replicates"]:
    """How many steps a curve takes for most of its rise. A rise between two checkpoints has a width below their distance.

    >>> bool(emergence_width(fit_logistic([0, 10, 20, 30, 40], np.array([[0.0, 0.0, 0.0, 1.0, 1.0]])))[0] < 10)
    True
    """
    return fit.width


@metric("emergence", "curve", formula="high - low of the logistic", range="0 or more, in the curve's unit", source=SOURCE)
def emergence_rise(fit: Logistic) -> Float[np.ndarray, " replicates"]:
    """How far the fitted curve rises.

    >>> emergence_rise(fit_logistic([0, 10, 20, 30, 40], np.array([[0.25, 0.25, 0.25, 0.75, 0.75]]))).round(2)
    array([0.5])
    """
    return fit.high - fit.low


@metric("emergence", "curve", formula="1 - residual sum of squares / total sum of squares", range="0 to 1", source=SOURCE)
def emergence_fit(fit: Logistic) -> Float[np.ndarray, " replicates"]:
    """How much of a curve's variation over the checkpoints the logistic explains: far below 1, its midpoint says little.

    >>> emergence_fit(fit_logistic([0, 10, 20, 30, 40], np.array([[0.0, 0.0, 0.5, 1.0, 1.0]]))).round(2)
    array([1.])
    """
    return fit.r2


@metric("emergence", "curve", formula="first checkpoint with a value of at least the threshold", range="a checkpoint's step", source=SOURCE)
def threshold_step(steps: Steps, curves: Curve, threshold: float) -> Float[np.ndarray, " replicates"]:
    """The first checkpoint at which a curve is at its threshold (`baseline` in tables); nan where it never is: censored
    at the last checkpoint, not dropped.

    >>> threshold_step(np.array([0.0, 10.0, 20.0]), np.array([[0.1, 0.96, 0.99], [0.1, 0.2, 0.3]]), 0.95)
    array([10., nan])
    """
    there = curves >= threshold
    return np.where(there.any(axis=1), steps[there.argmax(axis=1)], np.nan)


@metric("emergence", "curve", formula="share of the bootstrap replicates that are ever at the threshold", range="0 to 1", source=SOURCE)
def reached(curves: Curve, threshold: float) -> float:
    """Whether an event took place within the run: 1 certainly, 0 certainly not, between them it depends on the sequences.

    >>> reached(np.array([[0.1, 0.96], [0.1, 0.2]]), 0.95)
    0.5
    """
    return float((curves >= threshold).any(axis=1).mean())


@metric(
    "emergence",
    "curve",
    formula="(mean of the last 3 checkpoints - first value) / (highest mean of 3 neighbouring checkpoints - first value)",
    range="1 where nothing is lost again; 0 where all of it is",
    source=SOURCE,
)
def persistence(curves: Curve) -> Float[np.ndarray, " replicates"]:
    """How much of what formed is still there at the last checkpoint: in-context learning can be transient.

    nan for a curve that never rises above where it starts. With fewer than 3 checkpoints, all of them are averaged.

    >>> persistence(np.array([[0.0, 1.0, 1.0, 1.0, 0.25, 0.25, 0.25]]))
    array([0.25])
    """
    width = min(LASTING, curves.shape[1])
    means = np.lib.stride_tricks.sliding_window_view(curves, width, axis=1).mean(axis=-1) - curves[:, :1]
    peak = means.max(axis=1)
    return np.where(peak > 0, means[:, -1] / np.where(peak > 0, peak, 1), np.nan)


@metric("emergence", "curve", formula="step of the later event - step of the earlier one", range="0 or more, in steps", source=SOURCE)
def emergence_gap(earlier: Float[np.ndarray, " replicates"], later: Float[np.ndarray, " replicates"]) -> Float[np.ndarray, " replicates"]:
    """How many steps lie between two events that follow each other in a run (`part` names both). An interval that
    contains 0 does not tell their order.

    >>> emergence_gap(np.array([200.0]), np.array([260.0]))
    array([60.])
    """
    return later - earlier


@metric(
    "emergence",
    "curve",
    formula="first checkpoint from which the curve stays above 0, after being below",
    range="a checkpoint's step",
    source=WANG_SATO,
)
def overtaking_step(steps: Steps, curves: Curve) -> Float[np.ndarray, " replicates"]:
    """When the context overtakes the bigrams for good: from then on the mean hijack_margin is positive over prompts whose bigrams
    prefer another answer than their context. nan for a curve that never is below 0 (nothing to overtake), or does not end above it.

    >>> overtaking_step(np.array([0.0, 10.0, 20.0, 30.0]), np.array([[0.1, -2.0, 0.5, 1.0], [0.1, -1.0, 0.5, -0.5]]))
    array([20., nan])
    """
    stays = np.logical_and.accumulate(curves[:, ::-1] > 0, axis=1)[:, ::-1]
    overtaken = stays[:, -1] & (curves < 0).any(axis=1)
    return np.where(overtaken, steps[stays.argmax(axis=1)], np.nan)


@dataclass(frozen=True)
class Event:
    """A curve to watch: the sum of the rows with these keys, and the value from which it counts as there."""

    name: str
    keys: tuple[Key, ...]
    threshold: float
    head: Head | None = None


def watched(roles: Roles, model: ModelConfig) -> list[Event]:
    """The events of an induction circuit, for the heads that have a role at the last checkpoint. Copying is that of all heads of the
    strongest induction head's layer (of the last layer, where there is none), through the wire as well where one matrix describes it."""
    found: list[Event] = []
    for name, heads, measured, threshold in (
        ("previous-token head", roles.previous_token, "previous_token_at_answers", PREVIOUS_TOKEN),
        ("trigger match", roles.induction, "prefix_matching_score", PREFIX_MATCHING),
    ):
        found += [Event(name, ((measured, head.layer, head.head, None, None, None),), threshold, head) for head in heads]
    layer = roles.induction[0].layer if roles.induction else model.n_layers - 1
    wire = model.stream == "value" and model.receives_stream(layer) and model.stream_permute_heads != "by-position"
    found.append(Event("copying", (("copying_probe", layer, None, "total" if wire else "own", None, None),), COPYING))
    if roles.induction:
        contributions = tuple(("direct_logit_attribution", head.layer, head.head, None, None, None) for head in roles.induction)
        found.append(Event("direct contribution", contributions, CONTRIBUTION))
        ablated = ("ablation_accuracy_loss", None, None, "induction heads", "mean", None)
        found.append(Event("causal weight", (ablated,), CAUSAL_WEIGHT))
    return [*found, Event("in-context accuracy", (("in_context_accuracy", None, None, None, None, None),), ACCURACY)]


OVERTAKING = Event("context over bigrams", (("hijack_margin", None, None, None, None, AGAINST),), 0.0)
"""no rise to a threshold but a change of sign, so it has a step of its own kind (overtaking_step)"""


@dataclass
class Curves:
    """What the units of the watched curves add at each checkpoint, gathered while a run is swept. A few numbers for each
    sequence and checkpoint, nothing else of the tables."""

    roles: Roles
    task: str
    model: ModelConfig
    samples: dict[Key, dict[int, PerSequence]] = field(default_factory=dict)

    @property
    def events(self) -> list[Event]:
        """The events that are watched."""
        return watched(self.roles, self.model)

    def add(self, step: int, rows: Iterable[Row]) -> None:
        """Keep what belongs to a watched curve from the rows of one checkpoint."""
        wanted = {key for event in (*self.events, OVERTAKING) for key in event.keys}
        for row in rows:
            key: Key = (row["metric"], row.get("layer"), row.get("head"), row.get("part"), row.get("intervention"), row.get("condition"))
            if row["task"] == self.task and SAMPLE in row and key in wanted and row.get("source_layer") is None:
                sample = row[SAMPLE]
                if row["metric"] == "in_context_accuracy":  # heads are scored on half of the sequences: the same for all
                    sample = sample[scoring_half(len(sample.counts))]
                self.samples.setdefault(key, {})[step] = sample

    def resampled(self, event: Event, replicates: int = REPLICATES) -> tuple[Steps, Curve] | None:
        """The curve (first row) and its bootstrap replicates; None where no row belonged to it, or steps differ. With fewer
        than `FEWEST_UNITS` units there are no replicates."""
        parts = [self.samples.get(key, {}) for key in event.keys]
        steps = sorted(parts[0])
        if not steps or any(sorted(part) != steps for part in parts):
            return None
        sums = torch.stack([sum((part[step].sums for part in parts[1:]), parts[0][step].sums) for step in steps]).double().numpy()
        counts = torch.stack([parts[0][step].counts for step in steps]).double().numpy()
        n_units = sums.shape[1]
        weights = np.ones((1, n_units))
        if n_units >= FEWEST_UNITS:
            # The same seed for every event: events of equal units are resampled together, so their gaps are paired.
            drawn = np.random.default_rng(0).multinomial(n_units, np.full(n_units, 1 / n_units), size=replicates)
            weights = np.concatenate([weights, drawn])
        curve = (weights @ sums.T) / np.maximum(weights @ counts.T, 1e-12)
        return np.asarray(steps, dtype=np.float64), curve


def events(curves: Curves) -> Iterator[Row]:
    """Rows of the section emergence: for each event its step, width, rise and fit, when it is at its threshold, and how
    lasting it is; then the gaps between events in the order of their steps (each kind by its strongest head).

    An event that never is at its threshold gets no fitted step: `reached` says so.
    """
    order: dict[str, Float[np.ndarray, " replicates"]] = {}
    for event in curves.events:
        found = curves.resampled(event)
        if found is None or len(found[0]) < 2:
            continue
        steps, curve = found
        place: Row = {"task": curves.task, "part": event.name, "n": _units(curves, event)}
        if event.head is not None:
            place |= {"layer": event.head.layer, "head": event.head.head}
        there = reached(curve[1:] if len(curve) > 1 else curve, event.threshold)
        yield {**place, "metric": "reached", "value": there, "baseline": event.threshold}
        yield {**place, "metric": "threshold_step", **_interval(threshold_step(steps, curve, event.threshold)), "baseline": event.threshold}
        yield {**place, "metric": "persistence", **_interval(persistence(curve))}
        if len(steps) < FEWEST_STEPS or not (curve[0] >= event.threshold).any():
            continue
        fit = fit_logistic(steps, curve)
        for function in (emergence_step, emergence_width, emergence_rise, emergence_fit):
            yield {**place, "metric": function.__name__, **_interval(function(fit))}
        order.setdefault(event.name, fit.midpoint)
    if (found := curves.resampled(OVERTAKING)) is not None:
        place = {"task": curves.task, "part": OVERTAKING.name, "n": _units(curves, OVERTAKING)}
        yield {**place, "metric": "overtaking_step", **_interval(overtaking_step(*found))}
    names = sorted((name for name in order if np.isfinite(order[name][0])), key=lambda name: order[name][0])
    for earlier, later in itertools.pairwise(names):
        gap = emergence_gap(*(_as_many(order[earlier], order[later])))
        yield {"task": curves.task, "part": f"{earlier}, then {later}", "metric": "emergence_gap", **_interval(gap)}


def _units(curves: Curves, event: Event) -> int:
    return len(next(iter(curves.samples[event.keys[0]].values())).counts)


def _as_many(one: Float[np.ndarray, " some"], other: Float[np.ndarray, " others"]) -> tuple[np.ndarray, np.ndarray]:
    n = min(len(one), len(other))
    return one[:n], other[:n]


def _interval(values: Float[np.ndarray, " replicates"]) -> Row:
    """The curve's own value, and the 95 % percentile interval of its replicates; none where a replicate has no value
    (it never reached the threshold: the upper end is open)."""
    row: Row = {"value": float(values[0])}
    if len(values) > 1 and np.isfinite(values).all():
        low, high = np.percentile(values[1:], [2.5, 97.5])
        row |= {"ci_low": float(low), "ci_high": float(high)}
    return row
