"""Refuses numbers that nothing here can hold, wherever in the options of a run they stand."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from plasticity_rl.errors import UserError

LARGEST_INTEGER = 2**63 - 1
"""What counters in checkpoints, TensorBoard's x-axis and sizes of tensors can hold."""
MAY_BE_INFINITE = ("model.stddev_clip",)
"""Options of which infinity means that there is no limit."""


def refuse_extreme_numbers(config: Any) -> None:
    """Raise UserError for the first number of a parsed command that is infinite, or an integer beyond 64 bits.

    Args:
        config: Parsed options of a subcommand: namespaces, mappings and lists of them.
    """
    for name, value in _numbers(config, ""):
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise UserError(f"{name}={value} does not fit in 64 bits; use a whole number up to {LARGEST_INTEGER}")
        if math.isinf(value) and name not in MAY_BE_INFINITE:
            raise UserError(f"{name}={value} must be a finite number; use a large one if you mean no limit")


def _numbers(value: Any, place: str) -> Iterator[tuple[str, int | float]]:
    """Return the numbers in a parsed config with their names, arguments of a class under the name of the class."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item, place)
    elif isinstance(value, Mapping | Namespace):  # no other object: its attributes are not what the user wrote
        options = _mapping(value)
        if "class_path" in options:
            place, options = str(options["class_path"]).rpartition(".")[2], _mapping(options.get("init_args") or {})
        for name, item in options.items():
            yield from _numbers(item, f"{place}.{name}".lstrip("."))


def _mapping(options: Mapping[str, Any] | Namespace) -> Mapping[str, Any]:
    return options if isinstance(options, Mapping) else vars(options)
