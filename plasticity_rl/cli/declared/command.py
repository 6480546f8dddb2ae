"""Which options ``fit`` and ``validate`` have, by group, for an agent and a task."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping

from plasticity_rl.cli.declared import source
from plasticity_rl.cli.declared.options import Option, constructor, method
from plasticity_rl.cli.own_options import AGENT, FROM_LIGHTNING, FROM_OTHERS, HIDDEN, OWN_OPTIONS
from plasticity_rl.envs.backends import options_class

APP = "plasticity_rl.cli.app"
OWN = "plasticity_rl.cli.own_options"
TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
DATA = "plasticity_rl.data.options.DataOptions"
GROUPS = ("", "data", "model", "trainer")
"""What stands before the dot of an option; nothing for those of the command itself."""
Group = Mapping[str, Option] | None
"""Options by name, or None where they are not known."""


@functools.cache
def agents() -> Mapping[str, str]:
    """Return the class path of every agent by name: ``AGENTS`` of the command line."""
    app = source.module(APP)
    table = None if app is None else app.value("AGENTS")
    if app is None or not isinstance(table, ast.Dict):
        return {}
    found = {}
    for key, value in zip(table.keys, table.values, strict=True):
        origin = app.imported_from(ast.unparse(value))
        if isinstance(key, ast.Constant) and origin is not None:
            found[str(key.value)] = ".".join(origin)
    return found


def groups(command: str, agent: str, task: str) -> dict[str, Group]:
    """Return the options of a command by group.

    Args:
        command: ``fit`` or ``validate``.
        agent: Name of the agent; one that there is not has no known options.
        task: Name of the task, whose backend decides about those of the environment.
    """
    return {
        "": _own(command),
        "data": _data(task),
        "model": _without_linked("model", constructor(agents()[agent]) if agent in agents() else None),
        "trainer": constructor(TRAINER),
    }


def _own(command: str) -> Group:
    of_method = method(TRAINER, command)
    if not of_method:
        return None
    own = source.module(OWN)
    assert own is not None
    found = {}
    for name, kind, default, text in (AGENT, *FROM_LIGHTNING, *OWN_OPTIONS):
        found[name] = Option(name, ast.parse(kind, mode="eval").body, ast.Constant(default), own, text)
    return {**found, **{name: option for name, option in of_method.items() if name not in HIDDEN}}


def _data(task: str) -> Group:
    cls = options_class(task)
    environment, data = constructor(f"{cls.__module__}.{cls.__qualname__}"), constructor(DATA)
    return None if environment is None or data is None else _without_linked("data", {**environment, **data})


def _without_linked(group: str, options: Group) -> Group:
    linked = {target for _, target in FROM_OTHERS}
    return None if options is None else {n: one for n, one in options.items() if f"{group}.{n}" not in linked}
