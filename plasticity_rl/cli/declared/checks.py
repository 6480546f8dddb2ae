"""Runs the checks of a constructor with the values that are known, read from its own text, without importing it.

Only statements whose names are all known are run: arguments, plain builtins, constants, and the checks of
:mod:`plasticity_rl.errors` and :mod:`plasticity_rl.schedules`. Everything else is left out, and what it would have
assigned is unknown from there on. What is refused here is therefore what the constructor itself refuses, in its words.
"""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plasticity_rl import errors, schedules
from plasticity_rl.cli.declared import source
from plasticity_rl.cli.declared.options import constructor, named_arguments
from plasticity_rl.cli.declared.source import SourceClass, SourceModule
from plasticity_rl.cli.declared.types import UNKNOWN
from plasticity_rl.errors import UserError

LIGHT = {module.__name__: module for module in (errors, schedules, math)}
"""Modules whose functions may be called: they have no effect but to raise."""
BUILTINS = (
    *(abs, all, any, bool, dict, enumerate, float, frozenset, int, isinstance, len, list, max, min),
    *(range, repr, reversed, round, set, sorted, str, sum, tuple, type, zip),
)
DEEPEST = 8
MOST_TURNS = 1000


class _Unknown(Exception):
    """What follows cannot be told; also stands for a value that is not known."""


class _Return(Exception):
    """A method ends, with a value."""

    def __init__(self, value: Any) -> None:
        self.value = value


def check(path: str, values: Mapping[str, Any], method: str = "__init__") -> None:
    """Run what can be run of a constructor.

    Args:
        path: Dotted path of the class.
        values: Arguments of ``__init__``, or fields for another method, by name; UNKNOWN for one that is given, but not
            known. Those that are left out have their defaults.
        method: What is run.

    Raises:
        UserError: Where the constructor would raise it.
    """
    line = source.bases(path)
    if line[0] is None:
        return
    run = _Run(line)
    values = {name: _Unknown if value is UNKNOWN else value for name, value in values.items()}
    if method != "__init__":
        _set_fields(run.own, path, values)
        values = {}
    with contextlib.suppress(_Unknown):
        run.call(method, values, 0)


def _set_fields(own: Any, path: str, values: Mapping[str, Any]) -> None:
    """Give an object the attributes that a dataclass makes of values, and of its defaults."""
    for name, option in (constructor(path) or {}).items():
        value = values.get(name, _Unknown)
        if name not in values and option.default is not None:
            with contextlib.suppress(_Unknown):
                value = _value(option.default, option.module)
        if value is not _Unknown:
            vars(own)[name] = value


class _Run:
    """One object that is being constructed: ``own`` has the attributes and plain methods that are known."""

    def __init__(self, line: Sequence[SourceClass | None]) -> None:
        assert line[0] is not None
        self.line, self.depth = line, 0
        self.own = type(line[0].name, (), {"__getattr__": lambda _, name: self._method(name)})()

    def _method(self, name: str) -> Callable[..., Any]:
        """Return what runs a method, for expressions that call it with known arguments."""
        found = next((cls.method(name) for cls in self.line if cls is not None and cls.method(name)), None)
        if found is None or name.startswith("__"):
            raise AttributeError(name)
        names = [one.arg for one in [*found.args.posonlyargs, *found.args.args][1:]]
        return lambda *args, **named: self.call(name, {**dict(zip(names, args, strict=False)), **named}, self.depth + 1)

    def call(self, name: str, values: Mapping[str, Any], depth: int, after: int = 0) -> Any:
        """Run the first method of a name in the line of bases, from number ``after`` on, and return its value.

        Raises:
            _Unknown: When that cannot be told.
        """
        for i in range(after, len(self.line)):
            cls = self.line[i]
            function = None if cls is None else cls.method(name)
            if cls is not None and function is None:
                continue
            known = None if cls is None or function is None else named_arguments(function, cls.module)
            if cls is None or function is None or known is None or function.decorator_list or depth > DEEPEST:
                break
            scope = _Scope(self, cls.module, i, depth)
            if function.args.kwarg is not None:
                scope.rest = {function.args.kwarg.arg: {one: values[one] for one in values if one not in known}}
            scope.names |= {one: value for one, value in values.items() if one in known and value is not _Unknown}
            for one, option in known.items():
                if one not in values and option.default is not None:
                    scope.try_bind(one, option.default)
            before, self.depth = self.depth, depth
            try:
                scope.run(function.body)
            except _Return as ended:
                return ended.value
            finally:
                self.depth = before
            return None
        vars(self.own).clear()  # whatever that method is, it may have set any of them
        raise _Unknown


class _Scope:
    """The names that are known in one method."""

    def __init__(self, run: _Run, module: SourceModule, place: int, depth: int) -> None:
        self.run_of, self.module, self.place, self.depth = run, module, place, depth
        self.names: dict[str, Any] = {"self": run.own}
        self.rest: dict[str, dict[str, Any]] = {}
        """Name of ``**kwargs`` and what it holds, perhaps unknown; handed on as it is and nothing else."""
        self.globals: dict[str, Any] = {one.__name__: one for one in BUILTINS}
        self.globals["getattr"] = lambda holder, name: getattr(holder, name)  # a default would be wrong

    def evaluate(self, expression: ast.expr) -> Any:
        """Return the value of an expression, or raise _Unknown; UserError is what was looked for."""
        local = {one.id for one in ast.walk(expression) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        for node in ast.walk(expression):
            if isinstance(node, ast.Lambda | ast.Await | ast.Yield | ast.NamedExpr):
                raise _Unknown
            if isinstance(node, ast.Name) and node.id not in self.names.keys() | self.globals.keys() | local:
                self.globals[node.id] = _constant(self.module, node.id)
        scope = {"__builtins__": {}, **self.globals, **self.names}
        code = compile(ast.fix_missing_locations(ast.Expression(expression)), "declared", "eval")
        try:
            return eval(code, scope)
        except UserError:
            raise
        except Exception as error:  # a name or attribute that is not known here
            raise _Unknown from error

    def try_bind(self, name: str, expression: ast.expr) -> None:
        """Give a name the value of an expression, or forget it."""
        self.names.pop(name, None)
        try:
            self.names[name] = self.evaluate(expression)
        except _Unknown:
            self.globals.pop(name, None)

    def run(self, body: Sequence[ast.stmt]) -> None:
        """Run statements; raises _Unknown where it cannot be told whether the rest is reached."""
        for node in body:
            if isinstance(node, ast.Expr):
                self._expression(node.value)
            elif isinstance(node, ast.Assign):
                self._assign(node.targets, node.value)
            elif isinstance(node, ast.AnnAssign):
                self._assign([node.target], node.value)
            elif isinstance(node, ast.If):
                self._if(node)
            elif isinstance(node, ast.For):
                self._for(node)
            elif isinstance(node, ast.Raise) and node.exc is not None:
                error = self.evaluate(node.exc)
                raise error if isinstance(error, UserError) else _Unknown
            elif isinstance(node, ast.Return):
                raise _Return(None if node.value is None else self.evaluate(node.value))
            elif isinstance(node, ast.Pass):
                continue
            else:
                self._forget(node)

    def _expression(self, expression: ast.expr) -> None:
        if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
            holder, name = expression.func.value, expression.func.attr
            if isinstance(holder, ast.Call) and ast.unparse(holder) == "super()":
                given = self._given(expression, self.place + 1, name)
                with contextlib.suppress(_Unknown):
                    self.run_of.call(name, given, self.depth + 1, self.place + 1)
                return
            if isinstance(holder, ast.Name) and holder.id == "self":
                with contextlib.suppress(_Unknown):
                    self.run_of.call(name, self._given(expression, 0, name), self.depth + 1)
                return
        try:
            self.evaluate(expression)
        except _Unknown:
            return

    def _given(self, call: ast.Call, after: int, name: str) -> dict[str, Any]:
        """Return the arguments of a call that are known, by name."""
        pairs = [(keyword.arg, keyword.value) for keyword in call.keywords]
        methods = [cls.method(name) for cls in self.run_of.line[after:] if cls is not None]
        function = next((one for one in methods if one is not None), None)
        if function is not None and not function.decorator_list:
            names = [one.arg for one in [*function.args.posonlyargs, *function.args.args][1:]]
            pairs += zip(names, call.args, strict=False)
        found: dict[str, Any] = {}
        for argument, value in pairs:
            if argument is None and isinstance(value, ast.Name):
                found |= self.rest.get(value.id, {})
            elif argument is not None:
                try:
                    found[argument] = self.evaluate(value)
                except _Unknown:
                    found[argument] = _Unknown
        return found

    def _assign(self, targets: Sequence[ast.expr], value: ast.expr | None) -> None:
        if value is None:
            return
        if len(targets) == 1 and isinstance(targets[0], ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(targets[0].elts, value.elts, strict=False))  # one may be known and the other not
        else:
            pairs = [(target, value) for target in targets]
        found = []
        for target, expression in pairs:
            try:
                found.append((target, self.evaluate(expression)))
            except _Unknown:
                found.append((target, _Unknown))
        for target, result in found:
            self._bind(target, result)

    def _bind(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.names.pop(target.id, None)
            self.globals.pop(target.id, None)
            if value is not _Unknown:
                self.names[target.id] = value
        elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
            vars(self.run_of.own).pop(target.attr, None)
            if value is not _Unknown and not self._set_property(target.attr, value):
                vars(self.run_of.own)[target.attr] = value
        elif isinstance(target, ast.Tuple):
            parts = list(value) if isinstance(value, list | tuple) else []
            for i, part in enumerate(target.elts):
                self._bind(part, parts[i] if len(parts) == len(target.elts) else _Unknown)

    def _set_property(self, name: str, value: Any) -> bool:
        """Run the setter of a property; return whether the name is one, of which nothing is known afterwards."""
        for cls in self.run_of.line:
            function = None if cls is None else cls.method(name)
            if cls is None or function is None:
                continue
            if [ast.unparse(one) for one in function.decorator_list] == [f"{name}.setter"]:
                scope = _Scope(self.run_of, cls.module, self.place, self.depth + 1)
                scope.names[function.args.args[-1].arg] = value
                with contextlib.suppress(_Unknown, _Return):
                    scope.run(function.body)
            return True
        return False

    def _if(self, node: ast.If) -> None:
        try:
            holds = bool(self.evaluate(node.test))
        except _Unknown:
            self._forget(node)
            return
        self.run(node.body if holds else node.orelse)

    def _for(self, node: ast.For) -> None:
        if any(isinstance(one, ast.Break | ast.Continue) for one in ast.walk(node)) or node.orelse:
            self._forget(node)
            return
        try:
            turns = list(self.evaluate(node.iter))[:MOST_TURNS]
        except (_Unknown, TypeError):
            self._forget(node)
            return
        for value in turns:
            self._bind(node.target, value)
            self.run(node.body)

    def _forget(self, node: ast.stmt) -> None:
        """Forget what a statement may assign; stop where it may leave the method."""
        for one in ast.walk(node):
            if isinstance(one, ast.Call) and ast.unparse(one.func).startswith(("self.", "super()")):
                vars(self.run_of.own).clear()
            if isinstance(one, ast.Return | ast.Break | ast.Continue):
                raise _Unknown
            if isinstance(one, ast.Name | ast.Attribute) and isinstance(one.ctx, ast.Store):
                self._bind(one, _Unknown)


def _constant(module: SourceModule, name: str, depth: int = 0) -> Any:
    """Return a light function, or a constant, that a module has under a name."""
    origin = module.imported_from(name)
    if origin is not None and origin[0] in LIGHT:
        return getattr(LIGHT[origin[0]], origin[1])
    if name == "math" and name in module.names:
        return math
    holder = module if origin is None else source.module(origin[0])
    value = None if holder is None else holder.value(name if origin is None else origin[1])
    if value is None or holder is None or depth > DEEPEST:
        raise _Unknown
    return _value(value, holder, depth)


def _value(expression: ast.expr, holder: SourceModule, depth: int = 0) -> Any:
    """Return the value of an expression of constants in a module."""
    names = {one.id for one in ast.walk(expression) if isinstance(one, ast.Name)}
    scope = {one: _constant(holder, one, depth + 1) for one in names}
    try:
        return eval(compile(ast.Expression(expression), "declared", "eval"), {"__builtins__": {}, **scope})
    except Exception as error:
        raise _Unknown from error
