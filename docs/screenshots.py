"""Take the pictures in docs/images/ that show programs: ``python docs/screenshots.py [NAME ...]``, after ``make docs``.

It needs the Chromium of the machine and playwright (``pip install '.[dev]'``). A picture is a line in ``SHOTS``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
DESKTOP, PHONE = (1280, 800), (390, 800)
LARGEST_BYTES = 200_000


class Shot(NamedTuple):
    """A page, and the window that it is seen through: width and height in pixels; dark or light."""

    url: str
    size: tuple[int, int] = DESKTOP
    dark: bool = False


def of_site(page: str) -> str:
    """Return the address of a page that ``make docs`` has built."""
    return (ROOT / "site" / page).as_uri()


SHOTS = {
    "site_home": Shot(of_site("index.html")),
    "site_home_phone": Shot(of_site("index.html"), PHONE),
    "site_callbacks": Shot(of_site("catalogue/callbacks.html")),
    "site_callbacks_phone": Shot(of_site("catalogue/callbacks.html"), PHONE),
    "site_concepts": Shot(of_site("concepts.html"), dark=True),
    "site_concepts_phone": Shot(of_site("concepts.html"), PHONE),
}


def take(name: str, shot: Shot, browser: object) -> Path:
    """Take one picture, with 256 colours.

    Raises:
        RuntimeError: When the picture is too large to keep in the repository.
    """
    file = ROOT / "docs" / "images" / f"{name}.png"
    width, height = shot.size
    page = browser.new_page(  # type: ignore[attr-defined]
        viewport={"width": width, "height": height}, color_scheme="dark" if shot.dark else "light"
    )
    page.goto(shot.url, wait_until="load")
    with tempfile.NamedTemporaryFile(suffix=".png") as whole:
        page.screenshot(path=whole.name)
        Image.open(whole.name).convert("RGB").quantize(256).save(file, optimize=True)
    page.close()
    if file.stat().st_size > LARGEST_BYTES:
        raise RuntimeError(f"{file}: {file.stat().st_size} bytes, more than {LARGEST_BYTES}")
    return file


def main() -> None:
    """Take those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHOTS)} (default: all)")
    names = parser.parse_args().names or list(SHOTS)
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name in names:
            print(take(name, SHOTS[name], browser))


if __name__ == "__main__":
    main()
