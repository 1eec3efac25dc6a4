"""Take the README's picture from a report: python docs/picture.py runs/demo/report.html

Needs Chromium (CHROMIUM names another executable than `chromium`).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "images" / "formation.png"


def main(report: Path) -> None:
    """Draw the report and keep the part on formation."""
    with sync_playwright() as playwright:
        executable = shutil.which(os.environ.get("CHROMIUM", "chromium"))
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1000, "height": 800}, offline=True).new_page()
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("#figure-formation-0 .main-svg")
        page.wait_for_timeout(1000)
        page.locator("#figure-formation-0").screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
