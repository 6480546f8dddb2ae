"""Command lines of the small commands: argparse, with errors of one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from plasticity_rl.errors import UserError, suggestion


class OneLineArguments(argparse.ArgumentParser):
    """Raises what is wrong as a UserError, which the console script prints as one line with exit code 2."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take no option that is cut short, as in ``fit``."""
        super().__init__(*args, **{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Raise it, with near names where one of several was expected, and where to find help."""
        if match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            near = suggestion(match[1], re.findall(r"[-\w]+", match[2]))
            message += f".{near}".rstrip("?.")
        elif match := re.search(r"unrecognized arguments: (-[^\s=]+)", message):
            message += f".{suggestion(match[1], self._option_string_actions)}".rstrip("?.")
        raise UserError(f"{message}; see {self.prog} --help")


def whole_number(least: int) -> Callable[[str], int]:
    """Return a type for argparse: a whole number from ``least`` on."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number >= {least}")
        return number

    return parse


def share(least: int) -> Callable[[str], float]:
    """Return a type for argparse: a part of one thing (0.25), or a whole number of things from ``least`` on."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not (0 < number < 1 or (number >= least and number.is_integer())):
            raise argparse.ArgumentTypeError(f"{text!r} must be a part of one (0.25), or a whole number >= {least}")
        return number

    return parse
