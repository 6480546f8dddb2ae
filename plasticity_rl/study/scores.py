"""What came out of the runs of a study: numbers of every finished run, and what could not be read."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plasticity_rl.errors import UserError
from plasticity_rl.results.digits import digits_of
from plasticity_rl.results.runs import Curve, Event, Run, not_finite, read_run
from plasticity_rl.results.statistics import Floats
from plasticity_rl.study.endpoints import AREA, RETURN, Endpoint
from plasticity_rl.study.human_scores import normalise_curves
from plasticity_rl.study.spec import UNREADABLE, Study, state_of
from plasticity_rl.study.study_run import StudyRun

EVALUATIONS = "eval/"
"""Begins the tags of what is measured at every evaluation, of which the end of a run has one."""


@dataclass(frozen=True)
class Score:
    """A finished run in numbers.

    Attributes:
        run: The run.
        curves: Its curves by tag; of a run that is longer than the study, up to the frames of the study. Those of
            returns are normalised where the study says so.
        values: By endpoint: final return and area under its curve, the last tenth of the FAU of all modules and of the
            study's measures, and the study's own endpoints. One whose curve is missing, not finite or cut short is not
            there.
        points: How many points of its curve a value averages.
        problems: What is not there although there is a curve, and why; one line each.
        damage: What of its event files could not be read; one line each.
        is_longer: Whether the run is longer than the study.
        events: What interventions did in it, up to the frames of the study.
        config: Its options.
    """

    run: StudyRun
    curves: dict[str, Curve] = field(compare=False)
    values: dict[Endpoint, float]
    points: dict[Endpoint, int]
    problems: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()
    is_longer: bool = False
    events: tuple[Event, ...] = field(default=(), compare=False)
    config: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def arm(self) -> str:
        """Levels of the factors in one line."""
        return " + ".join(self.run.levels.values())

    def curve(self, tag: str) -> Curve | None:
        """Return a curve that is finite throughout."""
        curve = self.curves.get(tag)
        return curve if curve is not None and curve.is_finite else None


def read_scores(study: Study, stale: Container[str] = ()) -> tuple[list[Score], list[StudyRun]]:
    """Return the scores of all runs that are finished and can be read, and the others; ``stale`` are names of runs."""
    scores: list[Score] = []
    missing: list[StudyRun] = []
    for run in study.runs():
        data = read_if_finished(run, study, stale)[1]
        if data is None:
            missing.append(run)
        else:
            scores.append(score_of(run, data, study))
    return scores, missing


def read_if_finished(run: StudyRun, study: Study, stale: Container[str] = ()) -> tuple[str, Run | None]:
    """Return how far a run is, and its data if it is finished; :data:`UNREADABLE` and why if these cannot be read."""
    state = state_of(run, study.max_frames, stale)
    if state != "finished":
        return state, None
    try:
        return state, read_run(run.folder)
    except UserError as error:
        return f"{UNREADABLE}{error}", None


def why_unreadable(state: str) -> str | None:
    """Return why a run with this state cannot be read; None where it is another state."""
    return state.removeprefix(UNREADABLE) if state.startswith(UNREADABLE) else None


def refuse_unreadable(study: Study, states: Mapping[str, str]) -> None:
    """Raise UserError where runs cannot be read, with the first of them; ``states`` are by name."""
    whys = {name: why for name, state in states.items() if (why := why_unreadable(state)) is not None}
    if whys:
        name, why = next(iter(whys.items()))
        number = f"{len(whys)} finished run{'s' * (len(whys) > 1)}"
        raise UserError(f"{number} of {study.name} cannot be read ({name}: {why}), and no other is finished")


def score_of(run: StudyRun, data: Run, study: Study) -> Score:
    """Return the numbers of a finished run of a study; ``data`` is what was read of its folder."""
    # The last step of a run of the study's own length may pass its last frame, and an evaluation follows there.
    is_longer = data.max_frames is not None and data.max_frames > study.max_frames
    curves = _until(study.max_frames, data.curves) if is_longer else data.curves
    curves = {tag: curve for tag, curve in curves.items() if len(curve.frames)}
    values: dict[Endpoint, float] = {}
    points: dict[Endpoint, int] = {}
    problems: dict[str, None] = {}
    last = _last_frame(data)
    if study.normalize:
        curves, mixed = normalise_curves(curves, run.task)
        problems |= {f"{run.name}: {line}": None for line in mixed}
    for endpoint in endpoints_of(study, curves):
        curve = curves.get(endpoint.tag)
        if curve is None:
            if is_longer and endpoint.tag in data.curves:
                first = data.curves[endpoint.tag].frames[0]
                problems[f"{run.name}: {endpoint.tag} begins at frame {first:,}, beyond the end of the study"] = None
            continue
        if bad := not_finite(endpoint.tag, curve):
            problems[f"{run.name}: {bad}"] = None
        elif (value := endpoint.value(curve)) is None:
            span = f"from {curve.frames[0]:,} to {curve.frames[-1]:,}"
            problems[f"{run.name}: {endpoint.tag} has points {span} only"] = None
        elif not endpoint.is_reached(max(last, curve.frames[-1]), study.max_frames):
            ends = f"ends at frame {curve.frames[-1]:,} of {study.max_frames:,}"
            problems[f"{run.name}: {endpoint.tag} {ends}"] = None
        else:
            values[endpoint], points[endpoint] = value, endpoint.num_points(curve)
    events = tuple(event for event in data.events if not is_longer or event.frame <= study.max_frames)
    damage = tuple(f"{run.name}: {line}" for line in data.problems)
    return Score(run, curves, values, points, tuple(problems), damage, is_longer, events, data.config)


def _last_frame(data: Run) -> int:
    """Return the frame up to which the event files of a finished run say something: its end, if nothing was lost.

    It was evaluated there. A curve of something else may end before in a whole run: tasks take turns.
    """
    whole = [data.curves[RETURN]] if RETURN in data.curves else data.curves.values()
    return max((int(curve.frames[-1]) for curve in whole if len(curve.frames)), default=0)


def _until(end: int, curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Return the curves of a longer run up to the end of the study.

    A run of the study's own length is evaluated there, so curves of evaluations are read on the line through the
    evaluations around it, if both have a point: where tasks take turns, the next one of a task may be a visit later.
    Nothing else has a point at the end of a run.
    """
    around = _around(curves[RETURN], end) if RETURN in curves else []
    evaluated = {tag for tag in curves if tag.startswith(EVALUATIONS) and _around(curves[tag], end) == around}
    return {tag: (one.read_until if tag in evaluated else one.until)(end) for tag, one in curves.items()}


def _around(curve: Curve, frame: int) -> list[int]:
    """Return the frames of the last point up to a frame, and of the first one after it."""
    after = int(np.searchsorted(curve.frames, frame, side="right"))
    return curve.frames[max(after - 1, 0) : after + 1].tolist()


def endpoints_of(study: Study, tags: Iterable[str]) -> list[Endpoint]:
    """Return every endpoint of a report, given the curves that there are: the study's own, return, FAU, measures."""
    own = [study.primary, *study.secondary]
    measures = [Endpoint(tag, "final") for tag in (*sorted(filter(is_fau, tags)), *study.measures)]
    return list(dict.fromkeys([*own, study.final_return, AREA, *measures]))


def tags_of(scores: Iterable[Score]) -> set[str]:
    """Return the curves that any run has."""
    return {tag for score in scores for tag in score.curves}


def is_fau(tag: str) -> bool:
    """Whether a curve is the fraction of active units of a module."""
    return tag.startswith("fau/") and tag.count("/") == 1


def values_of(scores: Sequence[Score], arm: str, endpoint: Endpoint) -> dict[str, dict[int, float]]:
    """Return task -> seed -> value of an arm."""
    found: dict[str, dict[int, float]] = {}
    for score in scores:
        if score.arm == arm and endpoint in score.values:
            found.setdefault(score.run.task, {})[score.run.seed] = score.values[endpoint]
    return found


def table_of(scores: Sequence[Score], tasks: Sequence[str], endpoint: Endpoint) -> dict[str, list[Floats]]:
    """Return arm -> values by task, of the arms that have some on every one of ``tasks``."""
    table: dict[str, list[Floats]] = {}
    for arm in dict.fromkeys(score.arm for score in scores):
        values = values_of(scores, arm, endpoint)
        if all(task in values for task in tasks):
            table[arm] = [np.array(list(values[task].values())) for task in tasks]
    return table


def digits_on(scores: Sequence[Score], endpoint: Endpoint) -> int:
    """Return how many digits behind the point an endpoint has: the same ones for all arms and tasks."""
    return digits_of(score.values[endpoint] for score in scores if endpoint in score.values)


def curve_tags(scores: Sequence[Score], measures: Sequence[str]) -> list[str]:
    """Return what there is to draw: the return, FAU of all modules, and those of ``measures`` that a run has."""
    there = tags_of(scores)
    return list(dict.fromkeys([RETURN, *sorted(filter(is_fau, there)), *(tag for tag in measures if tag in there)]))
