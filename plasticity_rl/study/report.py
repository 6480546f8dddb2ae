"""The numbers of a study's report: scores of arms, their differences from the baseline, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan

from plasticity_rl.results.statistics import Floats, Statistic, iqm_of, mean_of
from plasticity_rl.study.comparisons import Comparison, Values, compare, corrected
from plasticity_rl.study.endpoints import AREA, RETURN, Endpoint
from plasticity_rl.study.human_scores import PERCENT, superhuman_of
from plasticity_rl.study.notes import notes_of
from plasticity_rl.study.scores import (
    Score,
    curve_tags,
    digits_on,
    endpoints_of,
    is_fau,
    read_if_finished,
    table_of,
    tags_of,
    values_of,
    why_unreadable,
)
from plasticity_rl.study.spec import Study
from plasticity_rl.study.stale import Provenance
from plasticity_rl.study.statistics import Estimate, estimate, median_of, missed, probability_of_improvement
from plasticity_rl.study.study_run import StudyRun


@dataclass(frozen=True)
class Column:
    """A number of every arm.

    Attributes:
        name: What it is.
        digits: Behind the point.
        values: Estimate by arm; an arm without one is missing.
        numbers: Number of seeds, or pairs, on each task, by arm.
        sign: Whether a + is written.
        bare: Whether it never has an interval.
        of_return: Whether it is about the return.
    """

    name: str
    digits: int
    values: dict[str, Estimate]
    numbers: dict[str, list[int]]
    sign: bool = False
    bare: bool = False
    of_return: bool = False

    def cell(self, arm: str, runs: Sequence[int]) -> str:
        """Return the number with its interval, and of how many seeds it is if not of ``runs``; or nothing."""
        if arm not in self.values:
            return ""
        number = self.values[arm].value if self.bare else self.values[arm]
        fewer = "" if self.numbers[arm] == list(runs) else f" n={'+'.join(map(str, self.numbers[arm]))}"
        return f"{number:{'+' if self.sign else ''}.{self.digits}f}{fewer}"


@dataclass(frozen=True)
class Interaction:
    """How the effect of the second factor on an endpoint depends on the first.

    Attributes:
        endpoint: The endpoint.
        first: Factor, and two of its levels.
        second: Factor, and two of its levels.
        effects: Of the second level instead of the first of ``second``, at both levels of ``first``.
        difference: The second effect minus the first.
        digits: Behind the point.
    """

    endpoint: Endpoint
    first: tuple[str, str, str]
    second: tuple[str, str, str]
    effects: tuple[Comparison, Comparison]
    difference: Comparison
    digits: int

    def __str__(self) -> str:
        (factor, a, b), (other, none, some) = self.first, self.second
        one, two, both = (each.difference for each in (*self.effects, self.difference))
        form = f"+.{self.digits}f"
        return (
            f"Effect of {other} = {some} instead of {none} on {self.endpoint.name}: {one:{form}} with {factor} = {a}, "
            f"{two:{form}} with {factor} = {b}. Interaction (the second minus the first): {both:{form}}."
        )


@dataclass(frozen=True)
class Section:
    """What is said about one task, or about all together.

    Attributes:
        title: Name of the task, or ``all tasks``.
        tasks: Its tasks.
        seeds: Number of runs on each task, by arm that has one on every task.
        pairs: Number of seeds on each task that an arm and the baseline both have a run with, where there are any.
        columns: Numbers of the arms.
        differences: Differences of the other arms from the baseline, a column for each endpoint.
        interactions: On the primary endpoint, of the levels of two factors with those of the baseline.
    """

    title: str
    tasks: tuple[str, ...]
    seeds: dict[str, list[int]]
    pairs: dict[str, list[int]]
    columns: list[Column]
    differences: list[Column]
    interactions: list[Interaction]


@dataclass(frozen=True)
class Report:
    """All there is to print or draw.

    Attributes:
        study: The study.
        baseline: The arm that all others are compared with.
        scores: Of its finished runs, at least one.
        missing: Its other runs; also those that are finished and cannot be read.
        sections: One for each task, and one for all where there are several.
        families: Comparisons over all tasks by endpoint. Those on the primary one come first, corrected for their
            number; those on all secondary ones together are corrected for theirs.
        notes: What is not in the tables or not balanced; one line each.
        stale: By name of a missing run why it counts as none of the study, of those that were made otherwise.
        states: By name of a missing run how far it is, as of
            :func:`plasticity_rl.study.scores.read_if_finished`.
    """

    study: Study
    baseline: str
    scores: list[Score]
    missing: list[StudyRun]
    sections: list[Section]
    families: dict[Endpoint, list[Comparison]]
    notes: list[str]
    stale: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        """Arms in the order of the study, of which a run is finished."""
        return list(dict.fromkeys(score.arm for score in self.scores))

    def digits(self, endpoint: Endpoint) -> int:
        """Return how many digits behind the point an endpoint and its differences have in this report."""
        return digits_on(self.scores, endpoint)

    @property
    def tags(self) -> list[str]:
        """Curves to draw."""
        return curve_tags(self.scores, self.study.measures)

    @property
    def to_run(self) -> list[StudyRun]:
        """Missing runs that ``study run`` does not skip as finished."""
        return [run for run in self.missing if why_unreadable(self.states[run.name]) is None]

    @property
    def fewest_seeds(self) -> int:
        """Finished runs of the arm that has the fewest on a task."""
        keys = [(score.arm, score.run.task) for score in self.scores]
        return min(keys.count(key) for key in keys)


def make_report(
    study: Study,
    scores: list[Score],
    missing: list[StudyRun],
    provenance: Provenance | None = None,
    states: Mapping[str, str] | None = None,
) -> Report:
    """Compute everything with a fixed seed: the same runs give the same report.

    Args:
        study: The study.
        scores: Of its finished runs, at least one.
        missing: Its other runs.
        provenance: Which of those were made with other options.
        states: How far each of those is, by name, where their folders do not say.
    """
    scores = sorted(scores, key=lambda score: _order(study, score))
    groups = [(task, (task,)) for task in study.tasks] + ([("all tasks", study.tasks)] * (len(study.tasks) > 1))
    sections = [_section(study, scores, title, tasks) for title, tasks in groups]
    families = _families(study, scores)
    origin = provenance or Provenance()
    known = {run.name: read_if_finished(run, study, origin.stale)[0] for run in missing} | dict(states or {})
    notes = [f"Left out, stale: {name}: {why}." for name, why in origin.stale.items()]
    unreadable = ((name, why) for name, state in known.items() if (why := why_unreadable(state)) is not None)
    notes += [f"Left out, finished but cannot be read: {name}: {why}." for name, why in unreadable]
    notes += [f"{line[0].upper()}{line[1:]}." for line in origin.unchecked]
    notes += notes_of(study, scores, families)
    return Report(study, study.base_arm, scores, missing, sections, families, notes, origin.stale, known)


def _order(study: Study, score: Score) -> tuple[list[int], int, int]:
    places = [list(levels).index(score.run.levels[factor]) for factor, levels in study.factors.items()]
    return places, study.tasks.index(score.run.task), score.run.seed


# ---- tables of a section ---------------------------------------------------------------------------------------------


def _section(study: Study, scores: Sequence[Score], title: str, tasks: tuple[str, ...]) -> Section:
    found: dict[str, list[set[int]]] = {score.arm: [set() for _ in tasks] for score in scores}
    for score in scores:
        if score.run.task in tasks:
            found[score.arm][tasks.index(score.run.task)].add(score.run.seed)
    seeds = {arm: [len(one) for one in own] for arm, own in found.items() if all(own)}
    base = found.get(study.base_arm, [set() for _ in tasks])
    pairs = {
        arm: [len(new & old) for new, old in zip(own, base, strict=True) if new & old] for arm, own in found.items()
    }
    columns, differences = _columns(study, scores, tasks), _differences(study, scores, tasks)
    return Section(title, tasks, seeds, pairs, columns, differences, _interactions(study, scores, tasks, study.primary))


def _columns(study: Study, scores: Sequence[Score], tasks: Sequence[str]) -> list[Column]:
    returns = table_of(scores, tasks, study.final_return)
    medians = {arm: Estimate(float(median_of(own)), nan, nan) for arm, own in returns.items()}
    digits = digits_on(scores, study.final_return)
    columns = [_column("IQM", digits, iqm_of, returns)]
    columns.append(Column("median", digits, medians, _numbers(returns), bare=True))
    columns.append(_column("mean", digits, mean_of, returns))
    if study.normalize and len(tasks) > 1:
        counts = {arm: Estimate(float(superhuman_of(own, PERCENT)), nan, nan) for arm, own in returns.items()}
        columns.append(Column("superhuman games", 0, counts, _numbers(returns), bare=True))
    if study.max_return is not None:
        gaps = {arm: missed(own, study.max_return) for arm, own in returns.items()}
        columns.append(_column("optimality gap", digits, mean_of, gaps))
    columns.append(_column("area under curve", digits_on(scores, AREA), mean_of, table_of(scores, tasks, AREA)))
    base = returns.get(study.base_arm)
    better = {arm: probability_of_improvement(base, own) for arm, own in returns.items()} if base else {}
    better.pop(study.base_arm, None)
    columns.append(Column("P(better)", 2, better, _numbers(returns)))
    columns = [replace(column, of_return=True) for column in columns]
    for endpoint in _all_endpoints(study, scores):
        if endpoint not in (study.final_return, AREA):
            table = table_of(scores, tasks, endpoint)
            columns.append(_column(title_of(endpoint), digits_on(scores, endpoint), iqm_of, table))
    return [column for column in columns if column.values]


def _column(name: str, digits: int, statistic: Statistic, table: dict[str, list[Floats]]) -> Column:
    return Column(name, digits, {arm: estimate(statistic, own) for arm, own in table.items()}, _numbers(table))


def _numbers(table: dict[str, list[Floats]]) -> dict[str, list[int]]:
    return {arm: [len(one) for one in own] for arm, own in table.items()}


def _all_endpoints(study: Study, scores: Sequence[Score]) -> list[Endpoint]:
    return endpoints_of(study, tags_of(scores))


def title_of(endpoint: Endpoint) -> str:
    """Return the head of a column: short for what is in every report."""
    if endpoint == AREA:
        return "area under curve"
    if endpoint.of == "final" and endpoint.at is None:
        if endpoint.tag == RETURN:
            return "final return"
        return f"FAU {endpoint.tag.removeprefix('fau/')}" if is_fau(endpoint.tag) else endpoint.tag
    return endpoint.name


def _differences(study: Study, scores: Sequence[Score], tasks: Sequence[str]) -> list[Column]:
    columns = []
    for endpoint in _all_endpoints(study, scores):
        found = _with_baseline(study, scores, tasks, endpoint)
        values = {one.name: one.difference for one in found}
        pairs = {one.name: list(one.pairs) for one in found}
        columns.append(Column(title_of(endpoint), digits_on(scores, endpoint), values, pairs, sign=True))
    return [column for column in columns if column.values]


def _with_baseline(study: Study, scores: Sequence[Score], tasks: Sequence[str], endpoint: Endpoint) -> list[Comparison]:
    base = study.base_arm
    others = [arm for arm in dict.fromkeys(score.arm for score in scores) if arm != base]
    old = values_of(scores, base, endpoint)
    found = [compare(arm, [values_of(scores, arm, endpoint)], [old], tasks) for arm in others]
    return [one for one in found if one is not None]


def _interactions(study: Study, scores: Sequence[Score], tasks: Sequence[str], endpoint: Endpoint) -> list[Interaction]:
    if len(study.factors) != 2:
        return []
    (first, levels), (second, interventions) = study.factors.items()
    a, none = study.base_levels.values()
    found, digits = [], digits_on(scores, endpoint)
    for b in (level for level in levels if level != a):
        for some in (level for level in interventions if level != none):
            old, new, other_old, other_new = _on_common_seeds(
                [values_of(scores, f"{one} + {two}", endpoint) for one in (a, b) for two in (none, some)]
            )
            name = f"interaction of {first} = {b} and {second} = {some}"
            both = compare(name, [other_new, old], [other_old, new], tasks)
            effects = compare(some, [new], [old], tasks), compare(some, [other_new], [other_old], tasks)
            if both and effects[0] and effects[1]:
                effects = (effects[0], effects[1])
                found.append(Interaction(endpoint, (first, a, b), (second, none, some), effects, both, digits))
    return found


def _on_common_seeds(arms: Sequence[Values]) -> list[Values]:
    """Keep the seeds that all arms have, so that two effects differ by their interaction."""
    common = {task: set(seeds).intersection(*(arm.get(task, {}) for arm in arms)) for task, seeds in arms[0].items()}
    return [
        {task: {seed: arm[task][seed] for seed in sorted(seeds)} for task, seeds in common.items() if seeds}
        for arm in arms
    ]


# ---- verdicts --------------------------------------------------------------------------------------------------------


def _families(study: Study, scores: Sequence[Score]) -> dict[Endpoint, list[Comparison]]:
    found = {endpoint: _comparisons(study, scores, endpoint) for endpoint in (study.primary, *study.secondary)}
    number = study.num_comparisons
    later = [one for endpoint in study.secondary for one in found[endpoint]]
    secondary = iter(corrected(later, number * len(study.secondary)))
    families = {endpoint: [next(secondary) for _ in found[endpoint]] for endpoint in study.secondary}
    return {study.primary: corrected(found[study.primary], number), **families}


def _comparisons(study: Study, scores: Sequence[Score], endpoint: Endpoint) -> list[Comparison]:
    interactions = _interactions(study, scores, study.tasks, endpoint)
    return [*_with_baseline(study, scores, study.tasks, endpoint), *(one.difference for one in interactions)]
