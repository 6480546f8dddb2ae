"""Options that name code of other packages, taken out of a command: the rest can be parsed without importing them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plasticity_rl.cli.trust import DOTTED, PACKAGES
from plasticity_rl.packaged import find_config
from plasticity_rl.study.stale import CALLBACKS, ONLY_GIVEN

ARE_PATHS = ("trainer.default_root_dir", "data.replay_dir", "config")


@dataclass
class Foreign:
    """What was taken out.

    Attributes:
        values: Texts by option.
        callbacks: Class paths and the arguments that are given.
    """

    values: dict[str, Any] = field(default_factory=dict)
    callbacks: list[dict[str, Any]] = field(default_factory=list)

    def put_back(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return a parsed config with the texts in their places."""
        for option, value in self.values.items():
            *sections, name = option.split(".")
            section = config
            for one in sections:
                section[one] = section.get(one) or {}  # null where nothing is left of it
                section = section[one]
            section[name] = value
        if self.callbacks:
            trainer = config.setdefault("trainer", {})
            trainer["callbacks"] = [*(trainer.get("callbacks") or []), *self.callbacks]
        return config


def without_foreign(arguments: Sequence[str]) -> tuple[list[str], Foreign]:
    """Return the arguments of ``fit`` without those that name code of other packages, and these."""
    foreign, kept = Foreign(), []
    open_callback: dict[str, Any] | None = None
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config":
            kept.append(f"--config={_file(next(rest), foreign)}")
            continue
        option, _, text = argument.removeprefix("--").partition("=")
        name = option.rstrip("+")
        if name == CALLBACKS:
            open_callback = None
            if is_foreign(text):
                open_callback = {"class_path": text, "init_args": {}, ONLY_GIVEN: True}
                foreign.callbacks.append(open_callback)
                continue
        elif name.startswith(f"{CALLBACKS}.") and open_callback is not None:
            open_callback["init_args"][name.removeprefix(f"{CALLBACKS}.").removeprefix("init_args.")] = text
            continue
        elif name not in ARE_PATHS and is_foreign(text):
            foreign.values[name] = text
            continue
        kept.append(argument)
    return kept, foreign


def is_foreign(text: str) -> bool:
    """Return whether a text is the name of something in another package than ours and those that we build on."""
    return DOTTED.fullmatch(text) is not None and text.partition(".")[0] not in PACKAGES


def _file(name: str, foreign: Foreign) -> str:
    """Return a config file, or as text what is left of it."""
    from plasticity_rl.cli.config_files import read_config

    path = find_config(name)
    if path is None:
        return name
    content = read_config(Path(path))
    if not any(is_foreign(text) for text in _texts(content)):
        return str(path)
    return json.dumps(_left(content, (), foreign))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(one)


def _left(section: Mapping[str, Any], place: tuple[str, ...], foreign: Foreign) -> dict[str, Any]:
    left: dict[str, Any] = {}
    for key, value in section.items():
        name = ".".join((*place, key)).rstrip("+")
        if name == CALLBACKS and isinstance(value, list):
            left[key] = [one for one in value if not _is_foreign_callback(one, foreign)]
        elif isinstance(value, Mapping) and not is_foreign(str(value.get("class_path"))):
            left[key] = _left(value, (*place, key), foreign)
        elif isinstance(value, Mapping) or (isinstance(value, str) and name not in ARE_PATHS and is_foreign(value)):
            foreign.values[name] = {**value, ONLY_GIVEN: True} if isinstance(value, Mapping) else value
        else:
            left[key] = value
    return left


def _is_foreign_callback(entry: Any, foreign: Foreign) -> bool:
    path = entry.get("class_path") if isinstance(entry, Mapping) else entry
    if not isinstance(path, str) or not is_foreign(path):
        return False
    given = (entry.get("init_args") or {}) if isinstance(entry, Mapping) else {}
    foreign.callbacks.append({"class_path": path, "init_args": given, ONLY_GIVEN: True})
    return True
