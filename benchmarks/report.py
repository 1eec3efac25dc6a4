"""How large a report is, and how long a reader waits for it.

    python -m benchmarks.report runs/demo/report.html

Opens the page in headless Chromium (CHROMIUM names another executable) without a network, `--rounds` times, and prints medians: until the
page has been read, and until its first figure has been drawn. Limits: 8 MB for the demo's, open in under 2 s.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
from pathlib import Path

from playwright.sync_api import sync_playwright

FIGURE = "() => document.querySelector('.plot.drawn') && performance.now()"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {"page read": [], "first figure": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(os.environ.get("CHROMIUM", "chromium")), args=["--no-sandbox"])
        for _ in range(arguments.rounds):
            page = browser.new_context(offline=True, viewport={"width": 1100, "height": 900}).new_page()
            page.goto(arguments.report.resolve().as_uri())
            found["page read"].append(page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))
            page.locator(".plot").first.scroll_into_view_if_needed()  # figures are drawn when they come near
            found["first figure"].append(page.wait_for_function(FIGURE).json_value())
            page.context.close()
        browser.close()
    print(f"{arguments.report.stat().st_size / 1e6:.2f} MB")
    for what, times in found.items():
        spread = f"{min(times) / 1000:.2f} to {max(times) / 1000:.2f}"
        print(f"{what}: {statistics.median(times) / 1000:.2f} s (median of {len(times)}; {spread})")


if __name__ == "__main__":
    main()
