"""What the benchmarks are told, in one object."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contestants import ours, reference
from plasticity_rl.machine import malloc

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(malloc.LARGEST_KEPT_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(malloc.NEVER),
}
"""What ``plasticity_rl.machine.malloc`` sets in our processes, as variables of the environment."""


@dataclass
class Options:
    """Options of ``python -m benchmarks``; see its help."""

    reference: str | None = None
    repeats: int = 5
    size: str = "full"
    task: str = "walker_run"
    threads: int = 0
    units: int | None = None
    device: str = "auto"
    ours: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    figure: Path | None = None
    against: list[Path] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)
    seconds: float = 470.0

    def __post_init__(self) -> None:
        self.threads = self.threads or len(os.sched_getaffinity(0))
        self._folder = tempfile.TemporaryDirectory(prefix="bench")
        self._count = 0

    @property
    def accelerator(self) -> str:
        """The device as Lightning calls it."""
        return {"cuda": "gpu"}.get(self.device, self.device)

    def new_folder(self) -> str:
        """Return the path of a run folder that does not exist yet, deleted in the end."""
        self._count += 1
        return f"{self._folder.name}/run{self._count}"

    def variants(self, **kinds: bool) -> Iterator[tuple[str, list[str]]]:
        """Yield name and options of our rows: those of ``ours.variants(**kinds)``, then those of ``--ours``."""
        for name, extra in ours.variants(**kinds):
            if not any(word in name for word in self.without):
                yield name, extra
        for line in self.ours:
            yield line, shlex.split(line)

    def reference_settings(
        self, our_settings: Mapping[str, str], own: Mapping[str, str] | None = None
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield name and environment of the reference as its ``train.py`` runs, and as our command runs.

        Args:
            our_settings: The environment in which our command runs.
            own: What both get, a thread count for example.
        """
        yield "reference", reference.settings(own)
        ours = {name: value for name, value in our_settings.items() if name != "RL_LOGGING_LEVEL"}
        yield "reference, our environment", reference.settings({**KEEP_FREED_MEMORY, **(own or {}), **ours})

    def close(self) -> None:
        """Delete the run folders."""
        self._folder.cleanup()
