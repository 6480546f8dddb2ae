"""A headless Chromium of the machine, and what a page did in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

WIDTHS = {"desktop": 1280, "phone": 390}
"""Pixels."""


@dataclass
class Seen:
    """A page of the browser, what it complained about, and which other hosts it asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def show(self, url: str, width: int) -> None:
        """Load a file, or another one, at a width in pixels."""
        self.page.set_viewport_size({"width": width, "height": 800})
        self.page.goto(url, wait_until="load")

    def overflow(self, width: int) -> int:
        """Return by how many pixels the page is wider than the window."""
        self.page.set_viewport_size({"width": width, "height": 800})
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@contextlib.contextmanager
def chromium() -> Iterator[Seen]:
    """Yield a page of a browser without network; skip the test where the machine has no Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[dev]'")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install --no-install-recommends chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        seen = Seen(browser.new_page())
        seen.page.on("console", lambda message: message.type == "error" and seen.errors.append(message.text))
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.on("request", lambda request: request.url.startswith("http") and seen.foreign.append(request.url))
        yield seen
        browser.close()
