"""A page that goes from one page of a site to the next, and what these did in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chromium import chromium, note_errors

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
def page_of_a_site() -> Iterator[Seen]:
    """Yield a page of a browser; skip the test where the machine has none."""
    with chromium() as browser:
        seen = Seen(browser.new_page())
        note_errors(seen.page, seen.errors, ("error",))
        seen.page.on("request", lambda request: request.url.startswith("http") and seen.foreign.append(request.url))
        yield seen
