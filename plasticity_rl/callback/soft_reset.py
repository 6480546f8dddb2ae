"""What soft resets share: which parameters they move, what else that touches, and the move itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.surgery import clear_state, draw_fresh, shrink_and_perturb

Moved = Mapping[str, Mapping[str, nn.Parameter]]
"""Parameters by the name of their module and their own name in it."""


def moved_parameters(
    agent: RLModule, names: Sequence[str], select: Callable[[nn.Module], Mapping[str, nn.Parameter]]
) -> Moved:
    """Return what ``select`` picks from each of the modules; a parameter of two of them counts once."""
    moved: dict[str, Mapping[str, nn.Parameter]] = {}
    seen: set[int] = set()
    for name in names:
        own = select(agent.module(name))
        moved[name] = {key: p for key, p in own.items() if id(p) not in seen}
        seen |= {id(p) for p in own.values()}
    return moved


def online_and_target(agent: RLModule, moved: Moved) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names, as in ``named_parameters()``, of the moved parameters and of their twins in the target."""
    own = {id(p) for parameters in moved.values() for p in parameters.values()}
    twins = {id(p) for name, parameters in moved.items() for p in _twins(agent, name, parameters)}
    named = {key: id(p) for key, p in agent.named_parameters()}
    pick = lambda ids: frozenset(key for key, value in named.items() if value in ids)  # noqa: E731
    return pick(own), pick(twins)


def move_towards_fresh(
    agent: RLModule, moved: Moved, generator: torch.Generator, shrink: float, perturb: float
) -> None:
    """Set ``theta <- shrink * theta + perturb * psi``, psi drawn module by module.

    The target, and copies of weights that callbacks keep, get the same psi and keep a part of their own values.
    """
    for name, parameters in moved.items():
        fresh = draw_fresh(agent.module(name), agent.init_layer, generator)
        psi = [fresh[key] for key in parameters]
        shrink_and_perturb(parameters.values(), psi, shrink, perturb)
        if agent.watch is not None:
            moves = {f"{name}.{key}": fresh[key] for key in parameters}
            agent.watch.repeat(functools.partial(_move_copy, moves, shrink, perturb), list(moves))
        if twins := _twins(agent, name, parameters):
            shrink_and_perturb(twins, psi, shrink, perturb)


def _move_copy(psi: Mapping[str, Tensor], shrink: float, perturb: float, copy: Mapping[str, Tensor]) -> None:
    held = [name for name in psi if name in copy]
    shrink_and_perturb([copy[name] for name in held], [psi[name] for name in held], shrink, perturb)


@torch.no_grad()
def scale(agent: RLModule, moved: Moved, factors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Multiply every parameter by its factors, which broadcast with it; those of the target, and in copies, as well."""
    for name, parameters in moved.items():
        own = factors[name]
        for key, parameter in parameters.items():
            parameter.mul_(own[key])
        if agent.watch is not None:
            by_name = {f"{name}.{key}": factor for key, factor in own.items()}
            agent.watch.repeat(functools.partial(_scale_copy, by_name), list(by_name))
        twins = _twins(agent, name, parameters)
        for key, twin in zip(parameters, twins, strict=bool(twins)):
            twin.mul_(own[key])


def _scale_copy(factors: Mapping[str, Tensor], copy: Mapping[str, Tensor]) -> None:
    for name in factors.keys() & copy.keys():
        copy[name].mul_(factors[name])


def clear_optimizer_state(agent: RLModule, parameters: Iterable[Tensor]) -> None:
    """Clear the optimizer state of those of ``parameters`` that an optimizer holds."""
    for parameter in parameters:
        optimizer = agent.optimizer_of(parameter)
        if optimizer is not None:
            clear_state(optimizer, [parameter])


def _twins(agent: RLModule, name: str, parameters: Iterable[str]) -> list[Tensor]:
    target = agent.target_of(name)
    twin = dict(target.named_parameters()) if target is not None else {}
    return [twin[key] for key in parameters] if twin else []
