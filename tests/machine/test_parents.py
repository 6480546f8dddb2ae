"""A process that belongs to its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

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
