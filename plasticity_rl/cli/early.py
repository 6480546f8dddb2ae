"""Reads the command line before there is a parser: what decides which options exist. Light."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.cli import trust
from plasticity_rl.cli.config_files import read_config
from plasticity_rl.errors import UserError
from plasticity_rl.files.places import CONFIG_OF_A_RUN, configs_in, expanded, last_checkpoint_in, run_folder_of
from plasticity_rl.files.strict_yaml import TwiceError, load
from plasticity_rl.packaged import CONFIG

FOLDER = "--trainer.default_root_dir"
CALLBACKS = "--trainer.callbacks"
PATHS = (FOLDER, "--ckpt_path", "--data.replay_dir")
"""Options that name a place; those of files are found by :mod:`plasticity_rl.packaged`."""
WITH_CLASSES = ("--trainer.", "--model.", "--data.env", "--data.task")
"""How options begin in which the user may name a class, or a task that is one."""


def options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield name and value of what looks like an option, in either spelling, ``--name value`` and ``--name=value``."""
    for arg, following in itertools.zip_longest(args, args[1:], fillvalue=""):
        name, equals, value = arg.partition("=")
        if name.startswith("-"):
            yield name, value if equals else following


def option_values(args: Sequence[str], *names: str) -> list[str]:
    """Return the values given to the option called ``names``."""
    return [value for name, value in options(args) if name in names]


@dataclass(frozen=True)
class CommandLine:
    """A command as it was given, with its config files, each read and checked once.

    Attributes:
        args: The command and its options, the run's own config among them.
        contents: Options in every config file, or text in its place, by what ``--config`` says.
        foreign: Those of ``contents`` that a run wrote, so that they may be somebody else's.
        trusts: Whether ``--trust`` was given.
        alone: Checkpoint that lies in no run, whose own configuration is to be taken; None for any other command.
        looked_at: Checkpoint of a run that does not go on, whose own configuration counts more than that with which its
            run began; None for any other command.
    """

    args: tuple[str, ...]
    contents: Mapping[str, Mapping[str, Any]]
    foreign: frozenset[str] = frozenset()
    trusts: bool = False
    alone: str | None = None
    looked_at: str | None = None

    def own_texts(self) -> list[str]:
        """Return what the user wrote: values of options, and the files that no run wrote."""
        values = [value for name, value in options(self.args) if name.startswith(WITH_CLASSES) and name != FOLDER]
        return [*values, *(repr(content) for given, content in self.contents.items() if given not in self.foreign)]

    def with_content(self, content: Mapping[str, Any]) -> CommandLine:
        """Return a command with what its checkpoint holds, after the config of the run that it lies in, if any."""
        unlike_at_first = {"callbacks": None, "precision": None, **content.get("trainer", {})}  # there is none any more
        content = {**content, "trainer": unlike_at_first}
        text, place = json.dumps(content), 1 + len(self.contents)
        args = (*self.args[:place], f"--config={text}", *self.args[place:])
        return replace(self, args=args, contents={**self.contents, text: content}, foreign=self.foreign | {text})

    def source(self, given: str) -> str:
        """Return the file that one of :attr:`contents` was read from, for messages."""
        return given if os.path.isfile(given) else self.alone or self.looked_at or given

    def refuse_foreign(self, content: Mapping[str, Any], source: str) -> None:
        """Raise UserError for what would run code of somebody else, unless that was allowed."""
        if not self.trusts:
            trust.refuse_foreign(content, source, self.own_texts())

    def settings(self, key: str) -> Iterator[tuple[str, Any]]:
        """Yield the values given to ``key``, e.g. ``data.observation``, in order, each after its option or file."""
        for name, given in options(self.args):
            if name == f"--{key}":
                yield name, given
            elif name in CONFIG:
                for value in _under(key.split("."), self.contents[given]):
                    yield given, value

    def setting(self, key: str, default: Any = None) -> Any:
        """Return the last of the :meth:`settings`: the one that counts."""
        return [default, *(value for _, value in self.settings(key))][-1]


def read(args: Sequence[str]) -> CommandLine:
    """Read the files that a command names, once: whoever asks later is given what this returns.

    Args:
        args: The command first; a ``--config`` that is no file is text, or the parser says what is wrong with it.

    Raises:
        UserError: For the first config file that is broken or holds no options, or that a run wrote and that names a
            class of somebody else (:mod:`plasticity_rl.cli.trust`).
    """
    trusts = trust.OPTION in args
    given_args = with_places([arg for arg in args if arg != trust.OPTION])
    args = with_run_config(given_args)
    _refuse_twice(args)
    contents = {given: _content(given) for given in option_values(args, *CONFIG)}
    foreign = frozenset(given for given in contents if os.path.isfile(given) and trust.is_of_a_run(Path(given)))
    checkpoint = next(reversed(option_values(args, "--ckpt_path")), "last")
    alone = None if checkpoint == "last" or contents or describes_itself(args) else checkpoint
    adds_config = bool(contents) and not option_values(given_args, *CONFIG)
    looked_at = _checkpoint_file(args) if adds_config and args[0] != "fit" else None
    command = CommandLine(tuple(args), contents, foreign, trusts, alone, looked_at)
    for given in foreign:
        command.refuse_foreign(contents[given], given)
    return command


def _checkpoint_file(args: Sequence[str]) -> str | None:
    """Return the checkpoint that a command names, or None where that is the last one of a run that has none."""
    checkpoint = option_values(args, "--ckpt_path")[-1]
    found = last_checkpoint_in(Path(option_values(args, FOLDER)[-1])) if checkpoint == "last" else checkpoint
    return None if found is None else str(found)


def _refuse_twice(args: Sequence[str]) -> None:
    for name, given in options(args):
        if given.lstrip().startswith(("{", "[")) and name not in CONFIG:
            try:
                load(given)
            except TwiceError as error:
                raise UserError(f"{name}: {error}") from error
            except (yaml.YAMLError, RecursionError):
                continue  # the parser says what it expects


def _content(given: str) -> Mapping[str, Any]:
    if os.path.isfile(given):
        return read_config(Path(given))
    try:
        content = load(given)
    except (yaml.YAMLError, RecursionError) as error:
        if "\n" in given or "aliases" in str(error):  # more than the name of a file that is not there
            raise UserError(f"--config: the text given is not valid YAML: {' '.join(str(error).split())}") from error
        content = None
    return content if isinstance(content, dict) else {}


def _under(keys: Sequence[str], value: Any) -> list[Any]:
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return []
        value = value[key]
    return [value]


def with_run_config(args: Sequence[str]) -> list[str]:
    """Add the run folder and its ``config.yaml``, or that of its last start, to a command that names no config.

    Of a command that names a checkpoint and a config that its run wrote, at its first start or a later one, or that
    goes on with the last one, the run is the one in whose folder that file lies, wherever the folder was when it was
    written.
    """
    args = list(args)
    checkpoint, folders = option_values(args, "--ckpt_path"), option_values(args, FOLDER)
    if not checkpoint:
        return args
    of_checkpoint = None if checkpoint[-1] == "last" else run_folder_of(checkpoint[-1])
    if configs := option_values(args, *CONFIG):
        runs = [Path(file).resolve().parent for file in configs if trust.is_of_a_run(Path(file))]
        runs = [folder for folder in runs if (folder / "checkpoints").is_dir()]
        meant = runs[-1:] if checkpoint[-1] == "last" else [folder for folder in runs if folder == of_checkpoint]
        return args if folders or not meant else [*args, f"{FOLDER}={meant[-1]}"]
    run_dir = of_checkpoint or (Path(folders[-1]) if folders else None)
    if run_dir is None or not (run_dir / CONFIG_OF_A_RUN).is_file():
        return args
    # What goes on is the run as it was last started, perhaps with other options than at first.
    config = configs_in(run_dir)[-1 if args[0] == "fit" else 0]
    if describes_itself(args, config):
        return args
    own = [] if folders else [f"{FOLDER}={run_dir}"]
    return [args[0], f"--config={config}", *own, *args[1:]]


def describes_itself(args: Sequence[str], config: Path | None = None) -> bool:
    """Whether a command adds callbacks of its run, and so is the whole run: a config would give them a second time.

    Args:
        args: Of the command.
        config: Of the run that it goes on with: a command that adds callbacks of other classes, or replaces all of
            them, needs it. Without one, any callback will do.
    """
    given = [(name, value) for name, value in options(args) if name.startswith(CALLBACKS)]
    if args[0] != "fit" or not given or config is None:
        return args[0] == "fit" and bool(given)
    if any(name == CALLBACKS for name, _ in given):
        return False
    entries = (read_config(config).get("trainer") or {}).get("callbacks") or []
    names = re.findall(r"'class_path': '(?:\w+\.)*(\w+)'", repr(entries))
    return any(re.search(rf"\b{name}\b", value) for name in names for _, value in given)


def with_places(args: Sequence[str]) -> list[str]:
    """Return a command line whose paths have no ``~`` and no ``$VARIABLE`` any more."""
    found = []
    before = ""
    for arg in args:
        name, equals, value = arg.partition("=")
        if name in PATHS and equals:
            found.append(f"{name}={expanded(value, name)}")
        else:
            found.append(expanded(arg, before) if before in PATHS and not arg.startswith("-") else arg)
        before = arg
    return found
