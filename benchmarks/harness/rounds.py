"""Rounds in which ours and the reference take turns, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.contest import Contestants, Lane, interleave
from benchmarks.harness.options import Options
from benchmarks.harness.report import rate_rows


def reference_lanes(
    options: Options,
    group: Contestants,
    ours: Sequence[Lane],
    command: Sequence[str],
    own: Mapping[str, str] | None = None,
) -> list[Lane]:
    """Start the reference in its own environment and in ours; return no lanes where there is no reference.

    Args:
        options: Options of the benchmark.
        group: Where they are started.
        ours: Our lanes; the reference gets their requests.
        command: The reference's command.
        own: Environment variables that all have.
    """
    if not options.reference:
        return []
    lanes = []
    for name, settings in options.reference_settings(ours[0].contestant.ready["settings"], own):
        if contestant := group.start(name, command, settings):
            lanes.append(Lane(name, contestant, ours[0].request))
    return lanes


def measured(lanes: Sequence[Lane], repeats: int, group: Contestants, *, scale: float = 1.0) -> dict[str, Any]:
    """Measure, and return rows (ratios to the first lane), answers, what the contestants said, and what failed."""
    if not lanes:
        raise SystemExit("error: nothing to measure: no contestant started (see above)")
    answers = interleave(lanes, repeats, stoppable=True)
    return {
        "rows": rate_rows(answers, lanes[0].name, scale=scale),
        "answers": answers,
        "contestants": {lane.name: lane.contestant.ready for lane in lanes},
        "failed": group.failed,
    }
