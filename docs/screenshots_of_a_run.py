"""Pictures of a run as a user sees it: the terminal at 80 columns, TensorBoard in a browser.

    python docs/screenshots_of_a_run.py terminal       # docs/images/terminal.png; needs tmux
    python docs/screenshots_of_a_run.py tensorboard    # docs/images/tensorboard.png, of the run that `terminal` made

Both draw with Chromium by playwright (``CHROMIUM=/path`` names one that is installed), and need no network.
"""

from __future__ import annotations

import argparse
import html
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
RUN = Path(tempfile.gettempdir()) / "plasticity_rl_screenshots"
BIN = Path(sys.executable).parent
COLUMNS, ROWS = 80, 40
TRAIN = (
    "plasticity-rl fit --config mini_state --max_frames 6000 "
    "--trainer.callbacks+=callbacks.DormantUnits --trainer.callbacks.every_n_updates=50 "
    "--trainer.callbacks+=callbacks.Reset --trainer.callbacks.every_n_frames=2000 "
    "--trainer.callbacks.modules=[critic] --trainer.default_root_dir=runs/reset"
)
END = "the command has ended with"
PAGE = """<body style="margin: 0; background: #1d1f21; color: #e0e0e0; width: max-content">
<pre style="margin: 16px; font: 15px/1.3 'DejaVu Sans Mono', monospace">{}</pre></body>"""
SECONDS_TO_WAIT = 1800


@contextmanager
def page(width: int, height: int) -> Iterator[Page]:
    """Give a page of a browser without a window.

    Args:
        width: Pixels.
        height: Pixels.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()


def terminal() -> None:
    """Train in a terminal of 80 columns, and draw what stands there at the end."""
    folder = RUN / "terminal"
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    folder.mkdir(parents=True)
    tmux = ["tmux", "-L", f"screenshots{os.getpid()}"]
    shown = TRAIN.replace(" --trainer.callbacks+", " \\\n    --trainer.callbacks+").replace(
        " --trainer.callbacks.modules", " \\\n    --trainer.callbacks.modules"
    )
    path = f"{BIN}:{os.environ['PATH']}"
    command = f"cd {folder}; PATH={shlex.quote(path)}; {TRAIN}; echo {END} $?; sleep 600"
    size = ["-x", str(COLUMNS), "-y", str(ROWS)]
    subprocess.run([*tmux, "new-session", "-d", *size, command], check=True)
    try:
        for _ in range(SECONDS_TO_WAIT):
            screen = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout
            if END in screen:
                break
            time.sleep(1)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
    text = f"$ {shown}\n{screen[: screen.index(END)]}"
    with page(800, 600) as drawn:
        drawn.set_content(PAGE.format(html.escape(text.rstrip())))
        drawn.locator("body").screenshot(path=IMAGES / "terminal.png")


@contextmanager
def served(logdir: Path) -> Iterator[str]:
    """Give the address of a TensorBoard that shows the runs in ``logdir``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [str(BIN / "tensorboard"), "--logdir", str(logdir), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(SECONDS_TO_WAIT):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        server.terminate()
        server.wait()


def tensorboard(logdir: Path, tab: str = "custom_scalars", out: Path = IMAGES / "tensorboard.png") -> None:
    """Draw a tab of TensorBoard.

    Args:
        logdir: Run folder.
        tab: As the address of the page calls it.
        out: Picture.
    """
    with served(logdir) as address, page(1280, 900) as drawn:
        drawn.set_default_timeout(180_000)
        drawn.goto(f"{address}/#{tab}", wait_until="domcontentloaded")
        if tab == "custom_scalars":
            drawn.get_by_text("Events of interventions").first.wait_for()
        drawn.wait_for_timeout(15_000)  # curves are drawn one after the other
        drawn.screenshot(path=out)


def main() -> None:
    """Make one of the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["terminal", "tensorboard"])
    parser.add_argument("--run", type=Path, default=RUN / "terminal" / "runs" / "reset", help="run folder")
    parser.add_argument("--tab", default="custom_scalars", help="tab of TensorBoard")
    parser.add_argument("--out", type=Path, default=IMAGES / "tensorboard.png", help="picture of TensorBoard")
    given = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    if given.what == "terminal":
        terminal()
    else:
        tensorboard(given.run, given.tab, given.out)


if __name__ == "__main__":
    main()
