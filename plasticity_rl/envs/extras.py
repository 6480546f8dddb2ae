"""Packages that are not dependencies: imported when an environment needs one."""

from __future__ import annotations

import importlib
from typing import Any

from plasticity_rl.errors import UserError, describe_error


def import_extra(module: str, task: str, package: str, fix: str) -> Any:
    """Return a module.

    Args:
        module: What to import.
        task: What it is needed for.
        package: What it is called where it is installed from.
        fix: The command that installs it.

    Raises:
        UserError: When it is not installed or does not load.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == module
        found = "which is not installed" if is_missing else f"which does not load ({describe_error(error)})"
        raise UserError(f"{task} needs {package}, {found}: {fix}") from error
