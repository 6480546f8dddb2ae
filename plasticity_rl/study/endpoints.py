"""Endpoints: which number of which curve a study compares its arms by, fixed in its file before anyone looks.

The evaluation at the last frame is the noisiest number of a run; the area under the return curve uses all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasticity_rl.errors import UserError, suggestion

if TYPE_CHECKING:
    from plasticity_rl.results.runs import Curve

RETURN = "eval/return"
AFTER_TRAINING = "final/"
"""Begins the tags of what ``data.final_eval_episodes`` asks for."""
OF = {"area": "area under {}", "last_third": "{}, last third", "final": "{}, last tenth"}
"""What is taken of a curve, and how it is called."""
SHARES = {"last_third": Fraction(1, 3), "final": Fraction(1, 10)}
"""Of the frames of a run, whose points are averaged."""
BEGINS_AFTER = ("last_third",)
"""Without a point where the share begins: where tasks take turns, that one is still of the task before."""
FEW_POINTS = 3
"""A share with fewer points is hardly an average."""


@dataclass(frozen=True)
class Endpoint:
    """A number of a run.

    Attributes:
        tag: Name of the curve, as in TensorBoard.
        of: ``area`` (mean over all frames), ``last_third`` or ``final`` (mean of the points in the last tenth).
        at: Env frame at which the curve is read instead, between two points on the line through them.
    """

    tag: str
    of: str = "area"
    at: int | None = None

    @property
    def name(self) -> str:
        """What it is called in a report."""
        if self.at is not None:
            return f"{self.tag} at frame {self.at:,}"
        return self.tag if self.is_after_training else OF[self.of].format(self.tag)

    @property
    def is_after_training(self) -> bool:
        """Whether it is of the evaluation at the end of training, which is one point.

        A run that came to an end, and went on when its study was made longer, has one for each end: the last counts.
        """
        return self.tag.startswith(AFTER_TRAINING)

    @property
    def share(self) -> Fraction | None:
        """Share of the frames whose points are averaged; None where all points count, or one frame."""
        return None if self.at is not None or self.is_after_training else SHARES.get(self.of)

    def num_points(self, curve: Curve) -> int:
        """Return how many points of a curve it averages."""
        if self.at is not None or self.is_after_training:
            return 1
        return len(curve.frames) if self.of == "area" else int(np.count_nonzero(_last(curve, self.of)))

    def is_reached(self, frame: int, max_frames: int) -> bool:
        """Whether what a run of ``max_frames`` logged up to a frame has it: its share, or its frame.

        An area is over all frames, and has them from the last tenth on.
        """
        if self.at is not None:
            return frame >= self.at
        return bool(in_share(np.array([frame]), self.of if self.of in SHARES else "final", max_frames)[0])

    def value(self, curve: Curve) -> float | None:
        """Return the number, or None when the curve does not reach the frame."""
        if self.at is not None:
            inside = curve.frames[0] <= self.at <= curve.frames[-1]
            return float(np.interp(self.at, curve.frames, curve.values)) if inside else None
        if self.is_after_training:
            return float(curve.values[-1])
        return mean_value(curve) if self.of == "area" else last_value(curve, self.of)


FINAL_RETURN = Endpoint(RETURN, "final")
RETURN_AFTER_TRAINING = Endpoint(f"{AFTER_TRAINING}return", "final")
AREA = Endpoint(RETURN)
"""The primary endpoint of a study that names none."""


def last_value(curve: Curve, of: str) -> float:
    """Return the mean of the points in a share of the frames, of which the last point is one."""
    return float(curve.values[_last(curve, of)].mean())


def _last(curve: Curve, of: str) -> NDArray[np.bool_]:
    inside = in_share(curve.frames, of, curve.frames[-1])
    inside[-1] = True  # at frame 0 it would lie in no share that begins after it
    return inside


def in_share(frames: NDArray[Any], of: str, end: float) -> NDArray[np.bool_]:
    """Return which frames are in the share of a run that ends at ``end``, in whole numbers: a third is none."""
    share = SHARES[of]
    begins = (share.denominator - share.numerator) * end
    return share.denominator * frames > begins if of in BEGINS_AFTER else share.denominator * frames >= begins


def mean_value(curve: Curve) -> float:
    """Return the area under a curve by trapezoids, over its frames; of one point, that point."""
    widths = np.diff(curve.frames)
    if not widths.sum():
        return float(curve.values[-1])
    return float((widths * (curve.values[1:] + curve.values[:-1]) / 2).sum() / widths.sum())


def read_endpoint(content: Any, where: str, max_frames: int) -> Endpoint:
    """Return the endpoint that an entry of a study file means.

    Args:
        content: ``{tag: eval/return, of: area}``, or ``{tag: fau/critic, at: FRAME}``.
        where: Name of the entry, for errors.
        max_frames: Env frames of the study.

    Raises:
        UserError: When it means none; one line that names the entry.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("tag"), str):
        raise UserError(
            f"{where}: {content!r} must name a curve, as in TensorBoard, and what of it: {{tag: {RETURN}, of: area}}"
        )
    for key in content:
        if key not in ("tag", "of", "at"):
            near = suggestion(str(key), ("tag", "of", "at"))
            raise UserError(f"{where}: no entry {key!r}; an endpoint has tag, and of or at.{near}")
    if "at" in content:
        at = content["at"]
        if "of" in content or not isinstance(at, int) or isinstance(at, bool) or not 0 <= at <= max_frames:
            raise UserError(
                f"{where}: at={at!r} must be a whole number of env frames up to max_frames={max_frames}, without of"
            )
        return Endpoint(content["tag"], at=at)
    of = content.get("of", "final" if content["tag"].startswith(AFTER_TRAINING) else "area")
    if not isinstance(of, str) or of not in OF:
        raise UserError(f"{where}: of={of!r} must be one of {', '.join(OF)}.{suggestion(str(of), OF)}")
    return Endpoint(content["tag"], of)
