"""Finds modules, classes and their bases in source files, without importing them."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Body = ast.Module | ast.ClassDef | ast.If | ast.Try


@dataclass(frozen=True)
class SourceModule:
    """A module as text.

    Attributes:
        name: Its dotted name.
        path: Its file.
        tree: What is in the file.
    """

    name: str
    path: Path
    tree: ast.Module

    @functools.cached_property
    def names(self) -> dict[str, ast.stmt | ast.alias]:
        """What each name of the module is bound by, also under ``if`` and ``try``; for an import, its alias."""
        return dict(_bound(self.tree.body))

    @functools.cached_property
    def is_open(self) -> bool:
        """Whether it may have names that its text does not show: ``__getattr__``, ``import *``."""
        return bool({"__getattr__", "*"} & set(self.names))

    @functools.cached_property
    def _imports(self) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                for alias in node.names:
                    found.setdefault(alias.asname or alias.name, (node.module, alias.name))
        return found

    def imported_from(self, name: str) -> tuple[str, str] | None:
        """Return module and name that ``from module import name`` binds, or None for anything else."""
        return self._imports.get(name)

    def value(self, name: str) -> ast.expr | None:
        """Return the expression that a name of the module is assigned."""
        node = self.names.get(name)
        return node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None


@dataclass(frozen=True)
class SourceClass:
    """A class as text: its definition, and the module that holds it."""

    node: ast.ClassDef
    module: SourceModule

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.name

    def method(self, name: str) -> ast.FunctionDef | None:
        """Return a method that it defines itself."""
        found = [node for node in self.node.body if isinstance(node, ast.FunctionDef) and node.name == name]
        return found[-1] if found else None


def _bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt | ast.alias]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], alias) for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [one for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
            yield from ((one.id, node) for one in names)
        else:
            for part in ("body", "handlers", "orelse", "finalbody"):
                yield from _bound(getattr(node, part, []))


@functools.cache
def module(name: str) -> SourceModule | None:
    """Return a module by dotted name, or None where there is no source file of it to read."""
    path = _file(name)
    if path is None:
        return None
    try:
        return SourceModule(name, path, ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _file(name: str) -> Path | None:
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)  # of a top-level name: nothing is imported
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        below = Path(folder, *rest)
        for path in (below / "__init__.py", below.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def find_class(path: str) -> SourceClass | None:
    """Return the class of a dotted path, wherever it was imported from, or None where that cannot be read."""
    found = _find(path)
    return found if isinstance(found, SourceClass) else None


def _find(path: str, seen: frozenset[str] = frozenset()) -> SourceClass | None:
    name, _, last = path.rpartition(".")
    holder = module(name) if name and path not in seen else None
    if holder is None:
        return None
    node = holder.names.get(last)
    if isinstance(node, ast.ClassDef):
        return SourceClass(node, holder)
    origin = holder.imported_from(last)
    return None if origin is None else _find(".".join(origin), seen | {path})


def has_name(path: str) -> bool:
    """Return whether a module has the last name of a dotted path; True also where its text does not tell."""
    name, _, last = path.rpartition(".")
    holder = module(name)
    if holder is None or holder.is_open or last in holder.names:
        return True
    return module(path) is not None or last.startswith("__")


def exported(name: str) -> list[str]:
    """Return what a module exports (``__all__``), or else the public classes that it defines."""
    holder = module(name)
    listed = None if holder is None else holder.value("__all__")
    if isinstance(listed, ast.List | ast.Tuple):
        return _texts(listed)
    names = {} if holder is None else holder.names
    return [one for one, node in names.items() if isinstance(node, ast.ClassDef) and one[0] != "_"]


def _texts(listed: ast.List | ast.Tuple) -> list[str]:
    return [str(one.value) for one in listed.elts if isinstance(one, ast.Constant)]


def class_texts(path: str, name: str) -> list[str]:
    """Return the texts in the list or tuple that a class assigns to an attribute in its body."""
    listed = class_value(path, name)
    return _texts(listed) if isinstance(listed, ast.List | ast.Tuple) else []


def class_value(path: str, name: str) -> ast.expr | None:
    """Return the expression that a class, or the next that it derives from, assigns to an attribute in its body."""
    for cls in bases(path):
        for node in cls.node.body if cls is not None else ():
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, ast.Assign | ast.AnnAssign) and any(
                isinstance(target, ast.Name) and target.id == name for target in targets
            ):
                return node.value
    return None


@functools.cache
def bases(path: str) -> tuple[SourceClass | None, ...]:
    """Return a class with all that it derives from, in the order in which Python asks them.

    None stands where the text of a base is not read: what follows is then not what Python would ask next.
    """
    found = find_class(path)
    return (None,) if found is None else tuple(_linear(found))


def _linear(cls: SourceClass) -> list[SourceClass | None]:
    parents: list[list[SourceClass | None]] = []
    for base in cls.node.bases:
        parent = named_in(cls.module, base)
        parents.append([None] if parent is None else _linear(parent))
    direct = [line[0] for line in parents]
    return [cls, *_merged([*parents, direct])]


def _merged(lines: list[list[SourceClass | None]]) -> Iterator[SourceClass | None]:
    """Merge as Python does (C3): the first head that stands in no other tail."""
    while lines := [line for line in lines if line]:
        tails = [one for line in lines for one in line[1:] if one is not None]
        heads = [line[0] for line in lines]
        head = next((one for one in heads if one is None or one not in tails), None)
        yield head
        lines = [line[1:] if line[0] == head else line for line in lines]


def named_in(holder: SourceModule, expression: ast.expr) -> SourceClass | None:
    """Return the class that an expression in a module names."""
    if isinstance(expression, ast.Subscript):  # Generic[T]
        expression = expression.value
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        expression = ast.parse(expression.value, mode="eval").body
    return find_class(f"{holder.name}.{expression.id}") if isinstance(expression, ast.Name) else None
