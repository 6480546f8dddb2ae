"""The parser behind ``plasticity-rl fit`` and ``validate``: its YAML, and its errors of one line."""

from __future__ import annotations

import enum
from typing import Any, ClassVar, NoReturn

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser
from omegaconf.errors import OmegaConfBaseException

from plasticity_rl.cli.config_files import with_text_keys
from plasticity_rl.cli.parser_errors import of_agent, one_line
from plasticity_rl.errors import UserError

PARSER_MODE = "omegaconf+"
"""YAML in which ``${...}`` follows overrides on the command line."""


def use_our_yaml() -> None:
    """Have the parser read YAML by :func:`load_yaml`, and write members of Enums."""
    set_loader(PARSER_MODE, load_yaml, exceptions=(yaml.YAMLError,))
    yaml.SafeDumper.add_multi_representer(enum.Enum, _write_member)


def _write_member(dumper: yaml.SafeDumper, member: enum.Enum) -> yaml.Node:
    """Write the default of an option that is declared as text, but is a member of an Enum (Lightning's Timer)."""
    return dumper.represent_data(member.value)


def load_yaml(text: str) -> Any:
    """Load YAML whose keys ``on`` and ``off`` are names: YAML 1.1 reads them as true and false.

    Classes that moved since a file was written are given the name they have today.
    """
    return with_text_keys(get_loader("yaml")(text))


def dumped(parser: LightningArgumentParser, config: Any, **options: Any) -> str:
    """Return a parsed config as YAML with its nulls: an option that is null may have another default.

    Without that of ``ckpt_path``: behind ``--ckpt_path last``, the config of a run would take it back.

    Args:
        parser: By which it was parsed.
        config: What it returned, or its defaults.
        **options: Of the parser's ``dump``.
    """
    config = config.clone()
    if config.get("ckpt_path") is None:
        config.pop("ckpt_path", None)
    return str(parser.dump(config, "parser_mode", False, **options))  # skip_unset, which was skip_none until 4.49


class OneLineParser(LightningArgumentParser):
    """LightningCLI's parser, with errors of one line instead of sixty."""

    known_options: ClassVar[set[str]] = set()
    agent: ClassVar[str] = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take no option that is cut short: what reads the command before there is a parser would not know it."""
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the console script prints as one line with exit code 2."""
        own = set(self._option_string_actions)  # inside a callback: its arguments
        line = one_line(message, own if "is not accepted" in message else self.known_options)
        raise UserError(of_agent(line, self.agent)) from ex

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse; unresolved ``${...}`` is the user's error too."""
        try:
            return super().parse_args(*args, **kwargs)
        except OmegaConfBaseException as error:
            hint = "keys are absolute and start with the subcommand, e.g. ${fit.data.batch_size}"
            raise UserError(f"{str(error).splitlines()[0]} ({hint})") from error
