"""What values a declared type surely does not take. Whatever is not certain is left to the parser."""

from __future__ import annotations

import ast
import math
from typing import Any

from plasticity_rl.cli.declared import source
from plasticity_rl.cli.declared.options import Option
from plasticity_rl.cli.declared.source import SourceModule

PLAIN = ("int", "float", "bool", "str")
LISTS = ("list", "List", "Sequence")
BOOLEANS = ("true", "false", "yes", "no", "on", "off", "y", "n", "0", "1")
NULLS = ("null", "none", "~", "")
REFERENCE = "${"
BEYOND = 2**1000
UNKNOWN: Any = object()
"""Stands for a value that is not known before the parser has made it."""
Kinds = list[tuple[str, Any]]
"""Alternatives of a type: name, and what it is made of."""


def misfit(option: Option, value: Any) -> str | None:
    """Return ``expected int, got abc`` where ``value`` cannot be one of the option's type, else None.

    Args:
        option: With its annotation.
        value: As YAML reads it.
    """
    kinds = None if option.annotation is None else alternatives(option.annotation, option.module)
    if kinds is None or value is None or value is UNKNOWN or any(_may_be(kind, value) for kind in kinds):
        return None
    fix = f": write [{value}]" if any(_may_be(kind, [value]) for kind in kinds) else ""
    return f"expected {' or '.join(_shown(kind) for kind in kinds)}, got {value}{fix}"


def alternatives(annotation: ast.expr, module: SourceModule, depth: int = 0) -> Kinds | None:
    """Return the alternatives of a type, or None where one of them is not plain."""
    if depth > 9:
        return None
    if isinstance(annotation, ast.Constant):
        if annotation.value is None:
            return [("null", None)]
        if isinstance(annotation.value, str):
            return alternatives(ast.parse(annotation.value, mode="eval").body, module, depth + 1)
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _all(annotation.left, annotation.right, module=module, depth=depth)
    if isinstance(annotation, ast.Name):
        if annotation.id in PLAIN:
            return [(annotation.id, None)]
        return _alias(annotation.id, module, depth)
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        inner = annotation.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if annotation.value.id == "Optional":
            return _all(inner, ast.Constant(None), module=module, depth=depth)
        if annotation.value.id == "Union":
            return _all(*parts, module=module, depth=depth)
        if annotation.value.id == "Literal" and all(isinstance(part, ast.Constant) for part in parts):
            return [("literal", [part.value for part in parts if isinstance(part, ast.Constant)])]
        if annotation.value.id in LISTS:
            return [("list", alternatives(inner, module, depth + 1))]
    return None


def _all(*parts: ast.expr, module: SourceModule, depth: int) -> Kinds | None:
    found: Kinds = []
    for part in parts:
        kinds = alternatives(part, module, depth + 1)
        if kinds is None:
            return None
        found += kinds
    return found


def _alias(name: str, module: SourceModule, depth: int) -> Kinds | None:
    """Return the alternatives of a type that has a name of its own, in this module or the one it is imported from."""
    origin = module.imported_from(name)
    holder = source.module(origin[0]) if origin is not None else module
    value = None if holder is None else holder.value(name if origin is None else origin[1])
    return None if value is None or holder is None else alternatives(value, holder, depth + 1)


def _shown(kind: tuple[str, Any]) -> str:
    return f"one of {', '.join(map(repr, kind[1]))}" if kind[0] == "literal" else kind[0]


def _may_be(kind: tuple[str, Any], value: Any) -> bool:
    """Return whether a value may be of a kind: True wherever the parser has rules of its own."""
    name, inner = kind
    if isinstance(value, str) and REFERENCE in value:
        return True
    if name == "list":
        if not isinstance(value, list):
            return isinstance(value, str)
        return inner is None or all(one is None or any(_may_be(kind, one) for kind in inner) for one in value)
    if isinstance(value, list | dict):
        return name == "str"
    text = str(value).strip().lower()
    if name == "int":
        number = _number(value)
        return isinstance(value, bool) or (number is not None and (not math.isfinite(number) or number == int(number)))
    if name == "float":
        return isinstance(value, bool) or _number(value) is not None
    if name == "bool":
        return isinstance(value, bool) or text in BOOLEANS
    if name == "null":
        return text in NULLS
    return name == "str" or isinstance(value, bool) or text in [str(one).lower() for one in inner]


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None if not isinstance(value, int) else math.inf


def made(option: Option, value: Any) -> Any:
    """Return what the parser makes of a value, or :data:`UNKNOWN`."""
    kinds = None if option.annotation is None else alternatives(option.annotation, option.module)
    if kinds is None or value is UNKNOWN or misfit(option, value) is not None:
        return UNKNOWN
    names = {name for name, _ in kinds}
    if value is None:
        return None if "null" in names else UNKNOWN
    if isinstance(value, str):
        plain = names <= {"str", "null", "literal"} and REFERENCE not in value and value.lower() not in NULLS
        return value if plain else UNKNOWN
    if "str" in names:
        return UNKNOWN  # it may have become a text
    if isinstance(value, list):
        return _made_list(kinds, value)
    if type(value).__name__ in names:
        return value
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_number and "float" in names and abs(value) < BEYOND else UNKNOWN


def _made_list(kinds: Kinds, value: list[Any]) -> Any:
    inner = next((inner for name, inner in kinds if name == "list"), None)
    names = {name for name, _ in inner or ()}
    if names == {"float"} and all(type(one) in (int, float) for one in value):
        return [float(one) for one in value]
    kept = {("int",): int, ("str",): str}.get(tuple(names))
    return value if kept is not None and all(type(one) is kept for one in value) else UNKNOWN
