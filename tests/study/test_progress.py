"""The live table of ``study run``: what it reads from logs, and what a terminal shows."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios

from tiny_studies import tiny_env_can_be_imported, tiny_study

from plasticity_rl.study.progress import LiveTable, latest, reason

__all__ = ["tiny_env_can_be_imported"]  # a fixture, used by every test here

BAR = "walker_run:  29%|██▉       | 2.31k/8.00k [00:20<00:49, 114frame/s, updates=155, return=147]"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_how_far_a_run_is_stands_behind_its_bar(tmp_path):
    log = tmp_path / "log.txt"
    assert latest(log) == "starting"
    log.write_text("Run folder:  runs/one\n")
    assert latest(log) == "Run folder:  runs/one"
    log.write_text(f"Run folder:  runs/one\nwalker_run:   0%|  | 0.00/8.00k [00:00<?, ?frame/s]\r{BAR}")
    assert latest(log) == "2.31k/8.00k  00:20<00:49, 114frame/s, updates=155, return=147"


def test_only_the_end_of_a_log_is_read(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("x" * 10_000 + "\nlast\n")
    assert latest(log) == "last"


def test_the_reason_is_the_error_also_beside_a_bar(tmp_path):
    log = tmp_path / "log.txt"
    assert reason(log) == f"it printed nothing ({log})"
    log.write_text(f"{BAR}error: the disk is full\n{BAR}")
    assert reason(log) == f"error: the disk is full ({log})"


def test_a_terminal_shows_every_run_that_goes_on_and_all_together(tmp_path):
    log, out = tmp_path / "log.txt", Terminal()
    log.write_text(BAR)
    table = LiveTable("mine", total=6, num_workers=2, out=out)
    table.show(2, {"tiny/with/seed1": log, "tiny/without/seed1": tmp_path / "none"})
    table.say("[2/6] tiny/with/seed2 started")
    table.close()
    shown = out.getvalue()
    assert "tiny/with/seed1  2.31k/8.00k  00:20<00:49, 114frame/s" in shown
    assert "tiny/without/seed1  starting" in shown
    assert "2/6" in shown
    assert "[2/6] tiny/with/seed2 started\n" in shown


def test_a_file_gets_the_events_only(tmp_path):
    out = io.StringIO()
    table = LiveTable("mine", total=6, num_workers=2, out=out)
    table.show(2, {"tiny/with/seed1": tmp_path / "none"})
    table.say("finished")
    table.close()
    assert out.getvalue() == "finished\n"


def test_a_real_study_on_a_real_terminal(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))  # 24 lines of 100 characters
    command = [sys.executable, "-m", "plasticity_rl", "study", "run", tiny_study(tmp_path, {"one": {"arm": []}})]
    study = subprocess.Popen(command, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    assert study.wait(60) == 0
    text = shown.decode()
    assert "[1/1] tiny/arm/seed1 finished in" in text
    assert "tiny/arm/seed1  " in text
    assert "0/1 [" in text
