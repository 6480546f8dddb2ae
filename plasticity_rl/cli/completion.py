"""Words for the shell's completion of every command, read as the help is. Light.

``completion_scripts.py`` writes them into the script of a shell.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from plasticity_rl.cli import catalogue
from plasticity_rl.cli.declared import source
from plasticity_rl.cli.declared.command import agents, groups
from plasticity_rl.cli.declared.options import Option, constructor
from plasticity_rl.cli.declared.types import alternatives
from plasticity_rl.cli.help import TOPICS
from plasticity_rl.errors import UserError
from plasticity_rl.packaged import config_names, study_names

OF_THE_PARSER = (
    *("--config", "--help", "--print_config", "--trust"),
    *("--trainer.callbacks+", "--trainer.callbacks.help"),
)
FIT, VALIDATE = "fit", "validate"
FILES = "__files__"
"""Among words: names of files fit as well."""
OF_FILES = ("init", "plot", "probe", "study")
"""Commands that take names of files and folders without an option."""
TAKE_FILES = ("--ckpt_path", "--init_weights", "--trainer.default_root_dir", "--data.replay_dir", "--out", "--json")


def options(command: str) -> list[str]:
    """Return the options of a command; ``fit`` and ``validate`` have those of all agents."""
    if command in (FIT, VALIDATE):
        return sorted({*OF_THE_PARSER, *_declared(command)})
    return sorted({*_added(command, "add_argument", "--"), "--help"})


def words(command: str) -> list[str]:
    """Return what may follow a command that is no option."""
    if command == "list":
        return ["callbacks", "configs", "studies", "tasks"]
    if command == "completion":
        return ["bash", "fish", "zsh"]
    known = [*_added(command, "add_parser", ""), *(study_names() if command == "study" else ())]
    return [*known, *([FILES] if command in OF_FILES else ())]


def values(commands: Iterable[str] = (FIT, VALIDATE)) -> dict[str, list[str]]:
    """Return what options take, by option, of those whose values are known."""
    names = source.exported("callbacks")
    found = {
        "--config": [*config_names(), *(_last(name) for name in config_names() if "/" in name), FILES],
        "--agent": list(agents()),
        "--help": [*TOPICS, *names],
        "--data.task": _tasks(),
        "--trainer.callbacks+": [f"callbacks.{name}" for name in names],
        "--ckpt_path": ["last", FILES],
        **{name: [FILES] for name in TAKE_FILES if name != "--ckpt_path"},
    }
    for command in commands:
        for name, option in _declared(command).items():
            if name not in found and (choices := _choices(option)):
                found[name] = choices
    return found


def arguments_of_callbacks() -> dict[str, list[str]]:
    """Return the options of every callback, by its class path."""
    paths = [f"callbacks.{name}" for name in source.exported("callbacks")]
    return {path: [f"--trainer.callbacks.{name}" for name in constructor(path) or {}] for path in paths}


def _tasks() -> list[str]:
    try:
        return list(catalogue.tasks())
    except UserError:  # no simulator
        return []


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _declared(command: str) -> dict[str, Option]:
    return {
        f"--{group}.{name}".replace("--.", "--"): option
        for agent in agents()
        for group, found in groups(command, agent, "").items()
        for name, option in (found or {}).items()
    }


def _choices(option: Option) -> list[str]:
    kinds = None if option.annotation is None else alternatives(option.annotation, option.module)
    found: list[str] = []
    for name, inner in kinds or ():
        found += ["true", "false"] if name == "bool" else map(str, inner) if name == "literal" else []
    return found


def _added(command: str, method: str, start: str) -> Iterator[str]:
    """Yield what the module of a command gives to ``add_argument`` or ``add_parser`` of argparse."""
    module = source.module(f"plasticity_rl.cli.commands.{command}")
    for node in ast.walk(module.tree) if module is not None else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
            texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            yield from (text for text in texts if text.startswith(start))
