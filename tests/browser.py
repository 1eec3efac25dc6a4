"""A browser without a network, one for all tests: Playwright's synchronous interface cannot be open twice."""

from __future__ import annotations

import base64
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium; a missing browser is a failure, since these tests are the only ones that see the page."""
    if not Path(CHROMIUM).is_file():
        pytest.fail(f"no browser at {CHROMIUM}: install chromium, or name one with the environment variable CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page and everything that went wrong, or out, while it was open."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def open(self, path: Path) -> Page:
        """Open a page that the report's template made, and have all its figures drawn, also those far down."""
        self.page.goto(path.as_uri())
        self.page.evaluate("() => Page.drawAll()")
        return self.page


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """An empty page, 1280 pixels wide, without a network, that records errors, requests and dialogs."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    visit = Visit(context.new_page())
    visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
    visit.page.on("console", lambda message: visit.problems.append(message.text) if message.type in ("error", "warning", "trace") else None)
    visit.page.on("request", lambda request: visit.requests.append(request.url))

    def dismiss(dialog: Dialog) -> None:
        visit.dialogs.append(dialog.message)
        dialog.dismiss()

    visit.page.on("dialog", dismiss)
    yield visit
    context.close()


def unpacked(html: str) -> str:
    """The page with its figures and tables as text, where its script would unpack them; libraries stay packed."""
    return re.sub(r'<script type="text/plain">(.*?)</script>', lambda packed: zlib.decompress(base64.b64decode(packed[1])).decode(), html)
