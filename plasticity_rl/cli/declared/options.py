"""The arguments of a class, from its signature and its docstring, without importing it."""

from __future__ import annotations

import ast
import functools
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from plasticity_rl.cli.declared import source
from plasticity_rl.cli.declared.source import SourceClass, SourceModule

ENTRY = re.compile(r"^(\*{0,2}\w+)(?:\s*\([^)]*\))?:\s*", re.MULTILINE)


@dataclass(frozen=True)
class Option:
    """An argument of a constructor.

    Attributes:
        name: Its name.
        annotation: Its type, None where there is none.
        default: Its default, None where there is none.
        module: Where type and default were written, so that their names have a meaning.
        text: What the docstring says of it.
    """

    name: str
    annotation: ast.expr | None
    default: ast.expr | None
    module: SourceModule
    text: str = ""

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is None


@functools.cache
def constructor(path: str) -> Mapping[str, Option] | None:
    """Return the arguments of a class by name, or None where its text does not tell them all.

    Args:
        path: Dotted path of the class.
    """
    line = source.bases(path)
    if any(cls is not None and _is_dataclass(cls) for cls in line[:1]):
        return _fields(line)
    for cls in line:
        if cls is None:
            return None
        if (init := cls.method("__init__")) is not None:
            return _documented(arguments(init, cls.module), line)
    return None


def method(path: str, name: str) -> Mapping[str, Option]:
    """Return the arguments of a method that a class defines itself; none where it does not."""
    cls = source.find_class(path)
    found = None if cls is None else cls.method(name)
    if cls is None or found is None:
        return {}
    texts = _entries(ast.get_docstring(found) or "")
    return _with_texts(arguments(found, cls.module) or {}, texts)


def arguments(function: ast.FunctionDef, module: SourceModule) -> Mapping[str, Option] | None:
    """Return the arguments of a method without ``self``, or None when it takes any (``**kwargs``)."""
    return None if function.args.kwarg is not None else named_arguments(function, module)


def named_arguments(function: ast.FunctionDef, module: SourceModule) -> Mapping[str, Option] | None:
    """Return the arguments of a method that have a name, or None when it takes any number of others (``*args``)."""
    given = function.args
    if given.vararg is not None:
        return None
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    pairs = [*zip(positional, [*defaults, *given.defaults], strict=True)][1:]
    pairs += zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return {one.arg: Option(one.arg, one.annotation, default, module) for one, default in pairs}


def _is_dataclass(cls: SourceClass) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in cls.node.decorator_list)


def _fields(line: Iterable[SourceClass | None]) -> Mapping[str, Option]:
    """Return the fields of a dataclass, those of its bases first."""
    found: dict[str, Option] = {}
    known = [cls for cls in line if cls is not None and _is_dataclass(cls)]
    for cls in reversed(known):
        for node in cls.node.body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            if "ClassVar" not in ast.unparse(node.annotation):
                name = node.target.id
                found[name] = Option(name, node.annotation, _default_of_field(node.value), cls.module)
    return _documented(found, known) or {}


def _default_of_field(value: ast.expr | None) -> ast.expr | None:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "field":
        return next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    return value


def _documented(found: Mapping[str, Option] | None, line: Iterable[SourceClass | None]) -> Mapping[str, Option] | None:
    """Give options the text that the first docstring has for them, along the line of bases."""
    if found is None:
        return None
    texts: dict[str, str] = {}
    for cls in line:
        if cls is not None:
            init = cls.method("__init__")
            own = _entries(ast.get_docstring(cls.node) or "")
            texts = {**own, **(_entries(ast.get_docstring(init) or "") if init else {}), **texts}
    return _with_texts(found, texts)


def _with_texts(found: Mapping[str, Option], texts: Mapping[str, str]) -> Mapping[str, Option]:
    return MappingProxyType(
        {
            name: Option(name, one.annotation, one.default, one.module, texts.get(name, ""))
            for name, one in found.items()
        }
    )


def _entries(docstring: str) -> dict[str, str]:
    """Return what ``Args:`` or ``Attributes:`` of a docstring says of each name, in one line."""
    found: dict[str, str] = {}
    for part in re.split(r"^(?=\S)", docstring, flags=re.MULTILINE):
        head, _, body = part.partition("\n")
        if head.strip() in ("Args:", "Attributes:"):
            text = textwrap.dedent(body)
            for piece in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
                if match := ENTRY.match(piece):
                    found.setdefault(match[1].lstrip("*"), " ".join(piece[match.end() :].split()))
    return found
