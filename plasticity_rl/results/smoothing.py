"""A centred moving average over env frames: the one smoother of figures."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from plasticity_rl.errors import UserError
from plasticity_rl.results.runs import Curve


def smoothed(curve: Curve, width: float) -> Curve:
    """Replace every value by the mean of all points of its curve at most ``width / 2`` frames before or behind it.

    Points stay at their frames, however far apart they are. Towards the ends of the curve there are fewer points on one
    side: nothing is padded, so the ends move less than the middle.

    Args:
        curve: Finite values.
        width: Env frames; 0 changes nothing.
    """
    if not width or not len(curve.frames):
        return curve
    first = np.searchsorted(curve.frames, curve.frames - width / 2, side="left")
    behind = np.searchsorted(curve.frames, curve.frames + width / 2, side="right")
    # The mean is taken off before the sums, which then stay small: nothing is lost to rounding.
    middle = curve.values.mean()
    sums = np.concatenate([[0.0], np.cumsum(curve.values - middle)])
    return Curve(curve.frames, middle + (sums[behind] - sums[first]) / (behind - first))


def check_width(width: float, curves: Iterable[Curve]) -> None:
    """Refuse a width with which nothing would be seen: no two points of a curve so close, or all of each curve.

    Args:
        width: Env frames.
        curves: All that are drawn.

    Raises:
        UserError: Which names the widths that are possible.
    """
    several = [curve.frames for curve in curves if len(curve.frames) > 1]
    if not several:
        return
    closest = min(int(np.diff(frames).min()) for frames in several)
    longest = max(int(frames[-1] - frames[0]) for frames in several)
    if width > longest:
        why = f"so many env frames make every curve flat: the longest spans {longest:,}"
    elif width < 2 * closest:
        why = (
            f"so few env frames change nothing: it takes points half as far away, and the closest are {closest:,} apart"
        )
    else:
        return
    raise UserError(f"--smooth {width:g}: {why}; here {2 * closest:,} to {longest:,} are possible")
