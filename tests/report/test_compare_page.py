"""The page of a comparison in a browser without a network."""

from __future__ import annotations

import math
from pathlib import Path

from tests.browser import Visit
from tests.test_cli_compare import make
from workbench import compare
from workbench.report.compare import write_comparison


def test_the_page(visit: Visit, tmp_path: Path) -> None:
    for variant, steps in (("none", (430, 395, 400)), ("value", (330, 285, math.inf))):
        for seed, step in enumerate(steps):
            make(tmp_path / variant / f"seed_{seed}", variant, seed, step)
    page = write_comparison(compare(tmp_path), tmp_path / "compare.html")
    for width in (800, 1100):
        visit.page.set_viewport_size({"width": width, "height": 900})
        visit.open(page)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.page.locator(".js-plotly-plot").count() == 3 and visit.problems == []
    assert visit.page.locator("#summary table td").all_text_contents()[:2] == ["none", "3"]
    assert [url for url in visit.requests if not url.startswith("file:")] == []
