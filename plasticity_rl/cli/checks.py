"""What the command line refuses because its parser does not: nulls, and seeds out of range."""

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


def as_seed(seed: int | bool | None) -> int:
    """Turn ``--seed_everything`` into a number: false means 0 to the framework's own generators."""
    seed = 0 if seed is None or isinstance(seed, bool) else seed
    if not 0 <= seed < 2**32:
        raise UserError(f"seed_everything={seed} must be a whole number from 0 to {2**32 - 1}")
    return seed
