"""What a command gives to which option, in order, from its options and its files; nothing is judged here. Light."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from plasticity_rl.cli.config_files import SECTIONS, with_text_keys
from plasticity_rl.cli.declared.types import REFERENCE, UNKNOWN
from plasticity_rl.cli.early import CommandLine
from plasticity_rl.files.strict_yaml import load
from plasticity_rl.packaged import CONFIG

CALLBACKS = "trainer.callbacks"


@dataclass(frozen=True)
class Given:
    """A value for an option.

    Attributes:
        name: Full name of the option, without dashes and without ``+``.
        value: As YAML reads it.
        option: How it was written on the command line, or "" for one of a file.
        appends: Whether it is added to a list.
    """

    name: str
    value: Any
    option: str = ""
    appends: bool = False


@dataclass
class GivenCallback:
    """An entry of ``trainer.callbacks``.

    Attributes:
        class_path: As it was written, or None where the entry is no class path and no mapping with one.
        arguments: By name, as YAML reads them.
        whole: Whether these are all arguments, in a form that is known.
    """

    class_path: str | None
    arguments: dict[str, Any] = field(default_factory=dict)
    whole: bool = True


def read_value(text: str) -> Any:
    """Return what a text on the command line is in YAML, or the text where it is none."""
    try:
        return with_text_keys(load(text))
    except (yaml.YAMLError, RecursionError):
        return text


def given(command: CommandLine) -> Iterator[Given]:
    """Yield every value that a command gives, in the order in which they count: the last one wins."""
    args = command.args[1:]
    for arg, following in itertools.zip_longest(args, args[1:], fillvalue="--"):
        name, equals, text = arg.partition("=")
        text = text if equals else following
        if name in CONFIG:
            yield from _of_file(with_text_keys(dict(command.contents.get(text, {}))))
        elif name.startswith("--"):
            missing = not equals and text.startswith("--")  # the parser says so
            value = UNKNOWN if missing else read_value(text)
            yield Given(name[2:].rstrip("+"), value, name, name.endswith("+"))


def _of_file(content: Mapping[str, Any], section: str = "") -> Iterator[Given]:
    for key, value in content.items():
        name = f"{section}{key}"
        if name in SECTIONS and isinstance(value, Mapping):
            yield from _of_file(value, f"{name}.")
        else:
            yield Given(name.rstrip("+"), value, "", name.endswith("+"))


def callbacks(values: Sequence[Given]) -> tuple[list[GivenCallback], list[GivenCallback]]:
    """Return all entries for ``trainer.callbacks`` that are given anywhere, and those that remain in the end."""
    every: list[GivenCallback] = []
    last: list[GivenCallback] = []
    for one in values:
        if one.name == CALLBACKS:
            entries = [_entry(entry) for entry in (one.value if isinstance(one.value, list) else [one.value])]
            every += entries
            last = [*last, *entries] if one.appends else entries
        elif one.name.startswith(f"{CALLBACKS}.") and last:
            name = one.name.removeprefix(f"{CALLBACKS}.").removeprefix("init_args.")
            if name == "class_path" or "." in name or one.appends or not one.option:
                last[-1].whole = False
            else:
                last[-1].arguments[name] = one.value
    return every, last


def _entry(entry: Any) -> GivenCallback:
    if isinstance(entry, str) and REFERENCE not in entry:
        return GivenCallback(entry)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("class_path"), str) or REFERENCE in str(entry):
        return GivenCallback(None, whole=False)
    arguments = entry.get("init_args") or {}
    plain = isinstance(arguments, Mapping) and set(entry) <= {"class_path", "init_args"}
    plain = plain and not any("." in str(name) or str(name).endswith("+") for name in arguments)
    return GivenCallback(entry["class_path"], dict(arguments) if plain else {}, plain)
