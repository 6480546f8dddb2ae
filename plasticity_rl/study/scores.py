"""What came out of the runs of a study: numbers of every finished run, and what could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from plasticity_rl.errors import suggestion
from plasticity_rl.results.runs import Curve, Run, read_run
from plasticity_rl.results.statistics import Floats
from plasticity_rl.study.endpoints import AREA, FINAL_RETURN, RETURN, Endpoint
from plasticity_rl.study.spec import Study, StudyRun, state_of


@dataclass(frozen=True)
class Score:
    """A finished run in numbers.

    Attributes:
        run: The run.
        data: Its curves.
        values: By endpoint: final return and area under its curve, the last tenth of the FAU of all modules and of the
            study's measures, and the study's own endpoints. One whose curve is missing or not finite is not there.
        problems: What is not there, and why; one line each.
    """

    run: StudyRun
    data: Run = field(compare=False)
    values: dict[Endpoint, float]
    problems: tuple[str, ...] = ()

    @property
    def arm(self) -> str:
        """Levels of the factors in one line."""
        return " + ".join(self.run.levels.values())

    def curve(self, tag: str) -> Curve | None:
        """Return a curve that is finite throughout."""
        curve = self.data.curves.get(tag)
        return curve if curve is not None and np.isfinite(curve.values).all() else None


def read_scores(study: Study) -> tuple[list[Score], list[StudyRun]]:
    """Return the scores of all runs that are finished, and the runs that are not."""
    runs = study.runs()
    finished = [run for run in runs if state_of(run, study.max_frames) == "finished"]
    return [score_of(run, study) for run in finished], [run for run in runs if run not in finished]


def score_of(run: StudyRun, study: Study) -> Score:
    """Read the curves of a finished run."""
    data = read_run(run.folder)
    values: dict[Endpoint, float] = {}
    problems: dict[str, None] = {}
    required = {FINAL_RETURN, AREA, study.primary, *study.secondary}
    for endpoint in endpoints_of(study, data.curves):
        curve = data.curves.get(endpoint.tag)
        if curve is None or not len(curve.values):
            if endpoint in required:
                near = suggestion(endpoint.tag, data.curves)
                problems[f"{run.name} has no curve {endpoint.tag}.{near}".rstrip(".")] = None
        elif not (finite := np.isfinite(curve.values)).all():
            number, first = np.count_nonzero(~finite), curve.frames[~finite][0]
            problems[f"{run.name}: {endpoint.tag} is not finite at {number} points, first at frame {first:,}"] = None
        elif (value := endpoint.value(curve)) is None:
            problems[f"{run.name}: {endpoint.tag} has points from {curve.frames[0]:,} to {curve.frames[-1]:,} only"] = (
                None
            )
        else:
            values[endpoint] = value
    return Score(run, data, values, tuple(problems))


def endpoints_of(study: Study, tags: Iterable[str]) -> list[Endpoint]:
    """Return every endpoint of a report, given the curves that there are: the study's own, return, FAU, measures."""
    own = [study.primary, *study.secondary]
    measures = [Endpoint(tag, "final") for tag in (*sorted(filter(is_fau, tags)), *study.measures)]
    return list(dict.fromkeys([*own, FINAL_RETURN, AREA, *measures]))


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


def curve_tags(scores: Sequence[Score], measures: Sequence[str]) -> list[str]:
    """Return what there is to draw: the return, FAU of all modules, and those of ``measures`` that a run has."""
    there = {tag for score in scores for tag in score.data.curves}
    return list(dict.fromkeys([RETURN, *sorted(filter(is_fau, there)), *(tag for tag in measures if tag in there)]))
