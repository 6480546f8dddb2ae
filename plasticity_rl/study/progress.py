"""What a study looks like while it runs: a line for everything that happens, and on a terminal a live table below."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

TAIL_BYTES = 4096
BAR = re.compile(r"[0-9.]+%\|.*\| (?P<frames>.*?)\]?$")
"""A progress bar of ``fit``; what stands behind its picture: frames, time, rate, updates, returns."""


class LiveTable:
    """A line for every run that goes on, taken from the bar in its log, and one for all; on a terminal only.

    Args:
        name: Of the study.
        total: Number of runs that are to be done.
        num_workers: Runs at a time: lines of the table.
        out: Where it is shown; by default the standard output.
    """

    def __init__(self, name: str, total: int, num_workers: int, out: TextIO | None = None) -> None:
        self.out = sys.stdout if out is None else out
        hidden = not self.out.isatty()
        options = {"file": self.out, "disable": hidden, "leave": False, "dynamic_ncols": True}
        self._lines = [tqdm(position=line, bar_format="{desc}", **options) for line in range(num_workers)]
        self._all = tqdm(desc=name, total=total, unit="run", position=num_workers, **options)

    def say(self, line: str) -> None:
        """Print a line, above the table."""
        tqdm.write(line, file=self.out)
        self.out.flush()

    def show(self, over: int, logs: Mapping[str, Path]) -> None:
        """Redraw.

        Args:
            over: Number of runs that have ended.
            logs: Log of every run that goes on, by its name.
        """
        if self._all.disable:
            return
        texts = [f"{name}  {latest(log)}" for name, log in logs.items()]
        texts += [""] * (len(self._lines) - len(texts))  # lines without a run
        for line, text in zip(self._lines, texts, strict=True):
            line.set_description_str(text)
        self._all.n = over
        self._all.refresh()

    def close(self) -> None:
        """Take the table away; the lines above it stay."""
        for line in [*self._lines, self._all]:
            line.close()


def latest(log: Path) -> str:
    """Return how far a run is: what its bar shows behind the picture, or else the last line that it printed."""
    line = (_lines(log) or ["starting"])[-1]
    bar = BAR.search(line)
    return bar["frames"].replace("[", " ") if bar else line


def reason(log: Path) -> str:
    """Return the last error that a run printed, or its last line, and where the others are."""
    lines = _lines(log) or ["it printed nothing"]
    errors = [line[line.index("error: ") :] for line in lines if "error: " in line]
    return f"{(errors or lines)[-1]} ({log})"


def _lines(log: Path) -> list[str]:
    """Return the last lines of a log that are not empty; a bar that was redrawn counts as new lines."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
