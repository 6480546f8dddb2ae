"""What a report says in words: how large the study is, what the numbers are, what a reader must know first."""

from __future__ import annotations

import shlex

from plasticity_rl.results.panels import named_seeds
from plasticity_rl.study.comparisons import MOST_EXACT, pairs_needed
from plasticity_rl.study.endpoints import RETURN, Endpoint
from plasticity_rl.study.notes import few_seeds, points_of
from plasticity_rl.study.origins import origins_of
from plasticity_rl.study.power import POWER
from plasticity_rl.study.report import Report
from plasticity_rl.study.rows import Rows, seeds_in_words
from plasticity_rl.study.spec import NOT_KEPT

POINTS = " ({} point{s} of each run's curve)"
LEFT_TO_THE_READER = " Whether that confirms or contradicts the claim is for you to read off its criterion."


def size(report: Report) -> str:
    """Say how large the study is."""
    arms, tasks, found = len(report.study.arms), len(report.study.tasks), len(report.scores)
    return (
        f"{found} finished run{'s' * (found != 1)} of {report.study.max_frames:,} env frames: {arms} "
        f"arm{'s' * (arms != 1)}, {tasks} task{'s' * (tasks != 1)}, {len(report.study.seeds)} "
        f"seed{'s' * (len(report.study.seeds) != 1)} planned."
    )


def explanation(report: Report) -> list[str]:
    """Say what the numbers are, a line for each thing to know."""
    most = report.study.max_return
    gap = f" and optimality gap (by how much runs miss {most:g} on average)" if most is not None else ""
    final = report.study.final_return
    last = points_in_words(report, final, ", {} of each run")
    where = f"{RETURN}, mean of the points in the last tenth of the frames{last}"
    if final.is_after_training:
        where = f"{final.tag}, mean over the episodes of one evaluation after training (data.final_eval_episodes)"
    return [
        *(_normalised() if report.study.normalize else []),
        f"IQM (interquartile mean), median, mean{gap} are of the final return: {where}.",
        "Area under curve: mean return over all frames. P(better): probability that a run beats one of the baseline on "
        "the same task. FAU (fraction of active units) and further curves: IQM over seeds of the last tenth of the "
        "frames.",
        "Every task weighs the same, however many of its seeds are finished.",
        "In brackets: 95 % intervals for other seeds, not for other tasks. They are t intervals, of P(better) a score "
        "interval; [none] where there is one seed, or all are equal. An interval that holds 0 does not show that arms "
        "are equal: its ends are how large a difference there could still be.",
        "Differences from the baseline, the second table of a task, are means over pairs of runs with the same seed. "
        "Their intervals are not corrected for their number.",
        "n=2: a cell of that many seeds, where others of its row have more.",
    ]


def _normalised() -> list[str]:
    return [
        "Returns are human-normalised, in percent: 100 (score - random) / (human - random), which is 0 for random "
        "actions and 100 for a human; scores of both are those of DQN Zoo. Median: over games, of the mean over seeds. "
        "Superhuman games: those on which that mean is above 100."
    ]


def points_in_words(report: Report, endpoint: Endpoint, words: str) -> str:
    """Return ``words`` with the number of points that an endpoint averages, if it averages any."""
    points = points_of(report.scores, endpoint)
    averages = endpoint.at is None and not endpoint.is_after_training
    return words.format(points, s="s" * (points != "1")) if points and averages else ""


def how_compared(report: Report) -> str:
    """Say what the p values are, and what they can say at most."""
    primary, number = report.study.primary, report.study.num_comparisons
    family = report.families[primary]
    most = max((sum(one.pairs) for one in family), default=0)
    text = (
        f"Differences from the baseline {report.baseline} in the primary endpoint, {primary.name}"
        f"{points_in_words(report, primary, POINTS)}: runs "
        "with the same seed are pairs, correlation is theirs over seeds. p: two-sided permutation test by sign flips "
        f"of the pairs of all tasks, exact up to {MOST_EXACT} pairs; p (Holm): corrected for the "
        f"{number} comparison{'s' * (number != 1)} of the study. Verdicts are those of p (Holm) at 0.05."
    )
    if not family:
        return text
    text += f" {how_many_seeds(report)}"
    smallest = min(one.smallest_p for one in family)
    needed = pairs_needed(number)
    return text + (
        f" The smallest p (Holm) possible is {smallest:.2g}; a verdict on {number} needs {needed} pairs over all "
        f"tasks, here are {most}." + (" So no verdict is possible." if most < needed else "")
    )


def how_many_seeds(report: Report) -> str:
    """Say what the number of seeds that would decide a comparison is, and what it is not."""
    effect, number = report.study.effect, report.study.num_comparisons
    what = "as large as it was observed" if effect is None else f"of {effect:g}, the effect that the study names"
    return (
        f"Seeds to decide: with so many on each task a difference {what} is found with probability {POWER:g}, if pairs "
        f"spread as they did (paired t test at 0.05 / {number}). Of few pairs that is a rough guess. Fix the number "
        "before more runs, and do not stop in between: looking after every seed finds differences that are not there."
    )


def warnings(report: Report) -> list[str]:
    """Return what a reader must know first: few seeds, runs and curves that are missing, arms that are not balanced."""
    few = few_seeds(report.fewest_seeds)
    lines = [few] if few else []
    if report.to_run:
        lines.append(f"Not finished, left out: {', '.join(_missing(report))}.")
    return lines + report.notes


def _missing(report: Report) -> list[str]:
    """Return the names of runs that are not finished; seeds of which there is none at all are said once."""
    begun = {score.run.seed for score in report.scores}
    gone = [seed for seed in report.study.seeds if seed not in begun]
    of_seeds = [f"all runs of {named_seeds(gone)}"] if gone else []
    return of_seeds + [run.name for run in report.to_run if run.seed in begun]


def facts(report: Report) -> list[tuple[str, str]]:
    """Return what the runs are, and where they come from: a name and a sentence each."""
    study = report.study
    missing = f"; {len(report.missing)} missing" if report.missing else ""
    return [
        ("Size", size(report).removesuffix(".") + missing),
        ("Tasks", ", ".join(study.tasks)),
        ("Seeds", ", ".join(map(str, study.seeds))),
        ("Baseline", report.baseline),
        ("Primary endpoint", study.primary.name),
        *origins_of([score.run.folder for score in report.scores]),
    ]


def verdict_in_words(report: Report) -> str:
    """Say what the verdicts on the primary endpoint are, and how they belong to the claim."""
    family = report.families[report.study.primary]
    if not family:
        return "There is none: no arm was compared with the baseline."
    found: dict[str, list[str]] = {}
    needed = [seeds_in_words(one, report.study.effect) for one in family]
    for one, seeds in zip(family, needed, strict=True):
        verdict, colon, why = one.verdict.partition(": ")
        about = "" if seeds.startswith("over") else "about "
        name = f"{one.name} ({about}{seeds} seeds)" if seeds else one.name
        found.setdefault(f"no verdict ({why})" if colon else verdict, []).append(name)
    listed = "; ".join(f"{', '.join(names)}: {verdict}" for verdict, names in found.items())
    text = f"On {report.study.primary.name}, against the baseline {report.baseline}: {listed}."
    if any(needed):
        size = "as it was observed" if report.study.effect is None else "as the study names"
        text += f" In brackets: how many would decide it, if the difference is as large {size}."
    if report.study.claim.confirmed:
        text += LEFT_TO_THE_READER
    return text


def missing_rows(report: Report) -> Rows:
    """Return the runs that are not in the report, and why."""
    words = {
        "new": "never finished, and has no checkpoint",
        "stopped": "stopped; goes on from its last checkpoint",
        "finished": "finished since the others were read",
        NOT_KEPT: "not in the file that the others are from",
    }
    names = [run.name for run in report.missing]
    states = [report.states[name] for name in names]
    whys = [
        f"stale: {report.stale[name]}" if state == "stale" else words.get(state, state)
        for name, state in zip(names, states, strict=True)
    ]
    return [["run", "state"], *([name, why] for name, why in zip(names, whys, strict=True))]


def how_to_run(report: Report) -> list[str]:
    """Return how the missing runs are run: a sentence, and one command or two; nothing where none is to be run."""
    if not report.to_run:
        return []
    study = report.study
    command = f"plasticity-rl study run {shlex.quote(str(study.file)) if study.file is not None else 'STUDY.yaml'}"
    stale = bool(report.stale.keys() & {run.name for run in report.to_run})
    missing, number = len(report.to_run), len(study.runs())
    verb = "is" if missing == 1 else "are"
    what = f"{missing} of {number} runs {verb} missing. To run them (what is finished is skipped):"
    return [what, command + " --rerun_stale" * stale]
