"""Runs side by side: each variant at its own best learning rate, beside a reference, as tables, sentences and notes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.analysis import compare_words as words
from workbench.analysis.compare import ENOUGH_RATES, best_rates, compared, curve_means, final_values, paired, steps_to
from workbench.analysis.compare_runs import EMERGENCE, EVENTS, curves_of, key, members_of, other_differences, with_values
from workbench.errors import UsageError, unknown_name
from workbench.runs import Run

ACCURACY, THRESHOLD = "in_context_accuracy", 0.95
BOUNDED = ("threshold_step",)
"""those whose NaN says that the event came after the last step, if ever (a curve that does not rise may have been up from the start)"""
IN_STEPS = (*EVENTS, "emergence_width", "emergence_gap")


@dataclass(frozen=True)
class Quantity:
    """What is compared: a value (`unit`: steps, or none), or the steps to an event ("reaches 0.95"); `missing` says what a seed
    without a value is."""

    name: str
    unit: str = ""
    event: str = ""
    missing: str = "no value in"


@dataclass(frozen=True)
class Comparison:
    """Variants beside a reference. `table` has a row for each quantity and variant (columns: see compare.compared), `seeds` one for
    each quantity, variant and seed, `curves` the mean curves, `rates` the learning rates tried."""

    metric: str
    threshold: float | None
    reference: str | None
    source: str
    quantities: tuple[Quantity, ...]
    table: pd.DataFrame
    seeds: pd.DataFrame
    curves: pd.DataFrame
    rates: pd.DataFrame
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        from workbench.representation import comparison_html

        return comparison_html(self)

    @property
    def sentences(self) -> list[str]:
        """A sentence for each variant but the reference, on the first quantity."""
        quantity = self.quantities[0]
        rows = words.rows_of(self.table[self.table["quantity"] == quantity.name])
        return [
            words.sentence(row, str(self.reference), quantity.name, event=quantity.event, unit=quantity.unit)
            for row in rows
            if row["pairs"] >= 1
        ]

    @property
    def head(self) -> list[str]:
        """The headings of `rows`."""
        names = ["variant", *(["lr"] if self.table["lr"].nunique() > 1 or len(self.rates) else []), "seeds"]
        for quantity in self.quantities:
            names.append(quantity.name)
            if self.reference is not None:
                names += [f"difference from {self.reference}", "%", "d_z"] if quantity == self.quantities[0] else ["difference"]
        return names

    @property
    def rows(self) -> list[list[str]]:
        """The cells of the table, a row for each variant."""
        found = []
        for variant in dict.fromkeys(self.table["variant"]):
            own = words.rows_of(self.table[self.table["variant"] == variant])
            cells = [str(variant), *([f"{own[0]['lr']:g}"] if "lr" in self.head else []), str(own[0]["n"])]
            for quantity, row in zip(self.quantities, own, strict=True):
                cells.append(words.own_cell(row, quantity.unit, quantity.missing))
                if self.reference is None:
                    continue
                cells.append(words.difference_cell(row, quantity.unit))
                if quantity == self.quantities[0]:
                    cells += [
                        "–" if math.isnan(row[name]) else f"{row[name]:{style}}" for name, style in (("percent", "+.0f"), ("d_z", "+.2f"))
                    ]
            found.append(cells)
        return found

    @property
    def markdown(self) -> str:
        """The table in Markdown, with what its numbers mean."""
        return "\n\n".join([words.markdown(self.head, self.rows), " ".join((*self.legend, *self.notes))]) + "\n"

    @property
    def legend(self) -> list[str]:
        """What the numbers of the table mean."""
        lines = ["Brackets: 95 % t intervals over seeds."]
        if self.table["censored"].any():
            lines.append(
                "Where a seed has no value there is no mean; medians are bounded by order statistics (at least 95 %, from 6 seeds on)."
            )
        if self.reference is not None:
            lines.append(
                f"Differences from {self.reference} are paired by seed; %: of the mean of {self.reference} over the same seeds;"
                " d_z: mean of the paired differences over their standard deviation."
            )
        return lines


def compare(
    runs: str | Path | Run | Iterable[str | Path | Run],
    *,
    metric: str | None = None,
    place: Mapping[str, Any] = {},
    over: str | None = None,
    threshold: float | None = None,
    falling: bool = False,
    reference: str | None = None,
) -> Comparison:
    """Compare variants over seeds, paired by seed, each variant at its own best learning rate where several were tried.

    Args:
        runs: runs, or folders of them.
        metric: a metric of training (metrics.jsonl) or of any table of the analysis; default: in-context accuracy, and the
            steps until it reaches 0.95 (of a task that asks for numbers, the loss above least squares).
        place: which of its rows, by column ({"part": "wire", "layer": 1}); None: those in which the column is empty.
        over: where a run has several such rows: their first, mean, max or min.
        threshold: also compare the steps until the metric is at least (`falling`: at most) so high.
        reference: the variant that the others are compared with; default: none.

    Raises:
        UsageError: nothing to compare, runs of different tasks, several runs of one variant, seed and learning rate, a variant
            that shares no seed with the reference, or a metric that is not there or has several rows in a run.
    """
    members = members_of(runs)
    if metric is None and _asks_numbers(members):
        metric = "excess_loss"
    elif metric is None:
        metric, threshold = ACCURACY, THRESHOLD if threshold is None else threshold
    notes = other_differences(members)
    rates = pd.DataFrame(columns=["variant", "lr", "n", "censored", "mean", "best"])
    if _several_rates(members):
        rates, chosen = _at_best_rates(members, metric, place, over, threshold, falling)
        notes += _rate_notes(rates)
        members = chosen
    held, source = curves_of(members, metric, place, over)
    members, left_out = with_values(members, held, metric)
    notes += left_out
    reference = _reference(members, reference)
    if reference is not None:
        _require_pairs(members, reference)
    quantities, tables = _quantities(held, source, metric, place, threshold, falling)
    parts, seeds = [], []
    for quantity, values in zip(quantities, tables, strict=True):
        values = _ordered(values, members, reference)
        parts.append(compared(values, reference).assign(quantity=quantity.name))
        if reference is not None:
            values = values.merge(paired(values, reference), on=["variant", "seed"], how="left")
        seeds.append(values.assign(quantity=quantity.name))
    has_steps = source != EMERGENCE and held["step"].nunique() > 1
    curves = curve_means(_ordered(held, members, reference)) if has_steps else pd.DataFrame(columns=["variant", "step", "mean"])
    notes += _end_notes(members, held, quantities, source)
    table = pd.concat(parts, ignore_index=True)
    others = table["variant"].nunique() - 1
    if reference is not None and others > 1:
        notes.append(
            f"Each interval is 95 % by itself: of {others} variants that equal {reference}, one in twenty is expected to exclude 0."
        )
    return Comparison(
        metric, threshold, reference, source, tuple(quantities), table, pd.concat(seeds, ignore_index=True), curves, rates, tuple(notes)
    )


def _asks_numbers(members: Sequence[Run]) -> bool:
    task = members[0].config.task  # that of all
    return task is not None and task.asks_numbers


# Learning rates.


def _several_rates(members: Sequence[Run]) -> bool:
    rates = {key(run)[:2] for run in members}
    return len(rates) > len({variant for variant, _ in rates})


def _at_best_rates(
    members: Sequence[Run], metric: str, place: Mapping[str, Any], over: str | None, threshold: float | None, falling: bool
) -> tuple[pd.DataFrame, list[Run]]:
    """The learning rates of each variant, and its runs at the best one: by the steps to the threshold, or, where the comparison has
    none, by those to the threshold of in-context accuracy."""
    if threshold is None and _asks_numbers(members):
        raise UsageError(
            "several learning rates were tried, and the best is the one that reaches a threshold first; "
            "pass --threshold, with --falling for a loss"
        )
    if threshold is None:
        metric, place, over, threshold, falling = ACCURACY, {}, None, THRESHOLD, False
    held, _ = curves_of(members, metric, place, over)
    rates = best_rates(steps_to(held, threshold, falling=falling))
    best = {(row.variant, row.lr) for row in rates[rates["best"]].itertuples()}
    return rates, [run for run in members if key(run)[:2] in best]


def _rate_notes(rates: pd.DataFrame) -> list[str]:
    grids, few, edges, uneven = [], [], [], []
    for variant, own in rates.sort_values("lr").groupby("variant", sort=False):
        tried = [f"{lr:g}" for lr in own["lr"]]
        best = f"{own.loc[own['best'], 'lr'].iloc[0]:g}"
        grids.append(f"{variant}: {best} of {', '.join(tried)}")
        few += [str(variant)] if len(own) < ENOUGH_RATES else []
        edges += [str(variant)] if len(tried) > 1 and best in (tried[0], tried[-1]) else []
        uneven += [str(variant)] if own["n"].nunique() > 1 else []
    notes = [
        "Each variant at its own best learning rate, chosen on these seeds: the fewest seeds that do not reach the threshold, then the"
        f" lowest mean steps (a seed that does not counted as its last step). {'; '.join(grids)}."
    ]
    if few:
        notes.append(f"Fewer than {ENOUGH_RATES} learning rates were tried for {', '.join(few)}.")
    if edges:
        notes.append(f"The best is at the edge of the grid for {', '.join(edges)}: a better one may lie beyond.")
    if uneven:
        notes.append(f"The rates of {', '.join(uneven)} were not all tried with as many seeds.")
    return notes


# The comparison.


def _reference(members: Sequence[Run], asked: str | None) -> str | None:
    variants = list(dict.fromkeys(key(run)[0] for run in members))
    if asked is not None:
        if asked not in variants:
            raise unknown_name("reference", asked, variants)
        return asked
    plain = [name for name in variants if name.partition("-")[0] == "none"]
    if "none" in variants or len(plain) == 1:
        reference = "none" if "none" in variants else plain[0]
    elif len(variants) == 1:
        return None
    else:
        raise UsageError(f"there are no runs of the variant none to compare with; name a --reference: {', '.join(variants)}")
    return reference if len(variants) > 1 else None


def _require_pairs(members: Sequence[Run], reference: str) -> None:
    seeds: dict[str, set[int]] = {}
    for run in members:
        variant, _, seed = key(run)
        seeds.setdefault(variant, set()).add(seed)
    for variant, own in seeds.items():
        if not own & seeds[reference]:
            listed = {name: ", ".join(map(str, sorted(seeds[name]))) for name in (variant, reference)}
            raise UsageError(
                f"{variant} shares no seed with {reference} ({variant}: {listed[variant]}; {reference}: {listed[reference]});"
                " train the same seeds, or choose another --reference"
            )


def _quantities(
    held: pd.DataFrame, source: str, metric: str, place: Mapping[str, Any], threshold: float | None, falling: bool
) -> tuple[list[Quantity], list[pd.DataFrame]]:
    """What is compared, and its values."""
    where = ", ".join(f"{value}" if name == "part" else f"{name} {value}" for name, value in place.items() if value is not None)
    named = f"{metric} ({where})" if where else metric
    if source == EMERGENCE:
        if threshold is not None:
            raise UsageError(f"{metric} is one value a run, no curve: it has no steps to a threshold")
        values = held.rename(columns={"step": "at_least"})
        values["at_least"] = values["at_least"] if metric in BOUNDED else -math.inf
        missing = "not reached by" if metric in BOUNDED else "no value in"
        return [Quantity(named, "steps" if metric in IN_STEPS else "", f"has its {named}" if metric in EVENTS else "", missing)], [values]
    final = Quantity(f"final {named}")
    if threshold is None:
        return [final], [final_values(held)]
    what = f"{threshold:g}" if metric == ACCURACY else f"{metric} {threshold:g}"
    event = Quantity(f"steps to {what}", "steps", f"{'falls to' if falling else 'reaches'} {what}", "not reached by")
    return [event, final], [steps_to(held, threshold, falling=falling), final_values(held)]


def _ordered(values: pd.DataFrame, members: Sequence[Run], reference: str | None) -> pd.DataFrame:
    """The values of the members, the reference first."""
    variants = sorted(dict.fromkeys(key(run)[0] for run in members), key=lambda name: name != reference)
    kept = values[values["variant"].isin(variants)]
    order = kept["variant"].map({name: place for place, name in enumerate(variants)})
    return kept.assign(order=order).sort_values(["order", "seed"], kind="stable").drop(columns="order").reset_index(drop=True)


def _end_notes(members: Sequence[Run], held: pd.DataFrame, quantities: Sequence[Quantity], source: str) -> list[str]:
    """How finely steps are known, and where the runs end."""
    notes: list[str] = []
    if source == EMERGENCE:
        return notes
    if quantities[0].event:
        gaps = {gap for _, own in held.groupby("run") for gap in own["step"].sort_values().diff().dropna()}
        apart = f"{min(gaps):g}" if len(gaps) == 1 else f"{min(gaps):g} to {max(gaps):g}" if gaps else "0"
        notes.append(f"Steps are those of the first evaluation past the threshold ({source}); evaluations are {apart} steps apart.")
    ends = held.groupby("run")["step"].max()
    early = [
        run
        for run in members
        if run.config.train is not None and str(run.path) in ends.index and ends[str(run.path)] < run.config.train.steps
    ]
    if early:
        listed = ", ".join(os.fspath(run.path) for run in early[:3]) + (", ..." if len(early) > 3 else "")
        notes.append(f"{len(early)} of {len(members)} runs have no value at their last step, stopped or not finished: {listed}.")
    if ends.nunique() > 1:
        notes.append(f"The runs end at different steps ({ends.min():g} to {ends.max():g}); final values are those of each run's own end.")
    return notes
