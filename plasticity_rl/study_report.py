"""What came out of a study: scores of its runs, and a report in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plasticity_rl.run_data import Curve, read_run
from plasticity_rl.statistics import Floats
from plasticity_rl.study import Study, StudyRun, state_of
from plasticity_rl.study_statistics import (
    Estimate,
    Scores,
    estimate,
    interaction,
    iqm_difference,
    iqm_of,
    mean_of,
    probability_of_improvement,
)

RETURN = "eval/return"
LAST_SHARE = 0.1
"""Of the frames of a run: evaluations in it are averaged for the final score, for a single one is noisy."""
FEW_SEEDS = 5


@dataclass(frozen=True)
class Score:
    """A finished run in numbers.

    Attributes:
        run: The run.
        final: Mean of a curve over the last tenth of the frames, by tag (``eval/return``, ``fau/<module>``).
        mean_return: Mean of ``eval/return`` over all frames: the area under its curve over their number.
    """

    run: StudyRun
    final: dict[str, float]
    mean_return: float

    @property
    def arm(self) -> tuple[str, ...]:
        """Levels, in the order of the factors."""
        return tuple(self.run.levels.values())


def read_scores(study: Study) -> tuple[list[Score], list[StudyRun]]:
    """Return the scores of all runs that are finished, and the runs that are not."""
    runs = study.runs()
    finished = [run for run in runs if state_of(run, study.max_frames) == "finished"]
    return [score_of(run) for run in finished], [run for run in runs if run not in finished]


def score_of(run: StudyRun) -> Score:
    """Read the curves of a finished run."""
    curves = read_run(run.folder).curves
    tags = [tag for tag in curves if tag == RETURN or (tag.startswith("fau/") and tag.count("/") == 1)]
    return Score(run, {tag: final_value(curves[tag]) for tag in tags}, mean_value(curves[RETURN]))


def final_value(curve: Curve) -> float:
    """Return the mean of the points in the last tenth of the frames, of which the last point is one."""
    return float(curve.values[curve.frames >= (1 - LAST_SHARE) * curve.frames[-1]].mean())


def mean_value(curve: Curve) -> float:
    """Return the area under a curve by trapezoids, over its frames; of one point, that point."""
    widths = np.diff(curve.frames)
    if not widths.sum():
        return float(curve.values[-1])
    return float((widths * (curve.values[1:] + curve.values[:-1]) / 2).sum() / widths.sum())


def table_of(scores: Sequence[Score], tasks: Sequence[str], tag: str) -> dict[tuple[str, ...], list[Floats]]:
    """Return arm -> final scores by task, of the arms that have some on every one of ``tasks``."""
    table: dict[tuple[str, ...], list[Floats]] = {}
    for arm in dict.fromkeys(score.arm for score in scores):
        values = [
            [s.final[tag] for s in scores if s.arm == arm and s.run.task == task and tag in s.final] for task in tasks
        ]
        if all(values):
            table[arm] = [np.array(one) for one in values]
    return table


# ---- the report ------------------------------------------------------------------------------------------------------


def markdown(study: Study, scores: Sequence[Score], missing: Sequence[StudyRun]) -> str:
    """Return the report: a table for each task and for all together, the interaction, and what is missing.

    Args:
        study: The study.
        scores: Of its finished runs, at least one.
        missing: Its other runs; they are named.
    """
    lines = [f"# {study.name}", "", *_remarks(study, scores, missing)]
    groups = [(task, [task]) for task in study.tasks] + ([("all tasks", list(study.tasks))] * (len(study.tasks) > 1))
    for title, tasks in groups:
        lines += ["", f"## {title}", "", *_table(scores, tasks), *_interaction(study, scores, tasks)]
    return "\n".join(lines) + "\n"


def _remarks(study: Study, scores: Sequence[Score], missing: Sequence[StudyRun]) -> list[str]:
    lines = [
        f"{len(scores)} runs of {study.max_frames:,} env frames. Final return: mean of the evaluations in the last "
        "tenth of the frames; interquartile mean (IQM) over seeds, in brackets the 95 % interval of a bootstrap that "
        "resamples seeds within arm and task. Mean return is over all frames. P(better) is the probability that a run "
        "beats one of the first arm on the same task."
    ]
    counts = {len([s for s in scores if (s.arm, s.run.task) == key]) for key in {(s.arm, s.run.task) for s in scores}}
    if min(counts) < FEW_SEEDS:
        lines += ["", f"**Only {min(counts)} seeds in some arms: below {FEW_SEEDS} the intervals are rough.**"]
    if missing:
        lines += ["", f"**Not finished, left out: {', '.join(run.name for run in missing)}.**"]
    return lines


def _table(scores: Sequence[Score], tasks: Sequence[str]) -> list[str]:
    returns = table_of(scores, tasks, RETURN)
    fau = sorted({tag for score in scores for tag in score.final if tag != RETURN})
    head = ["arm", "seeds", "final return, IQM", "final return, mean", "mean return", "P(better)"]
    head += [f"FAU {tag.removeprefix('fau/')}" for tag in fau]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    first = next(iter(returns.values()), None)
    for arm, own in returns.items():
        over_time = [s.mean_return for s in scores if s.arm == arm and s.run.task in tasks]
        better = "" if own is first or first is None else f"{estimate(probability_of_improvement, [first, own]):.2f}"
        cells = [" + ".join(arm), " + ".join(str(len(one)) for one in own), f"{estimate(iqm_of, [own]):.1f}"]
        cells += [f"{mean_of([own]):.1f}", f"{np.mean(over_time):.1f}", better]
        for tag in fau:
            values = table_of(scores, tasks, tag).get(arm)
            cells.append("" if values is None else f"{estimate(iqm_of, [values]):.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _interaction(study: Study, scores: Sequence[Score], tasks: Sequence[str]) -> list[str]:
    """Say how the effect of the second factor depends on the first, where both have two levels."""
    if [len(levels) for levels in study.factors.values()] != [2, 2]:
        return []
    (first, (a, b)), (second, (none, some)) = study.factors.items()
    returns = table_of(scores, tasks, RETURN)
    if any(arm not in returns for arm in ((a, none), (a, some), (b, none), (b, some))):
        return []
    arms: list[Scores] = [returns[a, none], returns[a, some], returns[b, none], returns[b, some]]
    effects = [estimate(iqm_difference, arms[:2]), estimate(iqm_difference, arms[2:])]
    both = estimate(interaction, arms)
    return [
        "",
        f"Effect of {second} = {some} instead of {none} on the final return (IQM): {effects[0]:+.1f} with "
        f"{first} = {a}, {effects[1]:+.1f} with {first} = {b}. Interaction (the second minus the first): {both:+.1f}, "
        f"{_verdict(both)}.",
    ]


def _verdict(effect: Estimate) -> str:
    if effect.low > 0:
        return "above 0"
    return "below 0" if effect.high < 0 else "undecided: the interval holds 0"
