"""Reads the command line before there is a parser: what decides which options exist, and whether to draw. Light."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from plasticity_rl.packaged import CONFIG


def options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield name and value of what looks like an option, in either spelling, ``--name value`` and ``--name=value``."""
    for arg, following in itertools.zip_longest(args, args[1:], fillvalue=""):
        name, equals, value = arg.partition("=")
        if name.startswith("-"):
            yield name, value if equals else following


def option_values(args: Sequence[str], *names: str) -> list[str]:
    """Return the values given to the option called ``names``."""
    return [value for name, value in options(args) if name in names]


def settings(args: Sequence[str], key: str) -> Iterator[tuple[str, Any]]:
    """Yield the values given to ``key``, e.g. ``data.observation``, in order, each after the option or file it is from.

    Files that cannot be read give nothing; the parser will say what is wrong with them.
    """
    for name, given in options(args):
        if name == f"--{key}":
            yield name, given
        elif name in CONFIG:
            for value in _in_file(Path(given), key.split(".")):
                yield given, value


def setting(args: Sequence[str], key: str, default: Any = None) -> Any:
    """Return the last of the :func:`settings`: the one that counts."""
    return [default, *(value for _, value in settings(args, key))][-1]


def _in_file(path: Path, keys: Sequence[str]) -> list[Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return []
        value = value[key]
    return [value]


def with_run_config(args: Sequence[str]) -> list[str]:
    """Add the run folder and its ``config.yaml`` to a command that names a checkpoint but no config."""
    args = list(args)
    checkpoint = option_values(args, "--ckpt_path")
    if not checkpoint or option_values(args, *CONFIG):
        return args
    folders = option_values(args, "--trainer.default_root_dir")
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


def observes_pixels(args: Sequence[str]) -> bool:
    """Return whether a command trains, evaluates or measures an agent that needs a renderer, as far as is known here.

    Raises:
        UserError: When the arguments of ``probe``, which names its checkpoints without an option, are wrong.
    """
    commands = [args]
    if args[0] == "probe":
        from plasticity_rl.cli.commands.probe import parse

        commands = [["validate", f"--ckpt_path={path}"] for path in parse(args[1:]).checkpoints]
    return any(setting(with_run_config(command), "data.observation") != "state" for command in commands)
