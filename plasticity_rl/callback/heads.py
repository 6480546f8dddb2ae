"""Heads of an agent: the parts of its modules that end in a linear output."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.errors import UserError
from plasticity_rl.nn.layers import WEIGHT_LAYERS
from plasticity_rl.nn.units import chains


def heads_of(agent: RLModule, modules: Iterable[str], option: str) -> list[str]:
    """Return the dotted names of the heads of modules, each once: outermost ``nn.Sequential`` that end in weights.

    Args:
        agent: Whose they are.
        modules: Modules by dotted name, or heads themselves.
        option: Named in messages, e.g. ``PlasticityInjection.modules``.

    Raises:
        UserError: When a module has none.
    """
    heads: dict[str, None] = {}
    for name in modules:
        found = [path for path, module in _sequentials(agent, name) if _ends_in_weights(module)]
        if not found:
            raise UserError(f"{option}: {name!r} has no head, an nn.Sequential that ends in a linear layer")
        heads |= dict.fromkeys(found)
    return list(heads)


def _sequentials(agent: RLModule, name: str) -> list[tuple[str, nn.Module]]:
    module = agent.module(name)
    outermost = [path for path, child in module.named_modules() if isinstance(child, nn.Sequential)]
    outermost = [p for p in outermost if not any(p != q and (q == "" or p.startswith(f"{q}.")) for q in outermost)]
    return [(f"{name}.{path}".rstrip("."), module.get_submodule(path)) for path in outermost]


def _ends_in_weights(sequential: nn.Module) -> bool:
    (chain, *_) = chains(sequential, "")
    return isinstance([layer for path, layer in chain if path != ".injected"][-1], WEIGHT_LAYERS)
