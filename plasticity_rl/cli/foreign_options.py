"""Options that name code of other packages, taken out of a command: the rest can be parsed without importing them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plasticity_rl.cli.trust import DOTTED, PACKAGES
from plasticity_rl.errors import UserError
from plasticity_rl.packaged import find_config
from plasticity_rl.study.stale import CALLBACKS, ONLY_GIVEN

ARE_PATHS = ("trainer.default_root_dir", "data.replay_dir", "config")


@dataclass
class Foreign:
    """What was taken out.

    Attributes:
        values: By option: a text, a class or a list of them.
        callbacks: Classes.
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
    """Return the arguments of ``fit`` without those that name code of other packages, and these.

    Raises:
        UserError: When they go together in a way that cannot be told without importing what they name.
    """
    taken = _Taken()
    rest = iter(arguments)
    kept = []
    for argument in rest:
        if argument == "--config":
            kept.append(f"--config={taken.from_file(next(rest))}")
        elif not taken.from_option(argument):
            kept.append(argument)
    return kept, taken.foreign


def is_foreign(text: str) -> bool:
    """Return whether a text is the name of something in another package than ours and those that we build on."""
    return DOTTED.fullmatch(text) is not None and text.partition(".")[0] not in PACKAGES


class _Taken:
    """Takes options out one after the other, and knows which class the arguments that follow are of."""

    def __init__(self) -> None:
        self.foreign = Foreign()
        self._open: dict[str, dict[str, Any] | None] = {}
        """By option the class that was named last, None where it is of ours."""

    def from_option(self, argument: str) -> bool:
        """Return whether an option was taken."""
        option, _, text = argument.removeprefix("--").partition("=")
        name = option.rstrip("+")
        owner = next((one for one in self._open if name.startswith(f"{one}.")), None)
        if owner is not None:
            return self._argument_of(owner, name, text)
        if name in ARE_PATHS or (name != CALLBACKS and not is_foreign(text)):
            return False
        if option != name and name != CALLBACKS:
            raise UserError(f"{option}={text} adds a class of another package to a list in which the order counts")
        found = _class(text) if is_foreign(text) else None
        if name == CALLBACKS and option == name:
            self.foreign.callbacks.clear()
        self._open[name] = found
        if found is not None and name == CALLBACKS:
            self.foreign.callbacks.append(found)
        elif found is not None:
            self.foreign.values[name] = found
        return found is not None

    def _argument_of(self, owner: str, name: str, text: str) -> bool:
        found = self._open[owner]
        if found is None:
            return False
        key = name.removeprefix(f"{owner}.").removeprefix("init_args.")
        if "." in key:
            raise UserError(f"{name}={text} is of something inside of a class of another package")
        found["init_args"][key] = text
        return True

    def from_file(self, name: str) -> str:
        """Return a config file, or as text what is left of it."""
        from plasticity_rl.cli.config_files import read_config

        path = find_config(name)
        if path is None:
            return name
        content = read_config(Path(path))
        left = self._left(content, ())
        return json.dumps(left) if any(is_foreign(text) for text in _texts(content)) else str(path)

    def _left(self, section: Mapping[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
        left: dict[str, Any] = {}
        for key, value in section.items():
            name = ".".join((*place, key)).rstrip("+")
            if name == CALLBACKS and value:
                left[key] = self._left_callbacks(value, appended=key.endswith("+"))
            elif isinstance(value, Mapping) and not is_foreign(str(value.get("class_path"))):
                left[key] = self._left(value, (*place, key))
            elif name not in ARE_PATHS and any(is_foreign(text) for text in _texts(value)):
                self._take(key, name, value)
            else:
                left[key] = value
        return left

    def _take(self, key: str, name: str, value: Any) -> None:
        if key.endswith("+"):
            raise UserError(f"{name}+ adds a class of another package to a list in which the order counts")
        self.foreign.values[name] = value if isinstance(value, str) else _only_given(value)
        self._open.pop(name, None)

    def _left_callbacks(self, value: Any, *, appended: bool) -> Any:
        """Return the callbacks of ours; the last one of all is that which the options that follow are of."""
        if not appended:
            self.foreign.callbacks.clear()
        left = []
        for entry in value if isinstance(value, list) else [value]:
            one = entry if isinstance(entry, Mapping) else {"class_path": entry}
            found = None
            if is_foreign(str(one.get("class_path"))):
                found = _class(one["class_path"], one.get("init_args"))
                self.foreign.callbacks.append(found)
            else:
                left.append(entry)
            self._open[CALLBACKS] = found
        return left


def _class(path: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"class_path": path, "init_args": dict(arguments or {}), ONLY_GIVEN: True}


def _only_given(value: Any) -> Any:
    """Return a class, or a list of some, of which only those arguments are known that are given."""
    if isinstance(value, list):
        return [_only_given(one) for one in value]
    if isinstance(value, str):
        return _class(value)
    return {**value, ONLY_GIVEN: True} if "class_path" in value else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(one)
