"""Pictures of the pages of ``plot`` and ``study report``, of a small study that is run for them: 2 arms, 3 seeds.

Run:  python docs/screenshots_of_pages.py --out docs/images
Ten minutes on two cores; runs that are finished are kept, so that a second time takes seconds. Needs the extra
``plot``, playwright's Python package, and Chromium on the path.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

STUDY = """\
# Claim: giving actor and critic new weights every 2000 frames costs return at so short a run, and the critic has more
#   active units afterwards.
# Source: a small example; the intervention is the reset of Nikishin et al. 2022 (arXiv 2205.07802).
# Confirmed if the verdict on `reset` is "below 0", which is below the baseline `no_reset`.
# Contradicted if it is "above 0".
# Note: three seeds are too few for any verdict; the page says so.
base:
  - mini_state
  - data.eval_every_n_frames=400
  - data.num_eval_episodes=2
  - trainer.log_every_n_steps=50
  - data.storage=ram
max_frames: 6400
max_return: 1000
tasks: [cartpole_swingup]
seeds: [1, 2, 3]
primary: {tag: eval/return, of: area}
secondary: [{tag: eval/return, of: final}, {tag: fau/critic, of: final}]
factors:
  reset:
    no_reset: []
    reset:
      - trainer.callbacks+=callbacks.Reset
      - "trainer.callbacks.modules=[actor,critic]"
      - trainer.callbacks.every_n_frames=2000
"""
PICTURES = {"report": ("index", 1280, 1480), "report_phone": ("index", 390, 1500), "plot_page": ("plot", 1280, 900)}
"""Name -> page, and width and height of the window in pixels."""


def main() -> None:
    """Run what is missing, write the pages, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/pages"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    study = options.folder / "reset_small.yaml"
    if not study.exists():
        study.write_text(f"{STUDY}folder: {options.folder}/runs\n", encoding="utf-8")
    command = [sys.executable, "-m", "plasticity_rl"]
    subprocess.run([*command, "study", "run", study], check=True)
    subprocess.run([*command, "study", "report", study, "--out", options.folder], check=True)
    subprocess.run([*command, "plot", options.folder / "runs", "--out", options.folder / "plot.html"], check=True)
    options.out.mkdir(parents=True, exist_ok=True)
    take(options.folder, options.out)


def take(folder: Path, out: Path) -> None:
    """Take all pictures, with the pointer at an event, whose text then shows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for name, (page_name, width, height) in PICTURES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto((folder / f"{page_name}.html").resolve().as_uri())
            point_at_an_event(page)
            page.screenshot(path=out / f"{name}.png")
            page.close()
            image = Image.open(out / f"{name}.png").convert("RGB").quantize(96)  # a third of the bytes, looks the same
            image.save(out / f"{name}.png", optimize=True)
        browser.close()


def point_at_an_event(page: Any) -> None:
    """Move the pointer along the first panel until an event tells its text."""
    box = page.locator(".u-over").first.bounding_box()
    if box["y"] + box["height"] > page.viewport_size["height"]:
        page.evaluate("[...document.querySelectorAll('h2')].find((h) => h.textContent === 'Curves').scrollIntoView()")
        box = page.locator(".u-over").first.bounding_box()
    for x in range(int(box["width"] / 2), int(box["width"]), 3):
        page.mouse.move(box["x"] + x, box["y"] + box["height"] / 3)
        if page.locator(".tip").first.is_visible():
            return


if __name__ == "__main__":
    main()
