"""Take the pictures of the README and its pages from the demo's report: make demo && python docs/pictures.py runs/demo/report.html

Needs Chromium (CHROMIUM names another executable than `chromium`).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
WIDTH = 1000
VIEW = "#attention?run=value/seed_0&step=300&head=L1H3"
"""the view of the attention viewer that is shown, as its address keeps it"""


def main(report: Path) -> None:
    """Draw the report and keep some parts of it."""
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        executable = shutil.which(os.environ.get("CHROMIUM", "chromium"))
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": WIDTH, "height": 900}, offline=True).new_page()
        page.goto(report.resolve().as_uri() + VIEW)
        page.evaluate("() => Page.drawAll()")
        page.wait_for_timeout(1500)  # for the last lines that Plotly draws, and for the small patterns
        for name, part in (("formation", "#figure-formation-0"), ("matrices", "#figure-matrices-1")):
            page.locator(part).screenshot(path=IMAGES / f"{name}.png")
        _viewer(page)
        browser.close()


def _viewer(page: Page) -> None:
    """The viewer without the lines below it."""
    page.set_viewport_size({"width": WIDTH, "height": 1000})
    viewer = page.locator("[data-attention-viewer]").first
    viewer.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    box = viewer.bounding_box()
    assert box
    page.screenshot(path=IMAGES / "viewer.png", full_page=True, clip=_clip(page, box))


def _clip(page: Page, box: dict[str, float]) -> dict[str, float]:
    above = page.evaluate("scrollY")
    return {"x": box["x"], "y": box["y"] + above, "width": box["width"], "height": min(box["height"], 860)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
