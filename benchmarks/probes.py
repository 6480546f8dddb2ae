"""What the default probes cost: ``benchmarks/probe_cost.py`` by the same entry, with the options after ``--``."""

from __future__ import annotations

from typing import Any

from benchmarks import probe_cost
from benchmarks.options import Options


def run(options: Options) -> dict[str, Any]:
    """Measure and print; return what is kept."""
    return {"rows": probe_cost.main(options.probes), "options": options.probes}
