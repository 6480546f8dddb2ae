"""Reads the command line before there is a parser: what decides which options exist. Light."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.cli.config_files import read_config
from plasticity_rl.errors import UserError
from plasticity_rl.packaged import CONFIG
from plasticity_rl.strict_yaml import TwiceError, load


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
    """

    args: tuple[str, ...]
    contents: Mapping[str, Mapping[str, Any]]

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
        UserError: For the first config file that is broken or holds no options.
    """
    args = with_run_config(args)
    _refuse_twice(args)
    return CommandLine(tuple(args), {given: _content(given) for given in option_values(args, *CONFIG)})


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
    """Add the run folder and its ``config.yaml`` to a command that names a checkpoint but no config.

    Of a command that goes on with the last checkpoint and names the ``config.yaml`` of a run, the run is the one in
    whose folder that file lies, wherever the folder was when it was written.
    """
    args = list(args)
    checkpoint, folders = option_values(args, "--ckpt_path"), option_values(args, "--trainer.default_root_dir")
    if not checkpoint:
        return args
    if configs := option_values(args, *CONFIG):
        runs = [Path(file).resolve().parent for file in configs if Path(file).name == "config.yaml"]
        runs = [folder for folder in runs if (folder / "checkpoints").is_dir()]
        if checkpoint[-1] == "last" and runs and not folders:
            args.append(f"--trainer.default_root_dir={runs[-1]}")
        return args
    if checkpoint[-1] == "last":
        run_dir = Path(folders[-1]) if folders else None
    else:
        run_dir = Path(checkpoint[-1]).resolve().parent.parent
    # A command that adds callbacks describes the whole run by itself; the config would give them a second time.
    appends = args[0] == "fit" and any(arg.startswith("--trainer.callbacks") for arg in args)
    if run_dir is None or appends or not (run_dir / "config.yaml").is_file():
        return args
    own = [] if folders else [f"--trainer.default_root_dir={run_dir}"]
    return [args[0], f"--config={run_dir / 'config.yaml'}", *own, *args[1:]]
