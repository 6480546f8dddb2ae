"""A real browser for tests of pages: Chromium without a window, if it and playwright's Python package are there."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives the browser")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def note_errors(page: Any, notes: list[str], kinds: Collection[str] | None = None) -> None:
    """Note from now on the errors of a page's scripts, and what they write on the console.

    Args:
        page: Playwright's.
        notes: Where they are noted.
        kinds: Kinds of messages on the console, such as ``error``; None for all.
    """

    def heard(message: Any) -> None:
        if kinds is None or message.type in kinds:
            notes.append(f"console: {message.text}")

    page.on("console", heard)
    page.on("pageerror", lambda error: notes.append(f"error: {error}"))


@dataclass
class Opened:
    """A page that is open, and what went wrong in it.

    Attributes:
        page: Playwright's.
        troubles: Messages on the console, errors, dialogs, and requests for anything but the file; by now.
    """

    page: Any
    troubles: list[str] = field(default_factory=list)


@contextmanager
def opened(
    browser: Any, path: Path, *, width: int = 1280, dark: bool = False, scripts: bool = True
) -> Iterator[Opened]:
    """Open a file, and note what goes wrong."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripts
    )
    page = context.new_page()
    result = Opened(page)
    note_errors(page, result.troubles)
    page.on("dialog", lambda dialog: (result.troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on(
        "request",
        lambda request: result.troubles.append(f"request: {request.url}") if request.url != path.as_uri() else None,
    )
    page.goto(path.as_uri())
    yield result
    context.close()
