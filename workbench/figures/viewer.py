"""The attention viewer: patterns of one or several runs over their checkpoints, packed for the module viewer.js.

The same payload serves a page (`viewer_html`) and a notebook (`workbench.figures.widget`). What does not fit is left out and
named in the viewer: sequences first, then checkpoints, then heads without a role and late positions.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UsageError
from workbench.figures.attention import script_json, visible_token
from workbench.figures.tables import distinct, numbers, require_columns, where
from workbench.figures.theme import GREY, variant_colour

ATTENTION_COLUMNS = ("step", "sequence", "layer", "head", "destination", "source", "attention", "value_weighted")
TOKEN_COLUMNS = ("sequence", "position", "text", "answered", "read_from")
SCORES = {
    "previous_token_at_answers": "previous token",
    "previous_token_score": "previous token",
    "prefix_matching_score": "prefix matching",
}
"""scores of heads that are drawn above the slider; of those under one name the first that the table holds"""
NOTE = (
    "Patterns are quantised here: attention to steps of 1/255, what it is multiplied by to 1/65535 of the largest,"
    " streamed scores to 1/127; the exact values are in each run's parquet table attention."
)
FEWEST_STEPS, FEWEST_HEADS, FEWEST_POSITIONS = 8, 16, 96
"""below these, checkpoints, heads and positions are left out only where everything else is as small as it can be"""


@dataclass(frozen=True)
class ViewerRun:
    """A run as the viewer shows it: its tables, and what tells it from the others.

    `attention` and `tokens` are the tables that an analysis writes; `formation` and `emergence` give the curves and the events
    above the slider, where there are any. `roles` names heads ("L1H2" -> "induction head").
    """

    label: str
    attention: pd.DataFrame
    tokens: pd.DataFrame
    stream: str = "none"
    colour: str = GREY
    roles: Mapping[str, str] = field(default_factory=dict)
    formation: pd.DataFrame | None = None
    emergence: pd.DataFrame | None = None

    @classmethod
    def of_run(cls, run: Any, label: str | None = None) -> ViewerRun:
        """An analysed run (a `workbench.runs.Run`, or what has its name, config, tables and summary).

        Raises:
            UsageError: the run has no table of attention.
        """
        attention, tokens = run.table("attention"), run.table("tokens")
        if attention is None or tokens is None:
            raise UsageError(f"{run.name} has no attention table; analyse it first")
        model = run.config.model
        return cls(
            label=label or run.name,
            attention=attention,
            tokens=tokens,
            stream=model.stream,
            colour=variant_colour(model.variant),
            roles=head_roles(run.summary() or {}),
            formation=run.table("formation"),
            emergence=run.table("emergence"),
        )


@dataclass(frozen=True)
class Payload:
    """What the module needs: a manifest, and deflated blobs by name."""

    manifest: dict[str, Any]
    blobs: dict[str, bytes]

    @property
    def size(self) -> int:
        """Characters that it takes in a page."""
        return len(script_json(self.manifest)) + sum(4 * ((len(blob) + 2) // 3) + len(name) + 6 for name, blob in self.blobs.items())


@dataclass(frozen=True)
class _Kept:
    """How much of each run is packed."""

    sequences: int
    steps: int
    heads: int
    positions: int

    def less(self, excess: float) -> _Kept | None:
        """One thing less, by the factor `excess` by which the payload is too large; None where nothing is left to leave out."""
        excess = max(1.1, excess)
        if self.sequences > 1:
            return _Kept(max(1, min(self.sequences - 1, int(self.sequences / excess))), self.steps, self.heads, self.positions)
        for steps, heads, positions in ((FEWEST_STEPS, FEWEST_HEADS, FEWEST_POSITIONS), (2, 1, 16)):
            if self.steps > steps:
                return _Kept(1, max(steps, int(self.steps / excess)), self.heads, self.positions)
            if self.heads > heads:
                return _Kept(1, self.steps, max(heads, int(self.heads / excess)), self.positions)
            if self.positions > positions:
                return _Kept(1, self.steps, self.heads, max(positions, int(self.positions / excess**0.5)))
        return None


@dataclass(frozen=True)
class _Grid:
    """An attention table as arrays [step, sequence, head, destination, source]."""

    steps: list[int]
    sequences: list[int]
    heads: list[tuple[int, int]]
    values: dict[str, np.ndarray]


def run_labels(runs: Sequence[Any], taken: Sequence[str] = ()) -> list[str]:
    """Labels that tell runs from each other, and from those `taken`: the name, with the variant or a number where names are equal."""
    names = [*taken, *(run.name for run in runs)]
    labels = list(taken)
    for run in runs:
        label = run.name if names.count(run.name) == 1 else f"{run.config.model.variant}/{run.name}"
        again = sum(other == label or other.startswith(f"{label} (") for other in labels)
        labels.append(f"{label} ({again + 1})" if again else label)
    return labels[len(taken) :]


def viewer_runs(runs: Sequence[Any]) -> list[ViewerRun]:
    """Runs as the viewer shows them (`ViewerRun.of_run`), under labels that differ; what is a `ViewerRun` already stays as it is.

    Raises:
        UsageError: this is no list of runs, or one of them has no table of attention.
    """
    if not isinstance(runs, Sequence) or isinstance(runs, str):
        raise UsageError(f"the attention viewer takes a list of runs; got {type(runs).__name__}")
    ready = [run.label for run in runs if isinstance(run, ViewerRun)]
    others = [run for run in runs if not isinstance(run, ViewerRun)]
    for run in others:
        if not hasattr(run, "table") or not hasattr(run, "summary"):
            raise UsageError(f"the attention viewer takes runs (as Run.load gives them) or ViewerRuns; got {type(run).__name__}")
    labels = iter(run_labels(others, ready))
    return [run if isinstance(run, ViewerRun) else ViewerRun.of_run(run, next(labels)) for run in runs]


def head_roles(summary: Mapping[str, Any]) -> dict[str, str]:
    """The heads that a run's summary names, and as what.

    >>> head_roles({"previous_token_head": "L0H1", "induction_heads": ["L1H2"]})
    {'L0H1': 'previous-token head', 'L1H2': 'induction head'}
    """
    previous = summary.get("previous_token_head")
    roles = {previous: "previous-token head"} if previous else {}
    return roles | {head: "induction head" for head in summary.get("induction_heads", ()) if head != previous}


def viewer_payload(runs: Sequence[ViewerRun], budget: int | None = None) -> Payload:
    """Pack runs for the viewer, in at most `budget` characters of a page (None: all of it).

    Raises:
        UsageError: there is no run, two have one label, or a table lacks columns or rows.
    """
    if not runs:
        raise UsageError("the attention viewer needs at least one run")
    labels = [run.label for run in runs]
    if len(set(labels)) < len(labels):
        raise UsageError(f"the attention viewer tells runs by their labels, which must differ; got {', '.join(labels)}")
    grids = [_grid(run) for run in runs]
    sizes = [(len(grid.sequences), len(grid.steps), len(grid.heads), grid.values["attention"].shape[-1]) for grid in grids]
    kept: _Kept | None = _Kept(*(max(size) for size in zip(*sizes, strict=True)))
    payload = _packed(runs, grids, kept)
    while budget is not None and payload.size > budget and (kept := kept.less(payload.size / budget)) is not None:
        payload = _packed(runs, grids, kept)
    return payload


def viewer_html(payload: Payload, name: str = "attention") -> str:
    """The viewer as HTML, its data inside; the page includes `viewer_script` and `viewer_style` once. The view is kept in the
    page's address as `#NAME?...`.

    Raises:
        UsageError: `name` cannot stand in an address.
    """
    if not re.fullmatch(r"[A-Za-z][\w-]*", name, flags=re.ASCII):
        raise UsageError(f"name must be letters, digits, - and _, beginning with a letter; got {name!r}")
    data = {"manifest": payload.manifest, "blobs": {key: base64.b64encode(blob).decode("ascii") for key, blob in payload.blobs.items()}}
    held = f'<script type="application/json">{script_json(data)}</script>'
    return f'<div data-attention-viewer="{name}">{held}<noscript><p>The attention viewer needs JavaScript.</p></noscript></div>'


def viewer_script() -> str:
    """The text of a `<script type="module">` that draws every viewer of the page."""
    return Path(__file__).with_name("viewer.js").read_text(encoding="utf-8") + "\nmountAll();\n"


def viewer_style() -> str:
    """The viewer's style sheet."""
    return Path(__file__).with_name("viewer.css").read_text(encoding="utf-8")


def _grid(run: ViewerRun) -> _Grid:
    table = run.attention
    require_columns(table, ATTENTION_COLUMNS, "attention")
    require_columns(run.tokens, TOKEN_COLUMNS, "tokens")
    codes, names = {}, {}
    for column in ("step", "sequence"):
        codes[column], unique = pd.factorize(table[column], sort=True)
        names[column] = [int(value) for value in unique]
    width = int(table["head"].max()) + 1
    codes["head"], unique = pd.factorize(table["layer"].to_numpy(np.int64) * width + table["head"].to_numpy(np.int64), sort=True)
    heads = [divmod(int(value), width) for value in unique]
    places = [table[column].to_numpy(np.int64) for column in ("destination", "source")]
    length = int(places[0].max()) + 1
    shape = (len(names["step"]), len(names["sequence"]), len(heads), length, length)
    at = np.ravel_multi_index([codes["step"], codes["sequence"], codes["head"], *places], shape)
    values = {}
    for name in ("attention", "value_weighted", "streamed"):
        if name not in table or table[name].isna().all():
            continue
        values[name] = np.zeros(shape, dtype=np.float32)
        values[name].ravel()[at] = table[name].to_numpy(np.float32)
    return _Grid(names["step"], names["sequence"], heads, values)


def _packed(runs: Sequence[ViewerRun], grids: Sequence[_Grid], kept: _Kept) -> Payload:
    manifests, blobs = [], {}
    for number, (run, grid) in enumerate(zip(runs, grids, strict=True)):
        manifest, own = _packed_run(str(number), run, grid, kept)
        manifests.append(manifest)
        blobs |= own
    return Payload({"runs": manifests, "notes": [NOTE]}, blobs)


def _packed_run(number: str, run: ViewerRun, grid: _Grid, kept: _Kept) -> tuple[dict[str, Any], dict[str, bytes]]:
    names = [f"L{layer}H{head}" for layer, head in grid.heads]
    # Those with a role stay; what stays is in the order of the model.
    chosen = sorted(sorted(range(len(names)), key=lambda head: names[head] not in run.roles)[: kept.heads])
    steps = _evenly(len(grid.steps), kept.steps)
    sequences = list(range(min(kept.sequences, len(grid.sequences))))
    all_positions = grid.values["attention"].shape[-1]
    n = min(kept.positions, all_positions)
    lower = np.tril_indices(n)
    values = {name: found[np.ix_(steps, sequences, chosen)][..., :n, :n] for name, found in grid.values.items()}
    heads = [names[head] for head in chosen]

    colours: dict[str, dict[str, Any]] = {"attention": {"kind": "bytes", "scales": [1.0] * len(heads)}}
    arrays = {"attention": np.rint(values["attention"][..., *lower].clip(0, 1) * 255).astype(np.uint8)}
    for name in ("value_weighted", "streamed"):
        if name not in values:
            continue
        held = [head for index, head in enumerate(heads) if not np.isnan(values[name][:, :, index]).any()]
        if not held:
            continue
        filled = np.nan_to_num(values[name])
        scales = np.abs(filled).max(axis=(0, 1, 3, 4))
        scales = np.where(scales > 0, scales, 1.0)
        colours[name] = {"kind": "signed", "scales": [float(f"{scale:.6g}") for scale in scales]}
        if name == "streamed" and run.stream != "value":
            arrays[name] = (128 + np.rint(filled[..., *lower] / scales[:, None] * 127)).astype(np.uint8)
        else:
            arrays[name], factor, offset = _factors(values["attention"], filled)
            colours[name] |= {"kind": "factors", "factor": factor, "offset": offset}
        if len(held) < len(heads):
            colours[name]["heads"] = held

    blobs = {
        f"{number}/{grid.sequences[sequence]}/{name}": zlib.compress(_differences(array[:, sequence]))
        for name, array in arrays.items()
        for sequence in sequences
    }
    shown = [grid.sequences[sequence] for sequence in sequences]
    manifest = {
        "id": number,
        "label": run.label,
        "colour": run.colour,
        "stream": run.stream,
        "steps": [grid.steps[index] for index in steps],
        "analysed": _analysed(run, grid),
        "heads": heads,
        "all_heads": len(names),
        "roles": {head: role for head, role in run.roles.items() if head in heads},
        "positions": n,
        "all_positions": all_positions,
        "sequences": shown,
        "all_sequences": len(grid.sequences),
        "tokens": [_tokens(run, sequence, n) for sequence in shown],
        "colours": colours,
        "curves": _curves(run, heads),
        "events": _events(run),
    }
    return manifest, blobs


def _evenly(there: int, kept: int) -> list[int]:
    """Which of so many checkpoints are kept: every n-th where that ends at the last, otherwise as evenly as it goes."""
    if kept >= there:
        return list(range(there))
    for every in range(-(-(there - 1) // max(1, kept - 1)), there):
        if (there - 1) % every == 0 and (there - 1) // every + 1 >= 0.75 * kept:
            return list(range(0, there, every))
    return sorted({round(place) for place in np.linspace(0, there - 1, kept)})


def _factors(attention: np.ndarray, weighted: np.ndarray) -> tuple[np.ndarray, float, int]:
    """What the attention is multiplied by at each source, as 16 bits [step, sequence, (low, high), head, source], with the
    unit and the zero of these numbers: both value-weighted forms are the attention times a number of the source."""
    sums = attention.sum(axis=-2)
    numbers = np.divide(weighted.sum(axis=-2), sums, out=np.zeros_like(sums), where=sums > 0)
    most = float(np.abs(numbers).max()) or 1.0
    offset = 32767 if numbers.min() < 0 else 0
    factor = most / (32767 if offset else 65535)
    whole = np.rint(numbers / factor).astype(np.int64) + offset
    return np.stack([whole & 255, whole >> 8], axis=2).astype(np.uint8), factor, offset


def _differences(array: np.ndarray) -> bytes:
    """Bytes as differences (modulo 256) between neighbouring steps, which deflate better: patterns move little."""
    return np.diff(array, axis=0, prepend=np.zeros_like(array[:1])).tobytes()


def _analysed(run: ViewerRun, grid: _Grid) -> int:
    """How many checkpoints the run has, as far as its tables know."""
    return len(grid.steps) if run.formation is None else max(len(grid.steps), int(run.formation["step"].nunique()))


def _tokens(run: ViewerRun, sequence: int, positions: int) -> dict[str, list[Any]]:
    words = where(run.tokens, sequence=sequence).sort_values(by="position").head(positions)
    return {
        "text": [visible_token(str(text)) for text in words["text"]],
        "answered": [int(answered) for answered in words["answered"]],
        "read_from": [int(place) for place in words["read_from"]],
    }


def _curves(run: ViewerRun, heads: Sequence[str]) -> dict[str, Any]:
    """In-context accuracy, and the scores of each head on the run's own task, as points (step, value)."""
    curves: dict[str, Any] = {"accuracy": [], "heads": {}}
    table = run.formation
    if table is None:
        return curves
    if "task" in table and len(table):
        table = where(table, task=distinct(table, "task")[0])
    curves["accuracy"] = _points(where(table, metric="in_context_accuracy"))
    for metric, name in SCORES.items():
        rows = where(table, metric=metric)
        if rows.empty or "layer" not in rows:
            continue
        for (layer, head), own in rows.groupby(["layer", "head"]):  # pyright: ignore[reportGeneralTypeIssues]
            if (label := f"L{layer}H{head}") in heads:
                curves["heads"].setdefault(label, {}).setdefault(name, _points(own))
    return curves


def _points(rows: pd.DataFrame) -> list[tuple[int, float]]:
    rows = rows.sort_values(by="step")
    return [
        (int(step), round(float(value), 4))
        for step, value in zip(numbers(rows, "step"), numbers(rows, "value"), strict=True)
        if np.isfinite(step) and np.isfinite(value)
    ]


def _events(run: ViewerRun) -> list[dict[str, Any]]:
    """What appears in training, and when: the fitted steps of the table emergence, in their order, with their intervals."""
    if run.emergence is None or run.emergence.empty:
        return []
    rows = where(run.emergence, metric="emergence_step")
    ends = [numbers(rows, name) if name in rows else np.full(len(rows), np.nan) for name in ("ci_low", "ci_high")]
    places = [numbers(rows, name) for name in ("layer", "head", "value")]
    found = []
    for name, layer, head, step, low, high in zip(rows["part"], *places, *ends, strict=True):
        if not np.isfinite(step):
            continue
        place = f" L{layer:.0f}H{head:.0f}" if np.isfinite(layer) and np.isfinite(head) else ""
        event: dict[str, Any] = {"name": f"{name}{place}", "step": round(float(step), 1)}
        if np.isfinite(low) and np.isfinite(high):
            event["interval"] = [round(float(low), 1), round(float(high), 1)]
        found.append(event)
    return sorted(found, key=lambda event: event["step"])
