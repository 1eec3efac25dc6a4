"""The attention viewer as a notebook widget: the view is its traits, which a cell may read and set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from workbench.figures.viewer import viewer_payload, viewer_runs

WIDGET_BUDGET = 40_000_000
"""characters that the patterns of a widget take at most"""


class AttentionWidget(anywidget.AnyWidget):
    """Attention over checkpoints, from the tables of one or several runs.

    Args:
        runs: analysed runs, as `Run.load` gives them, or a `ViewerRun` for a label of your own or tables of another source.
        view: where it opens: any of the traits below, as keywords.

    `run`, `step`, `head` ("L1H2"), `sequence` and `colour` ("attention", "value_weighted", "streamed") say what is shown;
    `second` another run beside it, at the step `at` (None: at the same step); `lock` the destination that is kept; `small`
    what the small patterns show ("this", "other", "difference"). A trait that is None when the widget is drawn takes the
    viewer's own choice; what the data do not have becomes the nearest that they have.

    Raises:
        UsageError: as `viewer_runs` and `viewer_payload` of `workbench.figures.viewer`.
    """

    _esm = Path(__file__).with_name("viewer.js")
    _css = Path(__file__).with_name("viewer.css")

    manifest = traitlets.Dict().tag(sync=True)
    blobs = traitlets.Dict().tag(sync=True)
    run = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    second = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    step = traitlets.Int(None, allow_none=True).tag(sync=True)
    at = traitlets.Int(None, allow_none=True).tag(sync=True)
    head = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    sequence = traitlets.Int(None, allow_none=True).tag(sync=True)
    colour = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    lock = traitlets.Int(None, allow_none=True).tag(sync=True)
    small = traitlets.Unicode(None, allow_none=True).tag(sync=True)

    def __init__(self, runs: Sequence[Any], **view: Any) -> None:
        payload = viewer_payload(viewer_runs(runs), WIDGET_BUDGET)
        super().__init__(manifest=payload.manifest, blobs=payload.blobs, **view)

    def __repr__(self) -> str:
        runs = ", ".join(run["label"] for run in self.manifest["runs"])
        return f"AttentionWidget({runs}: step {self.step}, {self.head}, {self.colour})"
