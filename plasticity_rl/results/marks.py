"""Events of interventions on matplotlib's axes: numbers in a lane above the panel, which the list below explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.colors import to_rgb
from matplotlib.transforms import offset_copy

from plasticity_rl.results.panels import Events

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LANE = 10.0
"""Height of a lane in points: each intervention of each arm has its own, so that no mark covers another."""
BADGE = 8.5
"""Size of a number's disc in points."""
MANY = 6
"""More events of one intervention than these are ticks in the lane, behind one number."""
CLOSE = 0.035
"""Nearer events than this share of the panel are ticks as well: their numbers would cover each other."""
NEUTRAL = "#555555"


def mark(axis: Axes, events: Sequence[Events], colours: Sequence[str | None]) -> float:
    """Mark events by numbers above a panel, and where they are few by thin lines through it.

    Args:
        axis: The panel, with its curves.
        events: Of its arms.
        colours: Of the arms by number; None where the panel's colours are not those of arms.

    Returns:
        Height of the lanes in points.
    """
    left, right = axis.get_xlim()
    lanes = list(dict.fromkeys(one.number for one in events))
    for one in events:
        colour = colours[one.arm] or NEUTRAL
        height = 3 + LANE * (lanes.index(one.number) + 0.5)
        lane = offset_copy(axis.get_xaxis_transform(), axis.get_figure(root=True), y=height, units="points")
        above: Any = {"transform": lane, "clip_on": False, "linestyle": "none"}
        if are_ticks(one.frames, right - left):
            axis.plot(one.frames, [1.0] * len(one.frames), marker="|", markersize=6, color=colour, **above)
            shown = one.frames[:1]
        else:
            shown = one.frames
            upright = axis.get_xaxis_transform()
            dashes = (0, (4, 2))
            axis.vlines(shown, 0, 1, transform=upright, color=colour, linewidth=0.8, linestyle=dashes, zorder=1.5)
        axis.plot(shown, [1.0] * len(shown), marker="o", markersize=BADGE, color=colour, zorder=4, **above)
        for frame in shown:
            axis.annotate(
                str(one.number),
                (frame, 1.0),
                xycoords=lane,
                fontsize=6,
                color=ink_on(colour),
                ha="center",
                va="center_baseline",
                zorder=5,
                annotation_clip=False,
            )
    axis.set_xlim(left, right)
    return LANE * len(lanes)


def are_ticks(frames: Sequence[int], width: float) -> bool:
    """Return whether events are too many, or too close in a panel of so many env frames, for a number each."""
    gaps = [later - one for one, later in zip(frames, frames[1:], strict=False)]
    return len(frames) > MANY or min(gaps, default=width) < CLOSE * width


def ink_on(colour: str) -> str:
    """Return black or white, whichever is read better on a colour."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"
