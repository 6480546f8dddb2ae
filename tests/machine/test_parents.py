"""A process that belongs to its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import imageio_ffmpeg

CODE = """
import os, signal, subprocess, sys
from plasticity_rl.machine.parents import belong_to
belong_to(int(sys.argv[1]))
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
child.terminate()
print("goes on", child.wait(), "torch" in sys.modules)
"""


def run(parent: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, str(parent)], capture_output=True, text=True, check=False, timeout=100
    )


def test_signals_do_nothing_to_it_and_something_to_what_it_starts():
    done = run(os.getpid())
    assert (done.stdout, done.stderr, done.returncode) == (f"goes on {-signal.SIGTERM} False\n", "", 0)


def test_it_ends_at_once_where_the_parent_is_gone_already():
    done = run(parent=1)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 1)


DEAF = """
import os, signal, subprocess
from plasticity_rl.machine.parents import children_deaf
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append("heard"))
with children_deaf():
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    os.killpg(0, signal.SIGINT)
    said, _ = child.communicate("whole")
print(said, child.returncode, *heard)
"""
FILM = """
import os, signal, sys, threading
import numpy as np
from pathlib import Path
from plasticity_rl.run.video import write_mp4
signal.signal(signal.SIGINT, lambda *_: None)
written = threading.Event()
def interrupt():
    while not written.wait(0.005):
        os.killpg(0, signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    write_mp4(np.zeros((20, 32, 32, 3), dtype=np.uint8), Path(sys.argv[1]), 10)
finally:
    written.set()
"""


def run_in_a_group(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as a terminal does, whose Ctrl-C goes to the whole group."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, start_new_session=True)


def test_what_a_terminal_sends_to_all_reaches_the_run_and_not_what_it_started():
    done = run_in_a_group(DEAF)
    assert (done.stdout, done.stderr) == ("whole 0 heard\n", "")


def test_a_film_is_whole_also_when_ctrl_c_comes_while_it_is_written(tmp_path):
    """The first one: imageio asks ffmpeg for its encoders, which then are none."""
    film = tmp_path / "film.mp4"
    done = run_in_a_group(FILM, str(film))
    assert (done.returncode, done.stderr) == (0, "")
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(film))
    assert frames == 20
