"""The contract of interventions: when they act, where, and what they promise to touch.

They are Lightning callbacks with the hooks of :mod:`plasticity_rl.agents.hooks`.

Order never depends on the YAML: interventions act at the start of an update, sorted by family, then class name, then
``state_key``, those that put right what others did (``acts_last``) behind all; probes measure at its end. So "measure,
then intervene" always holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import RLCallback
from plasticity_rl.agents.jumps import SURGERY_HOOKS
from plasticity_rl.callback.declarations import BUILD_STAGES, FAMILIES
from plasticity_rl.errors import UserError, listed, one_of

ALL_ALONG = frozenset({"experience", "architecture", "optimizer", "regularizer"})
"""Families that work all along and by no event of their own, so that ``mutates`` may be left as it is."""
UNDECLARED = (
    "it says what its events change, e.g. return Mutation(parameters=agent.parameter_names([agent.module('critic')])), "
    "or return Mutation() where that is no weight, optimizer state or attribute; copies and averages follow only that"
)
"""What an intervention is told that does not define ``mutates``."""


class Intervention(RLCallback):
    """Changes something about learning and says exactly what. Most subclass a more specific base below."""

    intervenes = is_described = True
    family: ClassVar[str] = "surgery"
    inert_arguments: ClassVar[Mapping[str, Any] | None] = None
    """Arguments with which it changes nothing (law 2), or None where it acts by nature at the start."""
    incompatible_with: ClassVar[Mapping[str, str]] = {}
    """Class names of interventions that cannot run beside this one, each with the reason."""

    acts_on: ClassVar[str] = ""
    """What it reads of hidden units to decide whether to act: ``fraction of active units``, ``dormancy``, ``silence``.

    Where an activation pins that (``HiddenActivation.pinned``) it would act always or never, and is refused.
    """

    modules: list[str]
    """Modules by dotted name, of those that act on modules."""

    stage: ClassVar[str] = BUILD_STAGES[0]
    """One of ``BUILD_STAGES``; orders what several interventions of family architecture build."""

    _modules_are_open: bool = False

    def named_or_open(self, modules: Sequence[str] | None, published: Sequence[str]) -> list[str]:
        """Return the modules that were named, or those of the published agent until the agent gives its own.

        Args:
            modules: As given to the constructor; None where they are left to the agent.
            published: Names in DrQ-v2 from pixels: what the callback acts on where nobody calls :meth:`resolve`.
        """
        self._modules_are_open = modules is None
        return list(published) if modules is None else listed(f"{type(self).__name__}.modules", modules)

    def open_arguments(self) -> frozenset[str]:
        """Return the names of the arguments that were left to the agent."""
        return super().open_arguments() | (frozenset({"modules"}) if self._modules_are_open else frozenset())

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules of this agent to act on where none were named."""
        return agent.networks()

    def resolve(self, agent: RLModule) -> None:
        """Take the modules of this agent where none were named."""
        super().resolve(agent)
        if self._modules_are_open:
            self.modules = self.default_modules(agent)

    def lacks(self) -> Mapping[str, str]:
        """Return ``mutates`` where a hook of its own may act at an event and nothing says what that changes."""
        acts = any(getattr(type(self), hook) is not getattr(RLCallback, hook) for hook in SURGERY_HOOKS)
        return {"mutates": UNDECLARED} if acts and self.family not in ALL_ALONG and declares_nothing(type(self)) else {}

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether the hook that now starts may let weights jump, so that the agent has to watch."""
        return self.family != "experience"  # those move weights by updates

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return what no other intervention may do as well, e.g. ``{"replace the activation critic.Q1.1"}``."""
        return frozenset()

    def watched_modules(self) -> Sequence[str]:
        """Return the modules whose ``acts_on`` it reads."""
        return list(getattr(self, "modules", ()))

    def pins(self, agent: RLModule) -> Mapping[str, Mapping[str, str]]:
        """Return activations by dotted name that it puts in, each with what it pins as ``HiddenActivation.pinned``."""
        return {}

    @property
    def order(self) -> tuple[int, ...]:
        """Place among the interventions: that of its family, then of its stage; UserError where there is no such."""
        one_of(f"{type(self).__name__}.family", self.family, FAMILIES)
        one_of(f"{type(self).__name__}.stage", self.stage, BUILD_STAGES)
        return FAMILIES.index(self.family), BUILD_STAGES.index(self.stage)

    @property
    def only_from_the_start(self) -> bool:
        """Also what decides about the experience of a run from its first frame on."""
        return super().only_from_the_start or self.family == "experience"

    def conflict_with(self, agent: RLModule, other: Intervention) -> str | None:
        """Return why ``other`` cannot run beside this one on the agent as constructed, or None."""
        reason = self.incompatible_with.get(type(other).__name__)
        shared = sorted(self.claims(agent) & other.claims(agent))
        return reason or (f"both {shared[0]}" if shared else None) or self._acts_on_pinned(agent, other.pins(agent))

    def _acts_on_pinned(self, agent: RLModule, pinned: Mapping[str, Mapping[str, str]]) -> str | None:
        """Return why it cannot act on hidden units of ``agent`` with some activations, or None.

        Args:
            agent: As constructed, or as built.
            pinned: Dotted name of an activation -> what it pins, as ``HiddenActivation.pinned``.
        """
        for name in self.watched_modules() if self.acts_on and pinned else ():
            try:
                layers = agent.activation_layers(name)
            except UserError:  # a third will build it: checked again in ``setup``
                continue
            for path in (f"{name}.{sub}" for sub in layers):
                if self.acts_on in pinned.get(path, {}):
                    reason = pinned[path][self.acts_on]
                    return f"it acts on the {self.acts_on} of {path}, but there {reason}; let it watch other modules"
        return None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse wrong names, and quantities that the agent's own activations pin, before anything is trained."""
        agent = as_agent(pl_module)
        self.mutates(agent)
        for name in self.watched_modules() if self.acts_on else ():
            layers = {f"{name}.{sub}": layer for sub, layer in agent.activation_layers(name).items()}
            pinned = {path: getattr(own, "pinned", {}) for path, own in layers.items()}
            reason = self._acts_on_pinned(agent, pinned)
            if reason is not None:
                raise UserError(f"{type(self).__name__}: {reason}")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the agent's attributes that this intervention may have changed."""
        agent = as_agent(pl_module)
        attributes = checkpoint.setdefault("intervention_attributes", {})
        attributes.update({name: getattr(agent, name) for name in self.mutates(agent).attributes})

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set them as they were: the event that changed them does not fire again."""
        agent = as_agent(pl_module)
        attributes = checkpoint.get("intervention_attributes", {})
        for name in self.mutates(agent).attributes & attributes.keys():
            setattr(agent, name, attributes[name])


def declares_nothing(cls: type[Any]) -> bool:
    """Return whether a class of callbacks leaves ``mutates`` as it is below all of them."""
    return cls.mutates is RLCallback.mutates
