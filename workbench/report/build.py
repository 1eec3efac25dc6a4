"""Writing the report: sections into one HTML file that needs nothing beside itself."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import jinja2
import plotly.io
import plotly.offline
from markupsafe import Markup

from workbench.errors import UsageError, WorkbenchError
from workbench.figures import theme
from workbench.figures.attention import circuitsvis_script
from workbench.report.blocks import Block, ReportRun, Section, entries
from workbench.report.sections import SECTIONS

FIGURE_CONFIG = {"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}


def write_report(runs: Sequence[ReportRun], path: Path) -> Path:
    """Write the report on `runs` to `path`, and return `path`. A file already there is replaced at once or not at all.

    Raises:
        UsageError: there is no run.
        WorkbenchError: the file cannot be written.
    """
    return _written(path, render_report(runs))


def write_page(title: str, sections: Sequence[Section], path: Path) -> Path:
    """Write a page of sections that are not about runs to `path`, and return `path`. A file already there is replaced as by `write_report`.

    Raises:
        WorkbenchError: the file cannot be written.
    """
    return _written(path, render_page(title, sections))


def _written(path: Path, html: str) -> Path:
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, html)
    except OSError as error:
        raise WorkbenchError(f"cannot write the report {path}: {error.strerror or error}") from error
    return path


def render_report(runs: Sequence[ReportRun]) -> str:
    """The report on `runs` as HTML text.

    Raises:
        UsageError: there is no run.
    """
    if not runs:
        raise UsageError("a report needs at least one run")
    named = entries(runs)
    sections = [section for build in SECTIONS if (section := build(named)) is not None]
    return render_page(f"In-context learning: {len(runs)} runs" if len(runs) > 1 else f"In-context learning: {named[0].label}", sections)


def render_page(title: str, sections: Sequence[Section]) -> str:
    """Sections as the HTML text of one page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("workbench.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        title=title,
        sections=[(section, [_html(block, section, number) for number, block in enumerate(section.blocks)]) for section in sections],
        style=_beside("report.css"),
        scripts=_scripts(sections),
    )


def _html(block: Block, section: Section, number: int) -> tuple[Block, Markup, str]:
    """A block with its drawing, which is already HTML, and its caption."""
    if block.kind == "data":
        return block, _packed(json.dumps(block.data, ensure_ascii=False, allow_nan=False)), ""
    if block.figure is None:
        return block, Markup(block.html), ""
    drawing = json.loads(cast(str, plotly.io.to_json(block.figure, validate=False))) | {"config": FIGURE_CONFIG}
    place = Markup('<div class="plot" id="figure-{}-{}" style="height: {}px">{}</div>').format(
        section.id, number, block.figure.layout["height"], _packed(json.dumps(drawing))
    )
    return block, place, theme.caption(block.figure)


def _packed(text: str, attributes: str = "") -> Markup:
    """Text that `page.js` unpacks: deflated, it takes a quarter of the room and cannot end the element that holds it."""
    data = base64.b64encode(zlib.compress(text.encode("utf-8", "backslashreplace"), 9)).decode("ascii")
    return Markup(f'<script type="text/plain"{attributes}>{data}</script>')


def _scripts(sections: Sequence[Section]) -> list[Markup]:
    """The libraries that these sections need, each once, and the page's own script."""
    blocks = [block for section in sections for block in section.blocks]
    libraries = []
    if any(block.figure is not None for block in blocks):
        libraries.append(_packed(plotly.offline.get_plotlyjs(), ' data-library="plotly"'))
    if any(block.kind in ("attention", "predictions") for block in blocks):
        libraries.append(_packed(circuitsvis_script(), ' data-library="circuitsvis"'))
    needed = libraries or any(block.kind == "data" for block in blocks)
    return [Markup(f"<script>{_beside('page.js')}</script>"), *libraries] if needed else []


def _beside(name: str) -> Markup:
    """The text of a file that lies beside this one."""
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _replace(path: Path, text: str) -> None:
    """Write beside `path`, then move into place, so that no reader sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # Text from outside may hold halves of characters, which UTF-8 cannot; they are spelled out.
        beside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
