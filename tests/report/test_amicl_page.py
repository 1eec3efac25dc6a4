"""The page of `workbench amicl` in a browser without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import Visit
from workbench.cli import main

OVERLAPS = """() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => {
    const boxes = [...plot.querySelectorAll('.infolayer .annotation')].map(title => title.getBoundingClientRect());
    return boxes.some((one, i) => boxes.some((other, j) => i < j && one.left < other.right && other.left < one.right
        && one.top < other.bottom && other.top < one.bottom));
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("amicl")
    with pytest.raises(SystemExit, match="0"):
        main(["amicl", "--quick", "--trials", "23", "--out", str(folder)])
    return folder / "amicl.html"


@pytest.mark.parametrize(("width", "scheme"), [(800, "dark"), (1100, "light")])
def test_three_figures_without_an_error_or_a_request(visit: Visit, page: Path, width: int, scheme: str) -> None:
    visit.page.set_viewport_size({"width": width, "height": 900})
    visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    visit.open(page)
    assert visit.problems == [] and visit.requests == [page.as_uri()]
    assert visit.page.locator(".js-plotly-plot").count() == 3 and visit.page.locator("figcaption").count() == 3
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.page.evaluate(OVERLAPS) == [False, False, False]
