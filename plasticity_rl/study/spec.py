"""A study: arms x tasks x seeds, written down in one file; every run of it is an ordinary run folder.

A level of a factor is a list of what an arm adds to the command line: files of YAML, and options without their dashes.
Nothing here is imported by training, and nothing here trains: :mod:`plasticity_rl.study.runner` starts the runs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.errors import UserError, command_line, suggestion
from plasticity_rl.files.places import expanded
from plasticity_rl.files.strict_yaml import load as read_yaml
from plasticity_rl.packaged import find_config, find_study, no_config
from plasticity_rl.study.claims import Claim
from plasticity_rl.study.endpoints import AREA, FINAL_RETURN, RETURN_AFTER_TRAINING, Endpoint, read_endpoint
from plasticity_rl.study.extends import REQUIRED, WORDS, load_all
from plasticity_rl.study.human_scores import game_of
from plasticity_rl.study.study_run import RUN_FOLDER, StudyRun, moved_to

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What the names of studies, factors and levels consist of: they are names of folders."""
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
"""The same of tasks, ``gym:Pendulum-v1`` too, whose folder has no colon."""
TASK, SEED, FOLDER = "{task}", "{seed}", "{folder}"
"""Stand for the run's task and seed and the study's folder: ``configs/task/{task}.yaml``, or the path of another run of
the study, ``{folder}/{task}/failed/seed{seed}``, which then comes first."""
NOT_KEPT = "not kept"
"""State of a run of which a file of kept runs (``kept.py``) knows nothing, beside those of :func:`state_of`."""
UNREADABLE = "unreadable: "
"""Begins the state of a run that is finished and has lost its options or its event files; why follows."""
SET_BY_THE_STUDY = ("seed_everything", "max_frames", "data.task", "trainer.default_root_dir", "ckpt_path")


@dataclass(frozen=True)
class Study:
    """A study file.

    Attributes:
        name: Name of the study: of the file, unless the file says another.
        folder: Where its runs go.
        base: What all runs have on their command line: files of YAML and options.
        max_frames: Env frames of every run, fixed before anyone looks at a result.
        tasks: Names of tasks.
        seeds: Seeds of every arm.
        factors: Name of a factor -> name of a level -> what it adds to the command line.
        shared: Folders of the runs of other studies, by their arguments: a run equal to one of them is that run.
        max_return: Highest return there is, for the optimality gap; None when it is not known.
        normalize: ``human``: returns are percent of human scores, of Atari games only; None: as they are.
        measures: Curves to report besides return and FAU, e.g. ``dormant/critic/tau_0.025``.
        baseline: Arm that all others are compared with, levels joined by ``+``; None: the first level of every factor.
        primary: Endpoint of the comparisons from which verdicts come.
        secondary: Further endpoints that get p values.
        effect: Smallest difference in the primary endpoint that is worth finding: for how many seeds it takes to find
            it; None: as large as it is observed.
        alone: Whether all of its runs lie in its own folder, those of ``shared`` too, as in a file of kept ones.
        claim: What it claims, in the words of its file.
        file: The file, as it was named; None for a study that was made in Python.
    """

    name: str
    folder: Path
    base: tuple[str, ...]
    max_frames: int
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    factors: Mapping[str, Mapping[str, tuple[str, ...]]]
    shared: Mapping[tuple[str, ...], Path] = field(default_factory=dict)
    max_return: float | None = None
    normalize: str | None = None
    measures: tuple[str, ...] = ()
    baseline: str | None = None
    primary: Endpoint = AREA
    secondary: tuple[Endpoint, ...] = ()
    effect: float | None = None
    alone: bool = False
    claim: Claim = field(default_factory=Claim, compare=False)
    file: Path | None = field(default=None, compare=False)

    @property
    def arms(self) -> list[dict[str, str]]:
        """Level by factor, of every arm."""
        return [dict(zip(self.factors, levels, strict=True)) for levels in itertools.product(*self.factors.values())]

    @property
    def base_levels(self) -> dict[str, str]:
        """Level by factor, of the baseline."""
        return next((levels for levels in self.arms if "+".join(levels.values()) == self.baseline), self.arms[0])

    @property
    def base_arm(self) -> str:
        """The baseline as a report writes it."""
        return " + ".join(self.base_levels.values())

    @property
    def final_return(self) -> Endpoint:
        """The return at the end, of which scores are made: after training, where that is the primary endpoint."""
        return RETURN_AFTER_TRAINING if self.primary == RETURN_AFTER_TRAINING else FINAL_RETURN

    @property
    def num_comparisons(self) -> int:
        """How many comparisons a report draws verdicts from: arms with the baseline, interactions of two factors."""
        others = [len(levels) - 1 for levels in self.factors.values()]
        return len(self.arms) - 1 + (others[0] * others[1] if len(others) == 2 else 0)

    def runs(self) -> list[StudyRun]:
        """Return all runs; seeds are the outermost loop, so that a study that is cut short has whole seeds.

        A run that another study has too lies there, and one that starts from it looks for it there; except where it is
        finished in this study's folder and not there, as one that was taken from a file is.
        """
        runs = self.own_runs()
        return runs if self.alone else _all_moved(runs, self._place_now)

    def own_runs(self) -> list[StudyRun]:
        """Return the same as if no other study had any of them."""
        arms = itertools.product(*(levels.items() for levels in self.factors.values()))
        return [
            self._run(dict(zip(self.factors, arm, strict=True)), task, seed)
            for seed, task, arm in itertools.product(self.seeds, self.tasks, list(arms))
        ]

    def shared_folders(self) -> dict[Path, Path]:
        """Return the folders that runs would have in this study, by those that they have in another one."""
        own = self.own_runs()
        there = _all_moved(own, self._place_elsewhere)
        return {run.folder: mine.folder for run, mine in zip(there, own, strict=True) if run.folder != mine.folder}

    def _place_elsewhere(self, run: StudyRun) -> Path:
        return self.shared.get(run.arguments[:-1], run.folder)

    def _place_now(self, run: StudyRun) -> Path:
        there = self._place_elsewhere(run)
        stays = there != run.folder and finished_frames(there) is None and finished_frames(run.folder) is not None
        return run.folder if stays else there

    def _run(self, arm: Mapping[str, tuple[str, tuple[str, ...]]], task: str, seed: int) -> StudyRun:
        levels = {factor: level for factor, (level, _) in arm.items()}
        of_task = task.replace(":", "-")
        folder = self.folder / of_task / "+".join(levels.values()) / f"seed{seed}"
        added = [item for _, items in arm.values() for item in items]
        own = [f"data.task={task}", f"seed_everything={seed}", f"max_frames={self.max_frames}"]
        words = {SEED: str(seed), FOLDER: str(self.folder)}
        items = [
            *(_filled(item, {**words, TASK: of_task if FOLDER in item else task}) for item in (*self.base, *added)),
            *own,
        ]
        arguments = tuple(itertools.chain(*map(_as_arguments, items)))
        return StudyRun(levels, task, seed, folder, (*arguments, f"{RUN_FOLDER}={folder}"))


def _all_moved(runs: list[StudyRun], place_of: Callable[[StudyRun], Path]) -> list[StudyRun]:
    """Give runs the folders that ``place_of`` says, and name these in what starts from them."""
    while moved := {str(run.folder): folder for run in runs if (folder := place_of(run)) != run.folder}:
        runs = [moved_to(moved, run) for run in runs]
    return runs


def _filled(item: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        item = item.replace(word, value)
    return item


def _as_arguments(item: str) -> list[str]:
    return ["--config", item] if _is_file(item) else [f"--{item}"]


def _is_file(item: str) -> bool:
    """Whether an item is a file, or the name of a packaged config, and no option."""
    return "=" not in item and not item.startswith("-")


# ---- reading the file ------------------------------------------------------------------------------------------------


@command_line()  # a study file has the options of the command line, whoever reads it
def read_study(path: Path, sharing: tuple[Path, ...] = ()) -> Study:
    """Read a study file, with what it extends.

    Paths of YAML in it are relative to the current folder or packaged, as on the command line.

    Args:
        path: The file, or the name of a packaged study.
        sharing: Files that are being read because they name this one in ``shares``.

    Raises:
        UserError: When it is missing or says something that cannot be run; one line that names the entry.
    """
    content, found, claim = load_all(path)
    try:
        return replace(_study(content, found, (*sharing, found.resolve())), claim=claim, file=path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _study(content: Mapping[str, Any], path: Path, reading: tuple[Path, ...]) -> Study:
    for name in REQUIRED:
        if not content.get(name):
            raise UserError(f"the entry {name!r} is missing or empty; a study has {', '.join(REQUIRED)}")
    if not isinstance(content["factors"], Mapping):
        raise UserError(f"factors={content['factors']!r} must give each factor its levels")
    name = _named(content.get("name", path.stem), "name")
    tasks = tuple(_named(task, "tasks", TASK_NAME) for task in _distinct(content["tasks"], "tasks"))
    max_frames = _whole(content["max_frames"], "max_frames", least=1)
    factors = {_named(name, "factors"): _levels(levels, name, tasks) for name, levels in content["factors"].items()}
    primary = read_endpoint(content["primary"], "primary", max_frames) if "primary" in content else AREA
    listed = _distinct(content.get("secondary") or [], "secondary")
    secondary = tuple(read_endpoint(one, "secondary", max_frames) for one in listed)
    for index, one in enumerate(secondary):
        if one in (primary, *secondary[:index]):
            raise UserError(f"secondary: {one.name} is {'the primary endpoint' if one == primary else 'there twice'}")
    return Study(
        name=name,
        folder=_folder(content.get("folder", f"runs/{name}")),
        base=_items(content["base"], "base", tasks),
        max_frames=max_frames,
        tasks=tasks,
        seeds=tuple(_whole(seed, "seeds", least=0) for seed in _distinct(content["seeds"], "seeds")),
        factors=factors,
        shared=_shared(content.get("shares") or [], reading),
        max_return=_above_zero(content.get("max_return"), "max_return"),
        normalize=_normalize(content.get("normalize"), tasks),
        measures=tuple(_tag(tag) for tag in _distinct(content.get("measures") or [], "measures")),
        baseline=_baseline(content.get("baseline"), factors),
        primary=primary,
        secondary=secondary,
        effect=_above_zero(content.get("effect"), "effect"),
    )


def _baseline(name: Any, factors: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the arm of that name, with or without blanks around ``+``; the first one unless there is a name."""
    arms = ["+".join(levels) for levels in itertools.product(*factors.values())]
    if name is None:
        return arms[0]
    words = WORDS[name] if isinstance(name, bool) else str(name)
    found = "+".join(part.strip() for part in words.split("+"))
    if found not in arms:
        raise UserError(
            f"baseline: no arm {name!r}.{suggestion(found, arms)} The first is {arms[0]}, levels joined by +"
        )
    return found


def _shared(files: Any, reading: tuple[Path, ...]) -> dict[tuple[str, ...], Path]:
    """Return the folders of all runs of other studies by their arguments; of equal ones, that of the first study."""
    shared: dict[tuple[str, ...], Path] = {}
    for file in map(str, _distinct(files, "shares")):
        found = find_study(file)
        if found is not None and found.resolve() in reading:
            raise UserError(f"shares: {file} shares runs with itself; leave it out")
        for run in read_study(Path(file), reading).runs():
            shared.setdefault(run.arguments[:-1], run.folder)  # all but the folder
    return shared


def _levels(levels: Any, factor: str, tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not isinstance(levels, Mapping) or not levels:
        raise UserError(f"factors.{factor}={levels!r} must give each level a list: files of YAML, and name=value")
    where = f"factors.{factor}"
    return {_named(level, where): _items(items, f"{where}.{level}", tasks) for level, items in levels.items()}


def _items(items: Any, where: str, tasks: Sequence[str]) -> tuple[str, ...]:
    if items is None:
        return ()
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UserError(f"{where}={items!r} must be a list of files of YAML and of options written name=value")
    for item in items:
        name = item.lstrip("-").partition("=")[0].rstrip("+")
        if _is_file(item):
            for file in dict.fromkeys(item.replace(TASK, task) for task in tasks):
                if find_config(file) is None:
                    raise UserError(
                        f"{where}: no file {file}: {no_config(file)}; paths are relative to the current folder, "
                        f"{Path.cwd()}, or packaged, and options are written name=value"
                    )
        elif item.startswith("-"):
            raise UserError(f"{where}: {item!r} must be a file of YAML, or an option written name=value without dashes")
        elif name in SET_BY_THE_STUDY:
            raise UserError(f"{where}: {name} is set by the study itself (tasks, seeds, max_frames, folder)")
    _refuse_twice(items, where)
    return tuple(items)


def _refuse_twice(items: Sequence[str], where: str) -> None:
    """Refuse an option that stands twice in one list; those of callbacks belong to the one that was added last."""
    found: dict[str, str] = {}
    for item in items:
        name = item.partition("=")[0]
        if _is_file(item) or name.startswith("trainer.callbacks") or name.endswith("+"):
            continue
        if name in found:
            raise UserError(f"{where}: {name} is given twice, {found[name]} and {item}; remove one")
        found[name] = item


def _distinct(values: Any, where: str) -> Iterable[Any]:
    if not isinstance(values, list) or len({repr(value) for value in values}) < len(values):
        raise UserError(f"{where}={values!r} must be a list without repetitions")
    return values


def _named(name: Any, where: str, allowed: re.Pattern[str] = NAME) -> str:
    if not isinstance(name, (str, int)) or not allowed.fullmatch(str(name)):
        raise UserError(f"{where}: {name!r} must consist of letters, digits and _ . - (it names a folder)")
    return str(name)


def _folder(value: Any) -> Path:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise UserError(f"folder: {value!r} must be the path of a folder; put it in quotes if it is a number or a date")
    return expanded(Path(value), "folder")


def _tag(value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"measures: {value!r} must be the name of a curve, as in TensorBoard")
    return value


def _above_zero(value: Any, where: str) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
        raise UserError(f"{where}: {value!r} must be a number > 0")
    return value


def _normalize(value: Any, tasks: Sequence[str]) -> str | None:
    if value not in (None, "human"):
        raise UserError(f"normalize: {value!r} must be human (percent of human scores), or left out")
    for task in tasks if value else ():
        try:
            game_of(task)
        except UserError as error:
            raise UserError(f"normalize: human: {error}; leave normalize out, or the task") from error
    return value


def _whole(value: Any, where: str, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{where}: {value!r} must be a whole number >= {least}")
    return value


# ---- how far it is ---------------------------------------------------------------------------------------------------


def finished_frames(folder: Path) -> int | None:
    """Return the env frames at which the run in ``folder`` came to its end, or None when it has not."""
    try:
        return int(read_yaml((folder / "finished.yaml").read_text())["env_frames"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError, yaml.YAMLError):
        return None


def state_of(run: StudyRun, max_frames: int, stale: Container[str] = ()) -> str:
    """Return ``finished``, ``stopped`` (it has a checkpoint) or ``new``; ``stale`` for one whose name is there."""
    if run.name in stale:
        return "stale"
    frames = finished_frames(run.folder)
    if frames is not None and frames >= max_frames:
        return "finished"
    return "stopped" if (run.folder / "checkpoints" / "last.ckpt").is_file() else "new"


def count_states(runs: Sequence[StudyRun], max_frames: int, stale: Container[str] = ()) -> dict[str, int]:
    """Return how many runs are finished, stopped and new, and stale if there are any."""
    states = [state_of(run, max_frames, stale) for run in runs]
    known = ("finished", "stopped", "new", *(["stale"] if "stale" in states else []))
    return {state: states.count(state) for state in known}


def go_on(runs: Sequence[StudyRun], max_frames: int) -> dict[int, int]:
    """Return how many runs came to an end that the study has moved since, by the env frames at which they did."""
    ends = [finished_frames(run.folder) for run in runs if state_of(run, max_frames) == "stopped"]
    return {end: ends.count(end) for end in ends if end is not None}
