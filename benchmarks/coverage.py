"""How often intervals hold the truth, and tests claim a difference that is not there, at so few seeds as studies have.

    python -m benchmarks.coverage --out coverage.md          # every table of docs/statistics.md, about half an hour
    python -m benchmarks.coverage --samples 50 --resamples 100 --tables pairs

Scores are drawn from distributions whose mean and interquartile mean are known; nothing is trained. The same seed and
versions of NumPy and SciPy give the same tables.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from plasticity_rl.results.statistics import FEW_SEEDS, Floats, Scores, Statistic, interval, iqm_of, mean_of
from plasticity_rl.study.comparisons import holm, sign_flip_p

SEEDS = (3, 5, 10)
SCALES = (1.0, 2.0, 4.0)
"""Of the scores on three tasks."""
SHAPES = ("normal", "skewed", "lottery")
STATISTICS = {"mean": mean_of, "IQM": iqm_of}
Interval = Callable[[str, Scores, "Settings"], tuple[float, float]]
NONE = (-np.inf, np.inf)


class Settings(argparse.Namespace):
    """The options."""

    samples: int
    resamples: int
    generator: np.random.Generator


# ---- scores of runs --------------------------------------------------------------------------------------------------


def draw(shape: str, generator: np.random.Generator, size: tuple[int, ...], correlation: float = 0.0) -> Floats:
    """Return scores ``(2, *size)`` of two arms whose runs are pairs, equal in distribution.

    ``normal``: 100 with deviation 30; ``skewed``: lognormal, sigma 1, times 30; ``lottery``: one run in three learns
    and gets 100 with deviation 15, the others get 2 with deviation 1.
    """
    common, own = generator.normal(size=(1, *size)), generator.normal(size=(2, *size))
    noise = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    if shape == "normal":
        return 100 + 30 * noise
    if shape == "skewed":
        return 30 * np.exp(noise)
    learns = noise < stats.norm.ppf(1 / 3)
    jitter = generator.normal(size=(2, *size))
    return np.where(learns, 100 + 15 * jitter, 2 + jitter)


def arm(shape: str, generator: np.random.Generator, seeds: int, tasks: int) -> Scores:
    """Return the scores of one arm, each task on its scale."""
    return [scale * draw(shape, generator, (seeds,))[0] for scale in SCALES[:tasks]]


def truth(name: str, shape: str, tasks: int) -> float:
    """Return the statistic of the distribution itself: of a million runs a task."""
    return float(STATISTICS[name](arm(shape, np.random.default_rng(123), 1_000_000, tasks)))


# ---- candidates ------------------------------------------------------------------------------------------------------


def of_scipy(method: str) -> Interval:
    """Return a bootstrap interval of scipy, seeds drawn anew within each task."""

    def ends(name: str, scores: Scores, settings: Settings) -> tuple[float, float]:
        found = stats.bootstrap(
            scores,
            lambda *arrays, axis: STATISTICS[name](arrays),
            n_resamples=settings.resamples,
            vectorized=True,
            method=method,
            rng=settings.generator,
        ).confidence_interval
        return found.low, found.high

    return ends


def studentized(name: str, scores: Scores, settings: Settings) -> tuple[float, float]:
    """Return the bootstrap-t interval (Efron 1979), errors by the jackknife; resamples without one do not count."""
    statistic, generator = STATISTICS[name], settings.generator
    value, error = statistic(scores), standard_error(statistic, scores)
    again = [one[generator.integers(len(one), size=(settings.resamples, len(one)))] for one in scores]
    errors = standard_error(statistic, again)
    found = ((statistic(again) - value) / np.where(errors > 1e-9, errors, np.nan))[errors > 1e-9]
    low, high = np.percentile(found, [2.5, 97.5])
    return value - high * error, value - low * error


def standard_error(statistic: Statistic, scores: Scores) -> Floats:
    """Return the standard error by the jackknife, one seed of one task left out at a time."""
    return np.sqrt(sum(squared_error(statistic, scores, task) for task in range(len(scores))))


def squared_error(statistic: Statistic, scores: Scores, task: int) -> Floats:
    count = scores[task].shape[-1]
    left_out = [[*scores[:task], np.delete(scores[task], one, axis=-1), *scores[task + 1 :]] for one in range(count)]
    values = np.stack([statistic(some) for some in left_out])
    return (count - 1) / count * ((values - values.mean(axis=0)) ** 2).sum(axis=0)


def jackknife_t(name: str, scores: Scores, settings: Settings) -> tuple[float, float]:
    """Return a t interval whose standard error is the jackknife's (Tukey 1958)."""
    parts = np.array([squared_error(STATISTICS[name], scores, task) for task in range(len(scores))])
    freedom = parts.sum() ** 2 / (parts**2 / [len(one) - 1 for one in scores]).sum()
    half = stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum())
    return STATISTICS[name](scores) - half, STATISTICS[name](scores) + half


def taken(name: str, scores: Scores, settings: Settings) -> tuple[float, float]:
    """Return the interval of our reports."""
    low, high = interval(STATISTICS[name], scores)
    return float(low), float(high)


def trimmed_t(name: str, scores: Scores, settings: Settings) -> tuple[float, float]:
    """Return the interval of Tukey and McLaughlin 1963 for the trimmed mean of one task."""
    if name == "mean" or len(scores) > 1:
        return np.nan, np.nan
    low, high = stats.mstats.trimmed_mean_ci(scores[0], limits=(0.25, 0.25))
    return float(low), float(high)


CANDIDATES: dict[str, Interval] = {
    "percentile": of_scipy("percentile"),
    "BCa": of_scipy("BCa"),
    "bootstrap-t": studentized,
    "jackknife t": jackknife_t,
    "trimmed t": trimmed_t,
    "reports": taken,
}
ONLY_IQM = ("jackknife t", "trimmed t")
"""Of a mean they are Student's interval, as that of the reports is."""


def one_arm(settings: Settings) -> list[list[str]]:
    """Coverage of the intervals of one arm's score."""
    columns = [
        (name, method) for name in STATISTICS for method in CANDIDATES if name != "mean" or method not in ONLY_IQM
    ]
    rows = [["shape", "tasks", "seeds", *(f"{name}, {method}" for name, method in columns)]]
    for shape, tasks, seeds in itertools.product(SHAPES, (1, 3), SEEDS):
        row = [shape, str(tasks), str(seeds)]
        true = {name: truth(name, shape, tasks) for name in STATISTICS}
        samples = [arm(shape, settings.generator, seeds, tasks) for _ in range(settings.samples)]
        for name, method in columns:
            ends = [CANDIDATES[method](name, scores, settings) for scores in samples]
            row.append("" if np.isnan(ends).all() else share([low <= true[name] <= high for low, high in ends]))
        rows.append(row)
        print(" | ".join(row), flush=True)
    return rows


# ---- differences of two arms -----------------------------------------------------------------------------------------


def differences(settings: Settings) -> list[list[str]]:
    """Coverage of 0 by intervals of the difference of two equal arms, one task, and their median width."""
    kinds = {
        "percentile, IQM, unpaired": lambda old, new: unpaired_percentile([old], [new], settings),
        "percentile, mean, paired": lambda old, new: of_scipy("percentile")("mean", [new - old], settings),
        "BCa, mean, paired": lambda old, new: of_scipy("BCa")("mean", [new - old], settings),
        "Welch": lambda old, new: stats.ttest_ind(new, old, equal_var=False).confidence_interval(),
        "reports: t, mean, paired": lambda old, new: taken("mean", [new - old], settings),
        "sign flips inverted": lambda old, new: inverted_sign_flips(new - old),
    }
    rows = [["shape", "correlation", "seeds", *kinds]]
    for shape, correlation, seeds in itertools.product(SHAPES, (0.0, 0.9), SEEDS):
        row = [shape, str(correlation), str(seeds)]
        pairs = [draw(shape, settings.generator, (seeds,), correlation) for _ in range(settings.samples)]
        for ends in kinds.values():
            found = np.array([ends(*pair) for pair in pairs])
            width = np.median(found[:, 1] - found[:, 0])
            held = share((found[:, 0] <= 0) & (found[:, 1] >= 0))
            row.append(f"{held} ({width:.0f})" if np.isfinite(width) else f"{held} (infinite)")
        rows.append(row)
        print(" | ".join(row), flush=True)
    return rows


def unpaired_percentile(old: Scores, new: Scores, settings: Settings) -> tuple[float, float]:
    """Return what reports had before: percentiles of the difference of IQMs, seeds of both arms drawn apart."""
    again = [
        [one[settings.generator.integers(len(one), size=(settings.resamples, len(one)))] for one in scores]
        for scores in (old, new)
    ]
    low, high = np.percentile(iqm_of(again[1]) - iqm_of(again[0]), [2.5, 97.5])
    return float(low), float(high)


def unequal(settings: Settings) -> list[list[str]]:
    """Coverage of the true difference where the second arm is another distribution, one task, no correlation.

    ``skewed``: twice the first. ``lottery``: 102 minus such a score, of which two in three are about 100.
    """
    rows = [["shape", "seeds", "percentile, mean, paired", "Welch", "reports: t, mean, paired"]]
    for shape, seeds in itertools.product(("skewed", "lottery"), SEEDS):
        found = []
        for _ in range(settings.samples):
            old, new = draw(shape, settings.generator, (seeds,))
            if shape == "skewed":
                new, true = 2 * new, 30 * np.exp(0.5)
            else:
                other = draw(shape, settings.generator, (seeds,))[0]
                new, true = 102 - other, 102 - 2 * (100 + 2 * 2) / 3
            ends = [
                of_scipy("percentile")("mean", [new - old], settings),
                tuple(stats.ttest_ind(new, old, equal_var=False).confidence_interval()),
                taken("mean", [new - old], settings),
            ]
            found.append([low <= true <= high for low, high in ends])
        rows.append([shape, str(seeds), *map(share, np.transpose(found))])
        print(" | ".join(rows[-1]), flush=True)
    return rows


def inverted_sign_flips(pairs: Floats) -> tuple[float, float]:
    """Return shifts that the exact test does not reject at 5 %: means of subsets (Maritz 1979); none below n = 6."""
    subsets = np.array(list(itertools.product((0, 1), repeat=len(pairs)))[1:], dtype=float)
    means = np.sort(subsets @ pairs / subsets.sum(axis=1))
    cut = int(0.025 * 2 ** len(pairs))
    return (float(means[cut - 1]), float(means[-cut])) if cut else NONE


# ---- claims ----------------------------------------------------------------------------------------------------------


def claims(settings: Settings) -> list[list[str]]:
    """How often a study of nine arms claims a difference from the first: none is there, or all differ by 1 deviation.

    A third of the samples: each is a study of eight comparisons.
    """
    names = [f"{what}, {rule}" for what in ("any false", "found") for rule in RULES]
    rows = [["tasks", "seeds", "correlation", *names]]
    for tasks, seeds, correlation in itertools.product((1, 3), SEEDS, (0.0, 0.9)):
        equal, shifted = [], []
        for _ in range(settings.samples // 3):
            noise = settings.generator.normal(size=(10, tasks, seeds))
            study = 100 + 30 * (np.sqrt(correlation) * noise[:1] + np.sqrt(1 - correlation) * noise[1:])
            equal.append([any(found) for found in claimed(study, settings)])
            study[1:] += 30
            shifted.append([np.mean(found) for found in claimed(study, settings)])
        row = [str(tasks), str(seeds), str(correlation)]
        row += [share(column) for column in (*np.transpose(equal), *np.transpose(shifted))]
        rows.append(row)
        print(" | ".join(row), flush=True)
    return rows


RULES = ("percentile", "t, paired", "exact", "exact, Holm", "reports")


def claimed(study: Floats, settings: Settings) -> list[list[bool]]:
    """Return which arms of ``(arms, tasks, seeds)`` are said to differ from the first, by each of the rules."""
    p_values = [sign_flip_p(list(one - study[0]), random_flips=1999) for one in study[1:]]
    return [
        [outside(unpaired_percentile(study[0], one, settings)) for one in study[1:]],
        [outside(taken("mean", list(one - study[0]), settings)) for one in study[1:]],
        [p <= 0.05 for p in p_values],
        [p <= 0.05 for p in holm(p_values)],
        [p <= 0.05 and study.shape[-1] >= FEW_SEEDS for p in holm(p_values)],
    ]


def outside(ends: tuple[float, float]) -> bool:
    return ends[0] > 0 or ends[1] < 0


# ---- the command -----------------------------------------------------------------------------------------------------

TABLES = {"arms": one_arm, "pairs": differences, "claims": claims, "unequal": unequal}


def share(found: ArrayLike) -> str:
    return f"{np.mean(found):.2f}"


def main() -> None:
    """Compute the tables and write them as Markdown."""
    parser = argparse.ArgumentParser("python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--samples", type=int, default=600, help="samples of a distribution (default 600)")
    parser.add_argument("--resamples", type=int, default=500, help="of a bootstrap (default 500)")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    settings = parser.parse_args(namespace=Settings())
    texts = []
    for name in settings.tables:
        settings.generator = np.random.default_rng([settings.seed, list(TABLES).index(name)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a bootstrap of equal scores: no interval, which counts as a miss
            head, *rows = TABLES[name](settings)
        lines = [head, ["---"] * len(head), *rows]
        texts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    if settings.out:
        settings.out.write_text("\n\n".join(texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
