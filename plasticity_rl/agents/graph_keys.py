"""What an update depends on beside the values of its tensors: where that is equal, a captured one may be replayed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from types import NoneType
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.agents.clocks import OF_EVERY_UPDATE

PLAIN = frozenset({bool, int, float, str, NoneType, torch.dtype, torch.device})
Key = tuple[tuple[str, Hashable], ...]
"""Part by part: what it is about, and its value."""


class Named(NamedTuple):
    """The key of an update, and the objects that it names by their ``id``, to be kept as long as the key is."""

    key: Key
    objects: list[Any]


def key_of(
    agent: Any, batch: TensorDictBase, optimizers: Iterable[torch.optim.Optimizer], inside: Iterable[Any]
) -> Named:
    """Return the key of the update that an agent would do now on ``batch``.

    Args:
        agent: An :class:`plasticity_rl.RLModule`.
        batch: The batch, of which only names, shapes and types count.
        optimizers: All that step.
        inside: Callbacks that are part of the update.
    """
    modules, optimizers, inside = list(agent.modules()), list(optimizers), list(inside)
    generators = list(agent.rng.generators())
    terms = [term for own in agent.terms_of_losses().values() for term in own.values()]
    parts = agent.parts_of_update()
    device = agent.device.type
    key = (
        ("the batch", spec_of(batch)),
        ("precision", (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))),
        ("attributes of the agent", host_values(agent, OF_EVERY_UPDATE)),
        ("modules, their attributes and modes", tuple((id(one), host_values(one)) for one in modules[1:])),
        ("parameters and buffers, and which of them learn", tuple(_tensors_of(modules))),
        ("optimizers, their options and states", tuple(_states_of(optimizers))),
        (
            "terms of losses",
            tuple((loss, name, id(t)) for loss, own in agent.terms_of_losses().items() for name, t in own.items()),
        ),
        (
            "callbacks in the update",
            tuple((id(one), host_values(one), tuple(map(_place, _held_by(one)))) for one in inside),
        ),
        ("parts of the update", tuple((id(one), host_values(one)) for one in parts)),
        ("generators", tuple(map(id, generators))),
    )
    return Named(key, [*modules, *optimizers, *terms, *inside, *parts, *generators])


def difference(one: Key, two: Key) -> str:
    """Return what the first part is about in which two keys differ."""
    return next((name for (name, own), (_, other) in zip(one, two, strict=True) if own != other), "nothing")


def spec_of(batch: TensorDictBase) -> tuple[tuple[Any, torch.Size, torch.dtype], ...]:
    """Return names, shapes and types of what a batch holds."""
    return tuple((name, value.shape, value.dtype) for name, value in batch.items(True, True))


def host_values(owner: Any, without: frozenset[str] = frozenset()) -> Hashable:
    """Return the plain attributes of an object: Python reads them when it is captured, and never again."""
    return tuple((name, value) for name, value in vars(owner).items() if type(value) in PLAIN and name not in without)


def _place(tensor: Tensor) -> Hashable:
    return tensor.data_ptr(), tensor.shape


def _tensors_of(modules: Iterable[nn.Module]) -> Iterator[Hashable]:
    for module in modules:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                yield _place(tensor), tensor.requires_grad


def _states_of(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[Hashable]:
    for optimizer in optimizers:
        yield id(optimizer)
        for group in optimizer.param_groups:
            # The learning rate is in a tensor of its own.
            yield tuple((k, v) for k, v in group.items() if (type(v) in PLAIN or type(v) is tuple) and k != "lr")
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                yield parameter.data_ptr(), tuple(v.data_ptr() if isinstance(v, Tensor) else v for v in state.values())


def _held_by(owner: Any) -> Iterator[Tensor]:
    """Yield the tensors that an object holds, in dicts and lists as well."""
    waiting = list(vars(owner).values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
