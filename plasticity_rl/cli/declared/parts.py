"""Which parts the modules of an agent may have, from the text of their classes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from plasticity_rl.cli.declared import source
from plasticity_rl.cli.declared.source import SourceClass

BASES = (["nn.Module"], ["torch.nn.Module"])
OTHER_WAYS = ("setattr", "add_module", "register_module", "__getattr__", "__setattr__", "__dict__", "_modules", "vars")
"""Names in a class that may have parts which no assignment shows."""


def parts(agent: str, name: str) -> Mapping[str, bool]:
    """Return every attribute that a module of an agent assigns, with whether it may be made by a call, as parts are.

    Args:
        agent: Class path of the agent.
        name: A top-level module.

    Returns:
        Nothing where the text does not tell all: where the agent does not assign the module once, as a new object of a
        class that derives from ``nn.Module`` alone.
    """
    cls = source.find_class(agent)
    values = [] if cls is None else [value for target, value in _assigned(cls) if target == name]
    if cls is None or len(values) != 1 or not isinstance(values[0], ast.Call):
        return {}
    made = source.named_in(cls.module, values[0].func)
    if made is None or [ast.unparse(base) for base in made.node.bases] not in BASES:
        return {}
    if _has_other_ways(cls) or _has_other_ways(made):
        return {}
    return {target: _is_made(value) for target, value in _assigned(made)}


def _is_made(value: ast.expr | None) -> bool:
    if isinstance(value, ast.IfExp):  # a part that the module has or lacks by its options
        return _is_made(value.body) or _is_made(value.orelse)
    return isinstance(value, ast.Call) and not ast.unparse(value.func).endswith(("Parameter", "tensor"))


def _has_other_ways(cls: SourceClass) -> bool:
    return any(getattr(node, "id", getattr(node, "attr", "")) in OTHER_WAYS for node in ast.walk(cls.node))


def _assigned(cls: SourceClass) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield what a class gives to attributes of ``self``, also below them; None where the value stands in a tuple."""
    for node in ast.walk(cls.node):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for one in ast.walk(target):
                    if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "self":
                        yield one.attr, node.value if one is target else None
