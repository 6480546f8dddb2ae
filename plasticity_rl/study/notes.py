"""What a reader of a report must know first: few seeds, arms without pairs, values and curves that are not there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from plasticity_rl.errors import suggestion
from plasticity_rl.results.statistics import FEW_SEEDS
from plasticity_rl.study.comparisons import Comparison
from plasticity_rl.study.endpoints import AREA, FEW_POINTS, RETURN, Endpoint
from plasticity_rl.study.origins import code_of
from plasticity_rl.study.scores import Score, tags_of, values_of
from plasticity_rl.study.spec import Study

Families = Mapping[Endpoint, Sequence[Comparison]]


def notes_of(study: Study, scores: Sequence[Score], families: Families) -> list[str]:
    """Return what is not in the tables, not balanced or not what it looks like; one sentence each.

    Args:
        study: The study.
        scores: Of its finished runs.
        families: Comparisons by endpoint.
    """
    longer = ", ".join(score.run.name for score in scores if score.is_longer)
    return [
        *_few_points(study, scores),
        *_missing_runs(study, scores),
        *_without_pairs(study, scores, families),
        *_other_code(study, scores),
        *_shared_runs(study, scores),
        *([f"Longer than the study, read up to frame {study.max_frames:,}: {longer}."] if longer else []),
        *_other_frames(study, scores),
        *_missing_curves(study, scores),
        *(f"Left out of its rows: {problem}." for score in scores for problem in score.problems),
        *(_damaged(score, line) for score in scores for line in score.damage),
    ]


def few_seeds(fewest: int) -> str:
    """Return a warning about the arm that has the fewest runs on a task, or nothing from five on."""
    if fewest >= FEW_SEEDS:
        return ""
    return f"Only {fewest} seed{'s' * (fewest > 1)} in some arms: no verdict below {FEW_SEEDS}" + (
        ", and no interval of one." if fewest == 1 else ", and intervals are wide."
    )


def _damaged(score: Score, line: str) -> str:
    return f"{'Not read in full, what could be read counts' if score.values else 'Left out of its rows'}: {line}."


def points_of(scores: Sequence[Score], endpoint: Endpoint) -> str:
    """Return how many points of a run's curve an endpoint averages: ``3``, or ``3 to 5``; or nothing."""
    numbers = sorted({score.points[endpoint] for score in scores if endpoint in score.points})
    return " to ".join(map(str, dict.fromkeys((numbers[0], numbers[-1])))) if numbers else ""


def _few_points(study: Study, scores: Sequence[Score]) -> Iterator[str]:
    primary, numbers = study.primary, {score.points.get(study.primary, FEW_POINTS) for score in scores}
    if primary.share is None or min(numbers) >= FEW_POINTS:
        return
    points = f"{points_of(scores, primary)} point{'s' * (max(numbers) > 1)} of each run's curve"
    few = "is no average" if max(numbers) == 1 else "averages little"
    yield f"The primary endpoint, {primary.name}, {few}: {points}. Evaluate more often, or choose an area."


def _missing_runs(study: Study, scores: Sequence[Score]) -> Iterator[str]:
    base, arms = study.base_arm, dict.fromkeys(score.arm for score in scores)
    if base not in arms:
        yield f"The baseline {base} has no finished run: nothing is compared."
    for arm in arms:
        counts = {task: sum(s.arm == arm and s.run.task == task for s in scores) for task in study.tasks}
        gone = [task for task, number in counts.items() if not number]
        if gone:
            what = (
                "nothing is compared there"
                if arm == base
                else "its scores are not in the table of all tasks, and its differences there are over the others"
            )
            yield f"{'The baseline ' * (arm == base)}{arm} has no finished run on {', '.join(gone)}: {what}."
        if len({number for number in counts.values() if number}) > 1:
            listed = ", ".join(f"{number} on {task}" for task, number in counts.items() if number)
            yield f"Unbalanced: seeds of {arm} are {listed}; every task weighs the same."


def _without_pairs(study: Study, scores: Sequence[Score], families: Families) -> Iterator[str]:
    for endpoint, found in families.items():
        old = values_of(scores, study.base_arm, endpoint)
        for arm in dict.fromkeys(score.arm for score in scores):
            new = values_of(scores, arm, endpoint)
            alone = [task for task in study.tasks if task in old and task in new and not old[task].keys() & new[task]]
            if alone:
                where = f" on {', '.join(alone)}" * (len(study.tasks) > 1)
                yield (
                    f"{arm} has no seed in common with the baseline {study.base_arm}{where} in {endpoint.name}: they "
                    "are not compared, since runs are compared in pairs."
                )
        compared = {one.name for one in found}
        for name, arms in _interactions(study):
            if name not in compared and compared.issuperset(arms):
                yield f"The {name} has no seed that all four arms have in {endpoint.name}: it is not computed."


def _other_code(study: Study, scores: Sequence[Score]) -> Iterator[str]:
    """Name arms that are compared with runs of a baseline which other code trained, as when runs were taken over."""
    code = {(score.run.task, score.run.seed, score.arm): code_of(score.run.folder) for score in scores}
    runs: dict[str, int] = {}
    for (task, seed, arm), own in code.items():
        theirs = code.get((task, seed, study.base_arm))
        if own and theirs and own != theirs:
            runs[arm] = runs.get(arm, 0) + 1
    if runs:
        listed = ", ".join(f"{arm} ({number} run{'s' * (number > 1)})" for arm, number in runs.items())
        yield (
            f"Trained by another revision or other packages than the run of {study.base_arm} with the same seed: "
            f"{listed}. What changed there is a part of their differences."
        )


def _shared_runs(study: Study, scores: Sequence[Score]) -> Iterator[str]:
    """Name the arms whose runs are those of another study as well."""
    arms: dict[str, dict[str, int]] = {}
    shared = {own: there for there, own in study.shared_folders().items()}
    owners = {run.name: shared[run.folder].parents[2].name for run in study.own_runs() if run.folder in shared}
    for score in scores:
        if (owner := owners.get(score.run.name)) is not None:
            of_study = arms.setdefault(owner, {})
            of_study[score.arm] = of_study.get(score.arm, 0) + 1
    for name, counts in arms.items():
        listed = ", ".join(f"{arm} ({number})" for arm, number in counts.items())
        yield f"Runs of {name} as well: {listed}. What was luck in them is so in the verdicts of both."


def _interactions(study: Study) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of all interactions, and of the arms that each needs beside the baseline."""
    if len(study.factors) == 2:
        a, none = study.base_levels.values()
        first, second = study.factors.items()
        for b, some in itertools.product(first[1], second[1]):
            if b != a and some != none:
                arms = [f"{a} + {some}", f"{b} + {none}", f"{b} + {some}"]
                yield f"interaction of {first[0]} = {b} and {second[0]} = {some}", arms


def _other_frames(study: Study, scores: Sequence[Score]) -> Iterator[str]:
    """Name runs whose evaluations span other frames than those of most runs: their areas are over these."""
    spans: dict[tuple[int, int], list[str]] = {}
    for score in scores:
        if AREA in score.values and (curve := score.curve(RETURN)) is not None:
            span = int(curve.frames[0]), min(int(curve.frames[-1]), study.max_frames)
            spans.setdefault(span, []).append(score.run.name)
    usual = max(spans, key=lambda span: len(spans[span]), default=None)
    for span, names in spans.items():
        if span != usual:
            yield f"{RETURN} has frames {span[0]:,} to {span[1]:,} only: {', '.join(names)}. Areas are over these."


def _missing_curves(study: Study, scores: Sequence[Score]) -> Iterator[str]:
    """Name curves that no run has by the entry that asks for them, and runs without one that others have."""
    there = tags_of(scores)
    asked = [("primary", study.primary.tag), *(("secondary", one.tag) for one in study.secondary)]
    needed = dict.fromkeys([tag for _, tag in asked] + [study.final_return.tag, AREA.tag])
    asked += [("measures", tag) for tag in study.measures]
    for entry, tag in {(entry, tag): None for entry, tag in asked if tag not in there}:
        yield f"{entry}: no finished run has a curve {tag}.{suggestion(tag, there)}"
    for score in scores:
        for tag in needed:
            if tag in there and tag not in score.curves:
                yield f"Left out of its rows: {score.run.name} has no curve {tag}."
