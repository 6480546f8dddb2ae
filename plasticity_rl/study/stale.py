"""Runs of a study that were made with other options than its file has by now.

A run says what it was trained with in its ``config.yaml``, and in ``config_resumed_*.yaml`` when it went on with other
options. They are read as plain text: nothing that they name is imported. Compared is what training and evaluation
follow from; :data:`WITHOUT_EFFECT` says of every other option why it is not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from plasticity_rl.errors import UserError
from plasticity_rl.files.places import configs_in
from plasticity_rl.files.strict_yaml import load, with_texts
from plasticity_rl.former_names import todays_name
from plasticity_rl.study.spec import FOLDER, Study
from plasticity_rl.study.study_run import StudyRun, needed_by, path_in

_SHOWN = "what is shown while it runs"
_WRITTEN = "where or how densely it is written down"
_ONE_START = "it concerns a single start"
_UNUSED = "it means nothing without data sets"
WITHOUT_EFFECT: Mapping[str, str] = {
    "max_frames": "the length of a run: a shorter one goes on, of a longer one the first frames are read",
    "data.max_frames": "max_frames sets it",
    **dict.fromkeys(("data.seed", "model.seed"), "seed_everything sets it, which is compared"),
    "trainer.default_root_dir": _WRITTEN,
    "trainer.logger": _WRITTEN,
    "trainer.log_every_n_steps": _WRITTEN,
    "trainer.enable_autolog_hparams": _WRITTEN,
    "trainer.model_registry": _WRITTEN,
    "trainer.enable_checkpointing": _WRITTEN,
    "trainer.enable_progress_bar": _SHOWN,
    "trainer.enable_model_summary": _SHOWN,
    "trainer.profiler": _SHOWN,
    "trainer.barebones": _SHOWN,
    "trainer.detect_anomaly": "it looks for the place of an error, and changes no number",
    "trainer.max_time": _ONE_START,
    "trainer.inference_mode": "it is how an evaluation is computed, not what",
    "trainer.limit_test_batches": _UNUSED,
    "trainer.limit_predict_batches": _UNUSED,
    "trainer.use_distributed_sampler": _UNUSED,
    "data.replay_dir": _WRITTEN,
    "data.env_workers": "environments are the same in whatever process",
    "data.storage": "the records are the same on disk and in memory",
    "data.resumable_epochs": "how far back a run can be continued",
    "data.allow_empty_replay": _ONE_START,
    "data.exact_resume": _ONE_START,
    "detect_nan": "it ends a run, and changes none that goes on",
    "ckpt_path": _ONE_START,
    "weights_only": "how a checkpoint is read",
    "config": "what a file says is compared itself",
}
"""Options that no number of a run follows from, and why."""
CALLBACKS_WITHOUT_EFFECT: Mapping[str, str] = {
    **dict.fromkeys(("TQDMProgressBar", "RichProgressBar", "FrameProgressBar"), _SHOWN),
    **dict.fromkeys(("ModelSummary", "RichModelSummary", "DeviceStatsMonitor", "Timer"), _SHOWN),
    **dict.fromkeys(("LearningRateMonitor", "Histograms", "EvalVideo", "ThroughputMonitor"), _WRITTEN),
    **dict.fromkeys(("ModelCheckpoint", "LastCheckpoint", "BestCheckpoint", "OnExceptionCheckpoint"), _WRITTEN),
}
"""Callbacks of Lightning and of the framework by the last part of their name, likewise."""
OURS = ("plasticity_rl.", "lightning.", "callbacks.")
CALLBACKS = "trainer.callbacks"
SHOWN = 3
"""Differences of a run that are named; the others are counted."""
NOTHING = "nothing"
ONLY_GIVEN = "only_given"
"""Key of a class that was not imported: its arguments are those that the study gives it, without defaults."""


class Configs(Protocol):
    """Knows what the options of a study mean today; see ``cli/study_configs.py``."""

    def of(self, run: StudyRun) -> Mapping[str, Any]:
        """Return the resolved config of a run, as ``fit`` would write it; raise UserError when it cannot be."""

    def defaults(self, run: StudyRun) -> Mapping[str, Any]:
        """Return the same of a run without any options."""

    def default_of(self, class_path: str, argument: str) -> Any:
        """Return the default of an argument of a class that a study names; None when there is none."""

    def only_watches(self, class_path: str) -> bool:
        """Return whether a class of ours is a probe, whose presence changes no number of a run."""


@dataclass(frozen=True)
class Provenance:
    """What is known about the options of a study's runs.

    Attributes:
        stale: By name of a run why it is not one of this study, a phrase each.
        unchecked: Why runs were not compared; one line each.
    """

    stale: Mapping[str, str] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()

    def stale_lines(self) -> list[str]:
        """Return a line for every run that is stale, and what to do about them."""
        if not self.stale:
            return []
        lines = [f"stale: {name}: {why}" for name, why in self.stale.items()]
        what = f"{len(lines)} stale run{'s were' if len(lines) > 1 else ' was'} made with other options"
        what += " than the study has now: not run, not reported; "
        return [*lines, f"{what}study run --rerun_stale moves the folders aside and runs them anew"]


def provenance_of(study: Study, configs: Configs) -> Provenance:
    """Compare all runs that there are with the options that the study has now."""
    runs = study.runs()
    places = {str(there): f"{FOLDER}/{own.relative_to(study.folder)}" for there, own in study.shared_folders().items()}
    places[str(study.folder)] = FOLDER
    stale: dict[str, str] = {}
    unchecked: dict[str, list[str]] = {}
    for run in runs:
        files = configs_in(run.folder)
        if not files:
            if (run.folder / "finished.yaml").exists() or (run.folder / "checkpoints").is_dir():
                unchecked.setdefault("there is no config.yaml that says what it was trained with", []).append(run.name)
            continue
        try:
            found = list(_against_files(run, places, files, configs))
        except UserError as error:
            unchecked.setdefault(str(error), []).append(run.name)
            continue
        if found:
            stale[run.name] = _listed(found)
    _spread(runs, stale)
    ordered = {run.name: stale[run.name] for run in runs if run.name in stale}
    lines = (f"not compared with the study: {named(own)}: {why}" for why, own in unchecked.items())
    return Provenance(ordered, tuple(lines))


def _spread(runs: Sequence[StudyRun], stale: dict[str, str]) -> None:
    """Add the runs that start from a stale one, and those that start from these."""
    found = True
    while found:
        found = False
        gone = [run for run in runs if run.name in stale]
        for run in runs:
            if run.name not in stale and (from_ := needed_by(run, gone)):
                stale[run.name] = f"it starts from {from_[0].name}, which is stale"
                found = True


def named(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _listed(found: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(found))
    more = f"; and {len(distinct) - SHOWN} more" if len(distinct) > SHOWN else ""
    return "; ".join(distinct[:SHOWN]) + more


# ---- one run ---------------------------------------------------------------------------------------------------------


def _against_files(run: StudyRun, places: Mapping[str, str], files: Sequence[Path], configs: Configs) -> Iterator[str]:
    new, defaults = _moved(configs.of(run), places), configs.defaults(run)
    for file in files:
        try:
            old = load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            old = None
        if not isinstance(old, Mapping):
            yield f"its {file.name} cannot be read"
            continue
        resumed = f" ({file.name})" if file.name != "config.yaml" else ""
        then = _root_of(old, run)
        moves = {} if then is None else {then: str(run.root)}
        old = _moved(_moved(old, {**places, **moves}), places)
        for option, was, now in differences(old, new, defaults, configs):
            yield f"{option} is {_short(was)} in the run{resumed}, {_short(now)} in the study"


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any], configs: Configs
) -> Iterator[tuple[str, Any, Any]]:
    """Yield option, value of a run and value of its study, where the numbers of the run follow from them.

    Args:
        old: Config of the run, maybe of an older version; what it does not have has the default, what it has as null
            is null.
        new: The same of the study, resolved.
        defaults: The same without any options.
        configs: Knows defaults of classes.
    """
    if old.get("agent", "drqv2") != new.get("agent", "drqv2"):  # its other options are others too
        yield "agent", old.get("agent"), new.get("agent")
        return
    flat_old, flat_new, flat = (dict(_flat(one)) for one in (old, new, defaults))
    for option in dict.fromkeys([*flat_new, *flat_old]):
        if _without_effect(option) or option == CALLBACKS:
            continue
        now = flat_new.get(option)
        # A run of before nulls were written lacks an option that was null, and one that there was not yet.
        was = flat_old.get(option, None if now is None else flat.get(option))
        yield from _compared(option, was, now, configs)
    yield from _callbacks(flat_old.get(CALLBACKS), flat_new.get(CALLBACKS), configs)


def _without_effect(option: str) -> bool:
    return any(option == one or option.startswith(f"{one}.") for one in WITHOUT_EFFECT)


def _flat(section: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping) and "class_path" not in value and value:
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _compared(option: str, was: Any, now: Any, configs: Configs) -> Iterator[tuple[str, Any, Any]]:
    """Yield where two values differ; of classes and lists of them, the argument."""
    was, now = _as_class(was, now), _as_class(_meant(now, was), was)
    if isinstance(was, Mapping) and _is_class(now):
        path = todays_name(str(now["class_path"]))
        if todays_name(str(was.get("class_path"))) != path:
            yield option, was.get("class_path"), path
            return
        given, wanted = was.get("init_args") or {}, now.get("init_args") or {}
        for name in wanted if ONLY_GIVEN in now else dict.fromkeys([*wanted, *given]):
            value = wanted.get(name)
            default = configs.default_of(path, name) if name not in given and value is not None else None
            yield from _compared(f"{option}.{name}", given.get(name, default), value, configs)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for place, (one, other) in enumerate(zip(was, now, strict=True)):
            yield from _compared(f"{option}[{place}]", one, other, configs)
    elif _plain(was) != _plain(now):
        yield option, was, now


def _as_class(value: Any, other: Any) -> Any:
    """Return a text as the class that it names, where the other value is a class."""
    return {"class_path": value, ONLY_GIVEN: True} if isinstance(value, str) and _is_class(other) else value


def _is_class(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def _meant(now: Any, was: Any) -> Any:
    """Return what a text says in YAML where the run has no text: of a class that is not imported no type is known."""
    if not isinstance(now, str) or isinstance(was, str) or _is_class(was):
        return now
    try:
        return load(now)
    except (yaml.YAMLError, ValueError, RecursionError):
        return now


def _plain(value: Any) -> Any:
    """Return a value in the form in which equal ones are equal: 1 and 1.0, 1e-4 and its text."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, str | int | float):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return todays_name(str(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items() if one is not None}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else str(value)


def _callbacks(old: Any, new: Any, configs: Configs) -> Iterator[tuple[str, Any, Any]]:
    """Compare callbacks of one class with each other; their order means nothing."""
    was, now = _by_class(old), _by_class(new)
    for path in dict.fromkeys([*now, *was]):
        name = path.rpartition(".")[2]
        if name in CALLBACKS_WITHOUT_EFFECT and path.startswith(OURS):
            continue
        theirs, ours = was.get(path, []), now.get(path, [])
        for one, other in zip(*_unequal(theirs, ours, configs), strict=False):
            yield from _compared(name, one, other, configs)
        if len(theirs) != len(ours) and not configs.only_watches(path):
            yield CALLBACKS, _count(name, len(theirs)), _count(name, len(ours))


def _unequal(theirs: Sequence[Any], ours: Sequence[Any], configs: Configs) -> tuple[list[Any], list[Any]]:
    """Return callbacks of one class without those that both have, wherever they stand in the file."""
    left, rest = list(theirs), []
    for other in ours:
        equal = [one for one in left if not any(_compared("", one, other, configs))]
        if equal:
            left.remove(equal[0])
        else:
            rest.append(other)
    return left, rest


def _count(name: str, number: int) -> str:
    return {0: f"without {name}", 1: f"with {name}"}.get(number, f"with {number} {name}")


def _by_class(entries: Any) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries if isinstance(entries, list) else [entries] if entries else []:
        one = entry if isinstance(entry, Mapping) else {"class_path": str(entry)}
        found.setdefault(todays_name(str(one.get("class_path"))), []).append(one)
    return found


def _short(value: Any) -> str:
    text = NOTHING if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- a study that was moved ------------------------------------------------------------------------------------------


def _root_of(config: Mapping[str, Any], run: StudyRun) -> str | None:
    """Return the folder that a run's study had when it was trained: a moved study is the same one."""
    trainer = config.get("trainer")
    where = trainer.get("default_root_dir") if isinstance(trainer, Mapping) else None
    own = run.folder.relative_to(run.root).as_posix()
    return str(where).removesuffix(own).rstrip("/") if where and str(where).endswith(f"/{own}") else None


def _moved(config: Any, places: Mapping[str, str]) -> Any:
    """Return a config in which what lies in one folder lies in another one."""
    return with_texts(config, functools.partial(path_in, places))
