"""What the arms of a study are: what a level adds to the command line, and the options that came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from plasticity_rl.files.credentials import command_without_secrets, without_secrets
from plasticity_rl.former_names import todays_name
from plasticity_rl.results.arms import flatten
from plasticity_rl.study.report import Report
from plasticity_rl.study.rows import Rows

OF_A_RUN = ("seed", "seed_everything", "default_root_dir", "replay_dir", "ckpt_path", "logger")
"""Options by their last part in which the runs of an arm differ, or that say where something is written."""
ABSENT = "–"
NOTHING = "nothing"
CALLBACKS = "trainer.callbacks"
IN_YAML = {"None": "null", "True": "true", "False": "false"}


def added_by(report: Report) -> Rows:
    """Return what each arm adds to the command line that all have in common."""
    lines = []
    for levels in report.study.arms:
        items = [item for factor, level in levels.items() for item in report.study.factors[factor][level]]
        shown = [command_without_secrets([f"--{item}"]).removeprefix("--") for item in items]
        lines.append([" + ".join(levels.values()), " ".join(shown) or NOTHING])
    return [["arm", "adds"], *lines]


def differing(report: Report) -> Rows:
    """Return the options in which arms differ, of those that have a finished run; nothing where there are none."""
    flat = {arm: _options(config) for arm, config in _configs(report).items()}
    names = dict.fromkeys(name for options in flat.values() for name in options)
    lines = [[name, *(options.get(name, ABSENT) for options in flat.values())] for name in names]
    # Configs of older versions lack what is null.
    lines = [line for line in lines if len({ABSENT if value == "null" else value for value in line[1:]}) > 1]
    return [["option", *flat], *lines] if lines else []


def full_configs(report: Report) -> dict[str, str]:
    """Return the whole configuration of the first finished run of each arm as YAML, without passwords and keys."""
    return {
        arm: yaml.safe_dump(without_secrets(config), sort_keys=False, width=100, allow_unicode=True)
        for arm, config in _configs(report).items()
    }


def _configs(report: Report) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for score in report.scores:
        if score.config:
            found.setdefault(score.arm, score.config)
    return found


def _options(config: Mapping[str, Any]) -> dict[str, str]:
    """Return options by dotted name; those of a callback by its class and argument."""
    hidden: Mapping[str, Any] = without_secrets(config)
    flat = {name: value for name, value in flatten(hidden, ".").items() if name != CALLBACKS}
    entries = (hidden.get("trainer") or {}).get("callbacks") or []
    seen: dict[str, int] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        one: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {"class_path": str(entry)}
        name = todays_name(str(one.get("class_path"))).rpartition(".")[2]
        seen[name] = seen.get(name, 0) + 1
        place = name if seen[name] == 1 else f"{name} {seen[name]}"
        flat[place] = "there"
        arguments = one.get("init_args")
        flat |= flatten(arguments, ".", f"{place}.") if isinstance(arguments, Mapping) else {}
    return {name: _short(value) for name, value in flat.items() if name.rpartition(".")[2] not in OF_A_RUN}


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    return IN_YAML.get(str(value), str(value))
