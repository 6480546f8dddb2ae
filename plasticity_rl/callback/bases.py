"""The contract of interventions and probes: when they act, where, and what they promise to touch.

Both are Lightning callbacks with the hooks of :mod:`plasticity_rl.agents.hooks`.

Order never depends on the YAML: interventions act at the start of an update, sorted by family, then class name, then
``state_key``; probes measure at its end. So "measure, then intervene" always holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import Mutation as Mutation
from plasticity_rl.agents.hooks import RLCallback as RLCallback
from plasticity_rl.callback.declarations import BUILD_STAGES, FAMILIES
from plasticity_rl.errors import UserError, within
from plasticity_rl.schedules import Events


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
        return list(published if modules is None else modules)

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
        """Place among the interventions: that of its family, then of its stage."""
        return FAMILIES.index(self.family), BUILD_STAGES.index(self.stage)

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


class ScheduledIntervention(Intervention):
    """An intervention that acts at events of a schedule in env frames.

    An event due at frame N acts at the first update after frame N, hence after the evaluation at frame N. Where that
    update belongs to the last env step before an evaluation, an event that sets the agent back
    (``waits_for_evaluation``) waits until after it.

    Args:
        every_n_frames: Period in env frames, or None.
        at_frames: Env frames of single events.
    """

    waits_for_evaluation: ClassVar[bool] = False
    """Whether its events lower the return for a while, so that none may come right before an evaluation."""

    def __init__(self, *, every_n_frames: int | None = None, at_frames: Sequence[int] = ()) -> None:
        self.every_n_frames, self.at_frames = every_n_frames, list(at_frames)
        option = f"{type(self).__name__}.every_n_frames / at_frames"
        self.events = Events(every=every_n_frames, at=self.at_frames, option=option)

    def act(self, agent: RLModule) -> str:
        """Do it, and return one line that says what was done."""
        raise NotImplementedError

    def now(self, agent: RLModule) -> int:
        """Return the clock of the schedule."""
        return agent.env_frames

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether an event is due."""
        return self.events.due(self.now(agent))

    def on_update_start(self, agent: RLModule) -> None:
        """Act when an event is due, and log it."""
        if self.waits_for_evaluation and _evaluation_follows(agent):
            return
        if self.events.fire(self.now(agent)):
            agent.log_event(self.name, self.act(agent))

    def state_dict(self) -> dict[str, Any]:
        """Return how many events have been seen."""
        return {"seen": self.events.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.events.seen = state_dict["seen"]


class UpdateIntervention(ScheduledIntervention):
    """An intervention that acts after every ``every_n_updates`` gradient updates, at the start of the next one.

    Args:
        every_n_updates: Period in gradient updates.
    """

    def __init__(self, *, every_n_updates: int) -> None:
        self.every_n_updates = every_n_updates
        self.events = Events(every=every_n_updates, option=f"{type(self).__name__}.every_n_updates")

    def now(self, agent: RLModule) -> int:
        """Return the number of the update that now starts, counted from 1."""
        return agent.num_updates + 1


class Regularizer(Intervention):
    """Adds ``coefficient * penalty`` to one of the agent's losses; with coefficient 0 it adds nothing at all.

    Args:
        coefficient: Weight of the penalty, >= 0.
        modules: Modules by dotted name that the penalty looks at; None for the module of the values.
        loss: Loss that it is added to: ``critic`` (which also trains the encoder) or ``actor``; None for that of the
            values.

    Raises:
        UserError: When the coefficient is negative.
    """

    family = "regularizer"
    writes = frozenset({"loss"})
    published_modules: ClassVar[tuple[str, ...]] = ("critic",)

    def __init__(self, *, coefficient: float, modules: Sequence[str] | None, loss: str | None) -> None:
        within(f"{type(self).__name__}.coefficient", coefficient, "[0, inf]")
        self.coefficient, self.modules = coefficient, self.named_or_open(modules, self.published_modules)
        self._loss_is_open, self.loss = loss is None, loss or "critic"

    def open_arguments(self) -> frozenset[str]:
        """Return the names of the arguments that were left to the agent."""
        return super().open_arguments() | (frozenset({"loss"}) if self._loss_is_open else frozenset())

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the module of the values."""
        return [agent.value_module]

    def resolve(self, agent: RLModule) -> None:
        """Take the modules of this agent, and the loss of its values, where none were named."""
        super().resolve(agent)
        if self._loss_is_open:
            self.loss = agent.loss_that_trains(agent.value_module)

    def penalty(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        """Return the unweighted penalty, a scalar with gradient; for ``batch`` see :meth:`RLModule.add_loss_term`."""
        raise NotImplementedError

    def tags(self) -> frozenset[str]:
        """Return the tag of the term."""
        return frozenset([f"intervention/{self.name}/{'+'.join(self.modules)}/loss"] if self.coefficient > 0 else [])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse wrong names before anything is trained."""
        super().setup(trainer, pl_module, stage)
        for name in self.modules:
            as_agent(pl_module).module(name)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the term to the loss; not in ``setup``, after which the agent forgets the terms of earlier runs."""
        agent = as_agent(pl_module)
        if self.coefficient > 0:
            self._refuse_untrained(agent)
            tag = f"intervention/{self.name}/{'+'.join(self.modules)}"
            agent.add_loss_term(self.loss, tag, lambda batch: self.coefficient * self.penalty(agent, batch))

    def _refuse_untrained(self, agent: RLModule) -> None:
        optimizers = [agent.optimizer_by_name(name) for name in agent.loss_optimizers.get(self.loss, ())]
        parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        frozen_from_the_start = agent.num_updates == 0  # later, an injection may have frozen a head that did learn
        trained = {id(p) for p in parameters if p.requires_grad or not frozen_from_the_start}
        for name in self.modules:
            if optimizers and not any(id(p) in trained for p in agent.module(name).parameters()):
                raise UserError(
                    f"{type(self).__name__}: the {self.loss} loss does not train {name!r}, so the penalty would do "
                    f"nothing; choose another of the losses {list(agent.loss_optimizers)}"
                )


class Probe(RLCallback):
    """Measures something at the end of an update and changes nothing.

    Args:
        every_n_updates: Period in gradient updates.
    """

    is_described = True
    writes = frozenset()
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 1}

    def __init__(self, *, every_n_updates: int = 100) -> None:
        self.every_n_updates = every_n_updates
        self.events = Events(every=every_n_updates, option=f"{type(self).__name__}.every_n_updates")
        self._due = False

    @property
    def watches_update(self) -> bool:
        """Whether it looks at an update and not only at what the update leaves behind.

        Of a checkpoint, such a probe is measured around one more update, every other on the weights as they are.
        """
        return type(self).begin is not Probe.begin

    def begin(self, agent: RLModule) -> None:
        """Called before an update that is to be measured, for example to install hooks."""

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Called after it; remove the hooks, and return scalars by tag."""
        raise NotImplementedError

    def on_update_start(self, agent: RLModule) -> None:
        """Begin when the update that now starts completes a period."""
        self._due = self.events.fire(agent.num_updates + 2)
        if self._due:
            self.begin(agent)

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Measure and log."""
        if self._due:
            agent.log_scalars(self.measure(agent, batch, metrics))

    def state_dict(self) -> dict[str, Any]:
        """Return how many measurements were due so far."""
        return {"seen": self.events.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.events.seen = state_dict["seen"]


def _evaluation_follows(agent: RLModule) -> bool:
    frames, data = agent.env_frames, agent.data
    return frames % data.eval_every_n_frames == 0 or frames >= data.max_frames
