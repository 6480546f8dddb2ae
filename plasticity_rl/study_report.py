"""What came out of a study: scores of its runs, and the numbers of its report, arm by arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from plasticity_rl.run_data import Curve, Run, read_run
from plasticity_rl.statistics import Floats
from plasticity_rl.study import Study, StudyRun, state_of
from plasticity_rl.study_statistics import (
    Estimate,
    Scores,
    Statistic,
    estimate,
    interaction,
    iqm_difference,
    iqm_of,
    mean_of,
    median_of,
    optimality_gap,
    probability_of_improvement,
)

RETURN = "eval/return"
AREA = "area"
"""Of the return's curve over its frames: not a tag, but scored like one."""
LAST_SHARE = 0.1
"""Of the frames of a run: evaluations in it are averaged for the final score, for a single one is noisy."""
FEW_SEEDS = 5


@dataclass(frozen=True)
class Score:
    """A finished run in numbers.

    Attributes:
        run: The run.
        data: Its curves.
        final: Mean of a curve over the last tenth of the frames, by tag: ``eval/return``, ``fau/<module>``, and what
            the study measures besides; ``area`` is the mean of ``eval/return`` over all frames.
    """

    run: StudyRun
    data: Run = field(compare=False)
    final: dict[str, float]

    @property
    def arm(self) -> str:
        """Levels of the factors in one line."""
        return " + ".join(self.run.levels.values())


def read_scores(study: Study) -> tuple[list[Score], list[StudyRun]]:
    """Return the scores of all runs that are finished, and the runs that are not."""
    runs = study.runs()
    finished = [run for run in runs if state_of(run, study.max_frames) == "finished"]
    return [score_of(run, study.measures) for run in finished], [run for run in runs if run not in finished]


def score_of(run: StudyRun, measures: Sequence[str] = ()) -> Score:
    """Read the curves of a finished run."""
    data = read_run(run.folder)
    tags = [tag for tag in data.curves if is_fau(tag)] + [tag for tag in measures if tag in data.curves]
    final = {tag: final_value(data.curves[tag]) for tag in dict.fromkeys([RETURN, *tags])}
    return Score(run, data, {**final, AREA: mean_value(data.curves[RETURN])})


def is_fau(tag: str) -> bool:
    """Whether a curve is the fraction of active units of a module."""
    return tag.startswith("fau/") and tag.count("/") == 1


def final_value(curve: Curve) -> float:
    """Return the mean of the points in the last tenth of the frames, of which the last point is one."""
    return float(curve.values[curve.frames >= (1 - LAST_SHARE) * curve.frames[-1]].mean())


def mean_value(curve: Curve) -> float:
    """Return the area under a curve by trapezoids, over its frames; of one point, that point."""
    widths = np.diff(curve.frames)
    if not widths.sum():
        return float(curve.values[-1])
    return float((widths * (curve.values[1:] + curve.values[:-1]) / 2).sum() / widths.sum())


def table_of(scores: Sequence[Score], tasks: Sequence[str], tag: str) -> dict[str, list[Floats]]:
    """Return arm -> final scores by task, of the arms that have some on every one of ``tasks``."""
    table: dict[str, list[Floats]] = {}
    for arm in dict.fromkeys(score.arm for score in scores):
        values = [
            [s.final[tag] for s in scores if s.arm == arm and s.run.task == task and tag in s.final] for task in tasks
        ]
        if all(values):
            table[arm] = [np.array(one) for one in values]
    return table


# ---- the numbers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A number of every arm.

    Attributes:
        name: What it is.
        digits: Behind the point.
        values: Estimate by arm; an arm without one is missing.
    """

    name: str
    digits: int
    values: dict[str, Estimate]

    def cell(self, arm: str) -> str:
        """Return the number with its interval, or nothing."""
        return f"{self.values[arm]:.{self.digits}f}" if arm in self.values else ""


@dataclass(frozen=True)
class Interaction:
    """How the effect of the second factor depends on the first.

    Attributes:
        first: Factor, and two of its levels.
        second: Factor, and two of its levels.
        effects: Of the second level instead of the first of ``second``, at both levels of ``first``.
        difference: The second effect minus the first.
    """

    first: tuple[str, str, str]
    second: tuple[str, str, str]
    effects: tuple[Estimate, Estimate]
    difference: Estimate

    def __str__(self) -> str:
        (factor, a, b), (other, none, some) = self.first, self.second
        one, two = self.effects
        return (
            f"Effect of {other} = {some} instead of {none} on the final return (IQM): {one:+.1f} with {factor} = {a}, "
            f"{two:+.1f} with {factor} = {b}. Interaction (the second minus the first): {self.difference:+.1f}, "
            f"{verdict(self.difference)}."
        )


@dataclass(frozen=True)
class Section:
    """What is said about one task, or about all together.

    Attributes:
        title: Name of the task, or ``all tasks``.
        tasks: Its tasks.
        seeds: Number of runs on each task, by arm.
        columns: Numbers of the arms.
        interactions: Of the levels of two factors, with the first level of each as the base.
    """

    title: str
    tasks: tuple[str, ...]
    seeds: dict[str, list[int]]
    columns: list[Column]
    interactions: list[Interaction]


@dataclass(frozen=True)
class Report:
    """All there is to print or draw.

    Attributes:
        study: The study.
        scores: Of its finished runs, at least one.
        missing: Its other runs.
        sections: One for each task, and one for all where there are several.
    """

    study: Study
    scores: list[Score]
    missing: list[StudyRun]
    sections: list[Section]

    @property
    def arms(self) -> list[str]:
        """Arms in the order of the study, of which a run is finished."""
        return list(dict.fromkeys(score.arm for score in self.scores))

    @property
    def fewest_seeds(self) -> int:
        """Finished runs of the arm that has the fewest on a task."""
        keys = [(score.arm, score.run.task) for score in self.scores]
        return min(keys.count(key) for key in keys)


def make_report(study: Study, scores: list[Score], missing: list[StudyRun]) -> Report:
    """Compute everything with a fixed seed: the same runs give the same report.

    Args:
        study: The study.
        scores: Of its finished runs, at least one.
        missing: Its other runs.
    """
    scores = sorted(scores, key=lambda score: _order(study, score))
    groups = [(task, (task,)) for task in study.tasks] + ([("all tasks", study.tasks)] * (len(study.tasks) > 1))
    sections = [_section(study, scores, title, tasks) for title, tasks in groups]
    return Report(study, scores, missing, sections)


def _order(study: Study, score: Score) -> tuple[list[int], int, int]:
    places = [list(levels).index(score.run.levels[factor]) for factor, levels in study.factors.items()]
    return places, study.tasks.index(score.run.task), score.run.seed


def _section(study: Study, scores: Sequence[Score], title: str, tasks: tuple[str, ...]) -> Section:
    returns = table_of(scores, tasks, RETURN)
    seeds = {arm: [len(one) for one in own] for arm, own in returns.items()}
    return Section(title, tasks, seeds, _columns(study, scores, tasks), _interactions(study, returns))


def _columns(study: Study, scores: Sequence[Score], tasks: Sequence[str]) -> list[Column]:
    returns = table_of(scores, tasks, RETURN)
    columns = [
        _column("IQM", 1, iqm_of, returns),
        _column("median", 1, median_of, returns),
        _column("mean", 1, mean_of, returns),
    ]
    if study.max_return is not None:
        columns.append(_column("optimality gap", 1, partial(optimality_gap, target=study.max_return), returns))
    columns.append(_column("area under curve", 1, mean_of, table_of(scores, tasks, AREA)))
    first = next(iter(returns), None)
    others = {arm: own for arm, own in returns.items() if arm != first}
    for name, digits, statistic in (
        ("IQM - first arm", 1, iqm_difference),
        ("P(better)", 2, probability_of_improvement),
    ):
        values = {arm: estimate(statistic, [returns[first], own]) for arm, own in others.items()} if first else {}
        columns.append(Column(name, digits, values))
    tags = sorted({tag for score in scores for tag in score.final if is_fau(tag)})
    columns += [_column(f"FAU {tag.removeprefix('fau/')}", 3, iqm_of, table_of(scores, tasks, tag)) for tag in tags]
    columns += [_column(tag, 3, iqm_of, table_of(scores, tasks, tag)) for tag in study.measures]
    return [column for column in columns if column.values]


def _column(name: str, digits: int, statistic: Statistic, table: dict[str, list[Floats]]) -> Column:
    return Column(name, digits, {arm: estimate(statistic, [own]) for arm, own in table.items()})


def _interactions(study: Study, returns: dict[str, list[Floats]]) -> list[Interaction]:
    if len(study.factors) != 2:
        return []
    (first, (a, *others)), (second, (none, *interventions)) = study.factors.items()
    found = []
    for b in others:
        for some in interventions:
            names = [f"{one} + {two}" for one in (a, b) for two in (none, some)]
            if all(name in returns for name in names):
                arms: list[Scores] = [returns[name] for name in names]
                effects = (estimate(iqm_difference, arms[:2]), estimate(iqm_difference, arms[2:]))
                both = estimate(interaction, arms)
                found.append(Interaction((first, a, b), (second, none, some), effects, both))
    return found


def verdict(effect: Estimate) -> str:
    """Say on which side of 0 an interval lies."""
    if effect.low > 0:
        return "above 0"
    return "below 0" if effect.high < 0 else "undecided: the interval holds 0"
