"""What a notebook shows of a run or of a comparison: words, a table, and a small curve as SVG.

Text is escaped by `Markup.format`, so that a path or a name of one's own cannot become HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.analysis.comparison import Comparison
    from workbench.runs import Run

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 150, 40, 12, 22, 24
"""size of the curve's picture, and its margins, in pixels"""
MOST_POINTS = 300
SHOWN = (("in_context_accuracy", "In-context accuracy"), ("accuracy", "Accuracy"), ("loss", "Loss"))
"""metrics of training of which the first that was logged is drawn, with its heading; accuracies are drawn in [0, 1]"""


def run_html(run: Run) -> str:
    """A run: what it is, how far it has come, what its analysis said, and its accuracy over training. Damage is said, not raised: a
    notebook would show a traceback."""
    try:
        facts, said, picture = _facts(run), (run.summary() or {}).get("lines", []), _picture(run)
    except WorkbenchError as error:
        return str(Markup("<p><b>{}</b></p><p>{}</p>").format(run.name, error))
    hint = Markup("<p>Not analysed yet: <code>run.analyze()</code>.</p>")
    rows = Markup().join(
        Markup('<tr><th style="text-align:left">{}</th><td style="text-align:left">{}</td></tr>').format(*fact) for fact in facts
    )
    heading = Markup("<p><b>{}</b></p><table>{}</table>").format(run.name, rows)
    return str(heading + picture + (_list(said) if said else hint))


def comparison_html(found: Comparison) -> str:
    """A comparison: a sentence for each variant, the table, and what its numbers mean."""
    head = Markup().join(Markup("<th>{}</th>").format(name) for name in found.head)
    rows = Markup().join(
        Markup("<tr>{}</tr>").format(Markup().join(Markup("<td>{}</td>").format(cell) for cell in row)) for row in found.rows
    )
    table = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, rows)
    notes = Markup('<p style="font-size:smaller">{}</p>').format(" ".join((*found.legend, *found.notes)))
    return str((_list(found.sentences) if found.sentences else Markup()) + table + notes)


def curve_svg(points: Iterable[tuple[float, float]], *, title: str, highest: float | None = 1.0) -> str:
    """Values over steps as one line, in a picture that needs nothing else. Points that are not finite are left out.

    `highest` is the top of the vertical axis, which begins at 0; None: the largest value. No points give an empty string.
    """
    kept = [(float(step), float(value)) for step, value in points if math.isfinite(step) and math.isfinite(value)]
    if not kept:
        return ""
    kept = [*kept[: -1 : -(-len(kept) // MOST_POINTS)], kept[-1]]
    first, last = min(step for step, _ in kept), max(step for step, _ in kept)
    top = max(value for _, value in kept) if highest is None else highest
    across, up = (WIDTH - LEFT - RIGHT) / ((last - first) or 1), (HEIGHT - TOP - BOTTOM) / (top or 1)
    places = [(LEFT + (step - first) * across, HEIGHT - BOTTOM - min(max(value, 0), top) * up) for step, value in kept]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img" font-family="sans-serif"'
            ' font-size="11" fill="currentColor"><title>{title}: {ends}</title><text x="{left}" y="13">{title}</text>'
            '<path d="M{left},{top}V{bottom}H{right}" fill="none" stroke="currentColor" stroke-opacity="0.4"/>'
            '<text x="{beside}" y="{highest_at}" text-anchor="end">{highest:g}</text>'
            '<text x="{beside}" y="{bottom}" text-anchor="end">0</text>'
            '<text x="{left}" y="{below}">{first:g}</text><text x="{right}" y="{below}" text-anchor="end">step {last:g}</text>'
            '<polyline points="{line}" fill="none" stroke="#0072B2" stroke-width="2"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3"'
            ' fill="#0072B2"/></svg>'
        ).format(
            w=WIDTH, h=HEIGHT, left=LEFT, right=WIDTH - RIGHT, top=TOP, bottom=HEIGHT - BOTTOM, beside=LEFT - 5, highest_at=TOP + 8,
            below=HEIGHT - BOTTOM + 15, first=first, last=last, highest=float(f"{top:.3g}"), title=title, line=line, x=x, y=y,
            ends=f"{kept[0][1]:.3g} at step {first:g}, {kept[-1][1]:.3g} at step {last:g}",
        )
    )  # fmt: skip


def _facts(run: Run) -> Sequence[tuple[str, str]]:
    """What a run is and how far it has come."""
    config, steps = run.config, run.steps
    model = config.model
    size = f"{model.n_layers} layers of {model.n_heads} heads, width {model.d_model}, {model.positional_embedding_type} positions"
    task = "none" if config.task is None else f"{config.task.name}: {config.task.d_vocab} tokens, sequences of {config.task.seq_len}"
    spans = f"{len(steps)} checkpoints" + (f", steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else "")
    trained = [] if config.train is None else [("trained", run.progress)]
    return [
        ("variant", f"{model.variant}, seed {model.seed}"), ("model", size), ("task", task), *trained, ("saved", spans),
        ("folder", str(run.path)),
    ]  # fmt: skip


def _picture(run: Run) -> Markup:
    rows = run.metric_rows()
    for name, title in SHOWN:
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float) and "step" in row]
        if drawn := curve_svg(points, title=title, highest=None if name == "loss" else 1.0):
            return Markup("<div>{}</div>").format(Markup(drawn))
    return Markup()


def _list(lines: Iterable[str]) -> Markup:
    return Markup("<ul>{}</ul>").format(Markup().join(Markup("<li>{}</li>").format(line) for line in lines))
