"""What the command line refuses because its parser does not: null for an option that has another default."""

from __future__ import annotations

import inspect
from typing import Any

from plasticity_rl.errors import UserError


def refuse_nulls(options: Any, cls: type, prefix: str) -> None:
    """Raise UserError when an option is null that has another default: the parser lets null stand for any type.

    Args:
        options: Parsed arguments of ``cls`` by name.
        cls: The class.
        prefix: What the option is called up to its name, e.g. ``data.``.
    """
    for name, parameter in inspect.signature(cls).parameters.items():
        if "None" in str(parameter.annotation):
            continue
        default = parameter.default
        if default not in (None, inspect.Parameter.empty) and name in options and options[name] is None:
            raise UserError(f"{prefix}{name}: null is no value; leave it out for the default, {default!r}")
