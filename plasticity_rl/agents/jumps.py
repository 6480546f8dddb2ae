"""The agent's one event of weights: they changed at once, and not by learning.

Nobody has to send it: the agent watches every intervention while it acts, compares what it declares in ``mutates``
before and after, and tells all callbacks. So a new surgery cannot forget it, and what declared a change that did not
happen sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plasticity_rl.agents.hooks import RLCallback
from plasticity_rl.agents.probing import SharedMeasurements

SURGERY_HOOKS = ("on_env_step", "on_episode_end", "on_evaluation", "on_update_start")
"""Hooks in which interventions are watched. What they do at the end of an update belongs to its step."""


Edit = Callable[[Mapping[str, Tensor]], None]
"""What was done to weights, once more: edits those of the tensors, by the parameters' names, that it is given."""


@dataclass(frozen=True)
class Jump:
    """What jumped.

    Attributes:
        by: ``state_key`` of the intervention: its class and arguments.
        live: Parameters and buffers of the agent by dotted name, as they are now.
        elements: Name of a parameter -> bool mask of its shape: the elements that have another value than before.
        renewed: Names of parameters that hold fresh initial values as a whole.
        units: Name of a unit layer -> bool mask ``(n,)``: its units that were replaced by new ones.
        edits: What a copy goes through with values of its own, because a part of the old value stays (a weight that
            shrinks, a bias that something is added to); in the order in which it was done.
        edited: Name of a parameter that was edited -> bool mask of its shape: the elements that have the value that an
            edit gave them, or that nothing touched. What was written over an edit is not among them.
        held: Name of a parameter -> bool mask of its shape: the elements that are kept at zero from now on.
    """

    by: str
    live: Mapping[str, Tensor]
    elements: Mapping[str, Tensor] = field(default_factory=dict)
    renewed: frozenset[str] = frozenset()
    units: Mapping[str, Tensor] = field(default_factory=dict)
    edits: Sequence[Edit] = ()
    edited: Mapping[str, Tensor] = field(default_factory=dict)
    held: Mapping[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def write_into(self, copy: Mapping[str, Tensor]) -> None:
        """Let a copy of weights jump too: by the same edits, and else to the present value; other elements stay.

        Buffers of a layer (the estimate of a spectral norm) belong to its weights and go with them.

        Args:
            copy: Tensors by the name of the parameter or buffer in the agent; others are left alone.
        """
        for edit in self.edits:
            edit(copy)
        for name in copy.keys() & (self.elements.keys() | self.edited.keys()):
            taken = ~self.edited[name] if name in self.edited else self.elements[name]
            copy[name].copy_(torch.where(taken, self.live[name], copy[name]))
        layers = {f"{name.rpartition('.')[0]}." for name in self.elements}
        for name in copy.keys() - self.elements.keys():
            buffer = name in self.live and not isinstance(self.live[name], nn.Parameter)
            if buffer and any(name.startswith(layer) for layer in layers):
                copy[name].copy_(self.live[name])


@dataclass
class Watch:
    """What is known of an intervention that is acting.

    Attributes:
        by: Its ``state_key``.
        parameters: The parameters that it declares, by name.
        before: Their values when it began.
        units: Units that it has replaced so far, as in :class:`Jump`.
        edits: Its edits so far that copies go through as well.
        after: Values that these gave to parameters, by name.
        held: As in :class:`Jump`.
    """

    by: str
    parameters: Mapping[str, Tensor]
    before: dict[str, Tensor]
    units: dict[str, Tensor] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    after: dict[str, Tensor] = field(default_factory=dict)
    held: dict[str, Tensor] = field(default_factory=dict)

    def renew_units(self, layer: str, units: Tensor) -> None:
        """Note that units (mask) were replaced by new ones."""
        self.units[layer] = self.units[layer] | units if layer in self.units else units.clone()

    def hold(self, parameter: Tensor, elements: Tensor) -> None:
        """Note that elements (a mask that broadcasts) of a parameter that it declares are kept at zero from now on."""
        name, mask = self.name_of(parameter), elements.expand_as(parameter)
        self.held[name] = self.held[name] | mask if name in self.held else mask

    def name_of(self, parameter: Tensor) -> str:
        """Return the name of a parameter that it declares."""
        return next(name for name, p in self.parameters.items() if p is parameter)

    def repeat(self, edit: Edit, changed: Sequence[str]) -> None:
        """Let copies go through an edit that was done just now, instead of taking over what it made of the weights.

        What is written over it later (a unit that is replaced) they do take over.

        Args:
            edit: The same edit, for a copy.
            changed: Names of the parameters that it changed.
        """
        self.edits.append(edit)
        self.after |= {name: self.parameters[name].detach().clone() for name in changed if name in self.parameters}


def listens(callback: RLCallback) -> bool:
    """Return whether a callback does anything when weights jump."""
    cls = type(callback)
    return cls.on_weights_jumped is not RLCallback.on_weights_jumped or cls.copies is not RLCallback.copies


def live_tensors(agent: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers of the agent by dotted name."""
    return {**dict(agent.named_parameters()), **dict(agent.named_buffers())}


class TellsOfJumps(SharedMeasurements):
    """The part of the agent protocol by which callbacks hear of weights that jump."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: list[RLCallback] = []
        self._watched: dict[str, dict[str, Tensor]] = {}
        self.watch: Watch | None = None
        """What is known of the intervention that is acting on weights, if one is."""

    def dispatch(self, hook: str, *args: Any) -> None:
        """Call a hook of all callbacks."""
        raise NotImplementedError

    def listen(self, callbacks: Sequence[RLCallback]) -> None:
        """Watch for those of ``callbacks`` that do anything when weights jump."""
        self._listeners, self._watched = [one for one in callbacks if listens(one)], {}

    def reinitialized(self, parameters: Sequence[Tensor]) -> None:
        """Tell every callback that ``parameters`` hold fresh initial values, all of their elements."""
        ids = {id(parameter) for parameter in parameters}
        whole = {name: p for name, p in self.named_parameters() if id(p) in ids}
        elements = {name: torch.ones_like(p, dtype=torch.bool) for name, p in whole.items()}
        if self.watch is not None:  # what is said here is not said again
            self.watch.before |= {name: p.detach().clone() for name, p in whole.items()}
        by = self.watch.by if self.watch is not None else ""
        self.weights_jumped(Jump(by, live_tensors(self), elements, renewed=frozenset(whole)))

    def weights_jumped(self, jump: Jump) -> None:
        """Tell every callback that weights changed at once, and not by learning."""
        self.forget_shared()
        self.dispatch("on_weights_jumped", jump)

    def others_listen(self, callback: RLCallback) -> bool:
        """Return whether a callback other than ``callback``, which knows what it does, minds weights that jump."""
        return any(one is not callback for one in self._listeners)

    def watched_parameters(self, callback: RLCallback) -> dict[str, Tensor]:
        """Return the parameters whose values ``callback`` may change, by name; looked up once."""
        if callback.state_key not in self._watched:
            names = callback.mutates(self).parameters
            self._watched[callback.state_key] = {name: p for name, p in self.named_parameters() if name in names}
        return self._watched[callback.state_key]


@contextmanager
def watched(agent: TellsOfJumps, callback: RLCallback) -> Iterator[None]:
    """Tell all callbacks afterwards which weights jumped, if ``callback`` moves any in the hook that now starts."""
    if not callback.moves_weights(agent):
        yield
        return
    names = agent.watched_parameters(callback)
    outer = agent.watch
    agent.watch = Watch(callback.state_key, names, {name: p.detach().clone() for name, p in names.items()})
    try:
        yield
        found = agent.watch
    finally:
        agent.watch = outer
    different = {name: p.detach() != found.before[name] for name, p in names.items()}
    if not different:
        return
    some = torch.stack([mask.any() for mask in different.values()]).tolist()  # the one wait for a GPU
    elements = {name: mask for (name, mask), any_ in zip(different.items(), some, strict=True) if any_}
    if elements:
        edited = {name: names[name].detach() == value for name, value in found.after.items()}
        jump = Jump(
            callback.state_key,
            live_tensors(agent),
            elements,
            units=found.units,
            edits=found.edits,
            edited=edited,
            held=found.held,
        )
        agent.weights_jumped(jump)
