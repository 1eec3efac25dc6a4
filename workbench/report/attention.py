"""The report's section on attention: the viewer over checkpoints, and every head of the last checkpoint in CircuitsVis."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pandas as pd

from workbench.errors import UsageError
from workbench.figures.attention import DECIMALS, attention_heads_html, attention_patterns, visible_token
from workbench.figures.tables import where
from workbench.figures.viewer import ViewerRun, head_roles, viewer_html, viewer_payload, viewer_script, viewer_style
from workbench.report.blocks import Block, Entry, Section, spread

VIEWER_BUDGET = 2_500_000
"""characters of the viewer's data in a report"""

MAX_VIEWER_RUNS = 4
"""Runs in the viewer: more would leave each too few of its checkpoints. Of several variants, each has one before any has two."""

MAX_POSITIONS = 96
"""Positions of the sample sequence that CircuitsVis draws: the early part of a causal pattern is complete in itself."""

MAX_HEADS = 16
"""Heads of one run that CircuitsVis draws, those with a role first."""

PATTERN_BUDGET = 900_000
"""Characters of CircuitsVis's patterns in a report. A run of the largest size fits; later runs are named where they do not."""


def attention_section(runs: Sequence[Entry]) -> Section | None:
    """Attention over training in the viewer, then every head at the last checkpoint of each run."""
    held = [
        (entry, attention, tokens)
        for entry in runs
        if (attention := entry.table("attention")) is not None and (tokens := entry.table("tokens")) is not None
    ]
    blocks = _viewer_blocks(held)
    drawn: list[Block] = []
    left_out: list[str] = []
    room = PATTERN_BUDGET
    for number, (entry, attention, tokens) in enumerate(held):
        with suppress(UsageError):  # tables of an earlier form
            block = _last_checkpoint(entry, attention, tokens, f"attention-{number}")
            if len(block.html) > room:
                left_out.append(entry.label)
                continue
            room -= len(block.html)
            drawn.append(block)
    if not blocks and not drawn and not left_out:
        return None
    data = {"decimals": DECIMALS, "max_positions": MAX_POSITIONS, "left_out": left_out, "drawn": bool(drawn)}
    return Section("attention", "Attention", [*blocks, Block("attention-legend", data=data), *drawn])


def _viewer_blocks(held: Sequence[tuple[Entry, pd.DataFrame, pd.DataFrame]]) -> list[Block]:
    chosen = spread([entry for entry, _, _ in held], MAX_VIEWER_RUNS)
    runs = [
        ViewerRun(
            label=entry.label,
            attention=attention,
            tokens=tokens,
            stream=entry.run.config.model.stream,
            colour=entry.colour,
            roles=head_roles(entry.summary),
            formation=entry.table("formation"),
            emergence=entry.table("emergence"),
        )
        for entry, attention, tokens in (held[number] for number in chosen)
    ]
    with suppress(UsageError):  # tables of an earlier form
        html = viewer_html(viewer_payload(runs, VIEWER_BUDGET))
        script = viewer_script().replace("</script", "<\\/script")
        blocks = [Block("viewer", html=f'<style>{viewer_style()}</style>\n{html}\n<script type="module">\n{script}</script>')]
        left_out = [entry.label for number, (entry, _, _) in enumerate(held) if number not in chosen]
        if left_out:
            words = f"Not in this viewer, to keep the file small: {', '.join(left_out)}. Make a report of these runs alone to see them."
            blocks.append(Block("note", text=words))
        return blocks
    return []


def _last_checkpoint(entry: Entry, attention: pd.DataFrame, tokens: pd.DataFrame, div_id: str) -> Block:
    patterns = attention_patterns(where(attention, step=int(attention["step"].max())))
    words = where(tokens, sequence=patterns.sequence).sort_values(by="position").head(MAX_POSITIONS)
    length = min(patterns.values.shape[1], MAX_POSITIONS)
    texts = [str(text) for text in words["text"]]
    roles = head_roles(entry.summary)
    # CircuitsVis opens with the first head: one worth seeing.
    order = sorted(range(len(patterns.head_names)), key=lambda head: patterns.head_names[head] not in roles)[:MAX_HEADS]
    names = [patterns.head_names[head] for head in order]
    html = attention_heads_html(texts, patterns.values[order, :length, :length], names, div_id)
    strip = [
        {"position": int(position), "text": visible_token(text), "answered": bool(answered)}
        for position, text, answered in zip(words["position"], texts, words["answered"], strict=True)
    ]
    answered = [token for token in strip if token["answered"]]
    data = {"label": entry.label, "step": patterns.step, "sequence": patterns.sequence, "tokens": strip, "answered": answered}
    data |= {"shown": length, "length": patterns.values.shape[1], "roles": roles}
    data |= {"heads_shown": len(names), "heads": len(patterns.head_names)}
    return Block("attention", html=html, data=data)
