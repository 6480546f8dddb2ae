"""Shows which options ``**options`` may be: a signature and a docstring, put together from where they are declared.

``help()``, completion in a notebook, and the command line (jsonargparse makes an option of each parameter) read them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter
from typing import Any, TypeVar, get_type_hints

from plasticity_rl.data.options import DataOptions
from plasticity_rl.envs.options import EnvironmentOptions

C = TypeVar("C", bound=type)


def shows_options_of(environment: type[EnvironmentOptions]) -> Callable[[C], C]:
    """Return a decorator of a data module: its ``__init__`` shows the options of ``environment`` and of the data."""

    def decorate(cls: C) -> C:
        _describe(vars(cls)["__init__"], environment)
        return cls

    return decorate


def with_options_of(environment: type[EnvironmentOptions], cls: C) -> C:
    """Return a data module that shows the options of another environment; it does what ``cls`` does.

    It has the name of ``cls`` as well, by which Lightning finds its state in a checkpoint.
    """

    def __init__(self: Any, *args: Any, **options: Any) -> None:
        vars(cls)["__init__"](self, *args, **options)

    _describe(__init__, environment)
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (cls,), {"__init__": __init__, **names})  # type: ignore[return-value]


def _describe(init: Any, environment: type[EnvironmentOptions]) -> None:
    """Give a constructor ``(self, task, **options)`` the signature and the docstring of its options."""
    parameters = [Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)]
    for options in (environment, DataOptions):
        types = get_type_hints(options)
        for field in fields(options):
            kind = Parameter.KEYWORD_ONLY if field.kw_only else Parameter.POSITIONAL_OR_KEYWORD
            parameters.append(Parameter(field.name, kind, default=field.default, annotation=types[field.name]))
    init.__signature__ = inspect.Signature(parameters)
    init.__doc__ = environment.__doc__  # those of the data are inherited: jsonargparse reads base classes too
