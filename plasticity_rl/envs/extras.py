"""Packages that are not dependencies: imported when an environment needs one. Light."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from plasticity_rl.errors import UserError, describe_error


@dataclass(frozen=True)
class Extra:
    """A package that an environment needs.

    Attributes:
        module: What is imported.
        package: What it is called where it is installed from.
        fix: The command that installs it.
    """

    module: str
    package: str
    fix: str

    def load(self, task: str) -> Any:
        """Return the module.

        Args:
            task: What it is needed for.

        Raises:
            UserError: When it is not installed or does not load.
        """
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == self.module:
                raise self._missing(task) from error
            found = f"which does not load ({describe_error(error)})"
            raise UserError(f"{task} needs {self.package}, {found}: {self.fix}") from error

    def require(self, task: str) -> None:
        """Do nothing where it is installed; nothing is imported.

        Raises:
            UserError: When it is not.
        """
        try:
            missing = importlib.util.find_spec(self.module) is None
        except (ImportError, ValueError):  # something odd is there: whoever imports it will tell
            return
        if missing:
            raise self._missing(task)

    def _missing(self, task: str) -> UserError:
        return UserError(f"{task} needs {self.package}, which is not installed: {self.fix}")


ALE = Extra("ale_py", "ale-py", "pip install 'plasticity-rl[atari]'")
GYMNASIUM = Extra("gymnasium", "Gymnasium", "pip install 'plasticity-rl[gym]'")
MINATAR = Extra(
    "minatar",
    "minatar",
    "pip install 'plasticity-rl[minatar]', or without what its own window needs pip install --no-deps minatar",
)
