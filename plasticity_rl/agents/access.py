"""How callbacks reach into an agent: modules, targets, hidden units, optimizers, and modules that they add."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from plasticity_rl.agents.histogram import ValueHistogram
from plasticity_rl.agents.steps import Steps, steps_of
from plasticity_rl.errors import UserError, suggestion
from plasticity_rl.nn.hooks import HiddenActivation
from plasticity_rl.nn.layers import COMPUTES, Part, submodules
from plasticity_rl.nn.units import Reader, UnitLayer, layers_into_streams, unit_layers
from plasticity_rl.optim.parts import Make, replaced


class ModuleAccess(pl.LightningModule):
    """The part of the agent protocol that names things; callbacks go through it, not through an agent's attributes."""

    module_names: tuple[str, ...] = ()
    """Top-level modules that interventions and probes may name."""
    optimizer_names: tuple[str, ...] = ()
    """Names of the optimizers, in the order of ``configure_optimizers``."""
    loss_optimizers: Mapping[str, tuple[str, ...]] = {}
    """Names of the losses that callbacks may add to, each with the optimizers that step on it."""

    value_module: str = "critic"
    """Top-level module that puts out the values."""
    value_heads: tuple[str, ...] = ()
    """Its parts that each put out one value, e.g. ``("critic.Q1", "critic.Q2")``; empty where it is a single one."""
    takes_histogram: bool = False
    """Whether its value heads can put out logits over bins, see :meth:`classify_values`."""
    policy_module: str | None = "actor"
    """Top-level module that puts out actions in [-1, 1], or None."""

    lr: float
    """Learning rate of the optimizers."""

    def __init__(self) -> None:
        super().__init__()
        self.histogram: ValueHistogram | None = None
        """What the outputs of value heads are logits of; None: they are values."""
        self._extra_optimizers: dict[str, str] = {}
        self._optimizer_choices: dict[str, Make] = {}
        self._own_optimizers: list[torch.optim.Optimizer] | None = None
        self._steps: Steps | None = None
        self.static_updates: Any = None
        """What does the updates of the loop with ``cuda_graph``, once there was one: see ``graphs.py``."""

    def module(self, name: str) -> nn.Module:
        """Return a module by dotted name, e.g. ``critic`` or ``critic.Q1``.

        Raises:
            UserError: When there is none; the message lists what exists.
        """
        if name.split(".")[0] in self.module_names:
            try:
                return self.get_submodule(name)
            except AttributeError:
                pass
        names = [f"{top}.{sub}".rstrip(".") for top in self.module_names for sub, _ in _children(getattr(self, top))]
        raise UserError(f"no module {name!r} in {type(self).__name__}; there are {names}.{suggestion(name, names)}")

    def networks(self) -> list[str]:
        """Return the top-level modules that have layers of weights: what there is to look at; no temperature."""
        names = self.module_names
        return [name for name in names if any(p.ndim > 1 for p in getattr(self, name).parameters())]

    def networks_with_units(self) -> list[str]:
        """Return those of :meth:`networks` that have hidden activation layers."""
        return [name for name in self.networks() if self.activation_layers(name)]

    def feature_networks(self) -> list[str]:
        """Return those of :meth:`networks_with_units`, every value head by itself: each has one last hidden layer."""
        heads = {self.value_module: list(self.value_heads)} if self.value_heads else {}
        return [part for name in self.networks_with_units() for part in heads.get(name, [name])]

    def heads(self) -> list[str]:
        """Return the top-level modules that put out actions or values."""
        return [name for name in self.module_names if name in (self.policy_module, self.value_module)]

    def networks_trained_by(self, loss: str) -> list[str]:
        """Return those of :meth:`networks` that the optimizers of a loss step on."""
        # Optimizers of its own: those of the Trainer do not exist before training.
        optimizers: Any = self.configure_optimizers()
        chosen = [optimizers[self.optimizer_names.index(name)] for name in self.loss_optimizers[loss]]
        trained = {id(p) for optimizer in chosen for group in optimizer.param_groups for p in group["params"]}
        return [n for n in self.networks() if any(id(p) in trained for p in getattr(self, n).parameters())]

    def loss_that_trains(self, name: str) -> str:
        """Return the loss whose optimizers step on a top-level module; the agent's first where none does."""
        top = name.partition(".")[0]
        return next((loss for loss in self.loss_optimizers if top in self.networks_trained_by(loss)), self.first_loss())

    def first_loss(self) -> str:
        """Return the name of the agent's first loss."""
        return next(iter(self.loss_optimizers))

    def classify_values(self, histogram: ValueHistogram) -> None:
        """Read the outputs of value heads as logits over the bins of ``histogram``, and learn them by cross entropy.

        To be called from ``Intervention.build``, by what gives every output of the heads, and of their targets, as many
        outputs as there are bins.

        Raises:
            UserError: When the agent's values cannot be read so.
        """
        if not self.takes_histogram:
            raise UserError(f"the values of {type(self).__name__} are not learned by classification: it has to say how")
        self.histogram = histogram

    def values_of(self, outputs: Tensor) -> Tensor:
        """Return the values ``(..., 1)`` of what a value head put out: themselves, or the means of histograms."""
        return outputs if self.histogram is None else self.histogram.values(outputs)

    def value_metrics(self, target: Tensor) -> dict[str, Tensor]:
        """Return what is logged of targets ``(batch, 1)`` beside their mean: with a histogram, how many it clips."""
        return {} if self.histogram is None else {"q/clipped": self.histogram.fraction_outside(target)}

    def target_of(self, name: str) -> nn.Module | None:
        """Return the target network's twin of module ``name``, or None where the agent keeps no target of it.

        The twin of ``critic`` is the agent's ``critic_target``, if it has one, and so on.
        """
        top, _, sub = name.partition(".")
        twin = self._modules.get(f"{top}_target")
        return None if twin is None else twin.get_submodule(sub)

    def submodules(self, name: str, parts: Collection[Part] = COMPUTES) -> dict[str, nn.Module]:
        """Return what a module is made of by dotted name in it: what every probe, trigger and regularizer goes through.

        Args:
            name: Module by dotted name; itself under the name ``""``.
            parts: Parts that count: what computes the output (``COMPUTES``), what learns as well (``LEARNS``), or what
                the module had from the start (``FIRST``); see :mod:`plasticity_rl.nn.layers`.
        """
        return submodules(self.module(name), parts=parts)

    def activation_layers(self, name: str, parts: Collection[Part] = COMPUTES) -> dict[str, nn.Module]:
        """Return the hidden activation layers of a module by dotted name, in forward order; see ``submodules``."""
        inside = self.submodules(name, parts)
        return {sub: layer for sub, layer in inside.items() if isinstance(layer, (nn.ReLU, HiddenActivation))}

    def units(self, name: str) -> list[UnitLayer]:
        """Return the hidden units of a module by dotted name, in forward order: who makes them, who reads them.

        Those that are a residual stream, which no layer makes by itself, are left out.

        Raises:
            UserError: When a layer of units is built in a way that does not tell.
        """
        top = name.partition(".")[0]  # readers may lie outside the submodule
        streams = {id(layer) for layer in layers_into_streams(self.module(top))}
        wanted = [layer for layer in self.activation_layers(name).values() if id(layer) not in streams]
        found = unit_layers(self.module(top), top, wanted, self.target_of, self.output_readers(top))
        if len(found) < len({id(layer) for layer in wanted}):
            raise UserError(f"cannot tell which layers read the units of {name!r}: some lie outside an nn.Sequential")
        if unread := [layer.name for layer in found if not layer.readers]:
            raise UserError(f"{type(self).__name__} does not say which layers read the units of {unread[0]!r}")
        return found

    def output_readers(self, name: str) -> Sequence[Reader]:
        """Return every layer that reads the output of top-level module ``name``, in target networks as well.

        To be given by agents for modules that end in hidden units, such as an encoder.
        """
        return ()

    def state_readers(self) -> Mapping[str, int]:
        """Return every ``nn.Sequential`` that reads a state observation by dotted name, and the size of the state.

        The state is the first of its inputs. Empty where observations are images.
        """
        return {}

    def init_layer(self, layer: nn.Module, generator: torch.Generator | None = None) -> None:
        """Initialise one layer in place, as at construction."""
        raise NotImplementedError

    def add_extra(self, name: str, module: nn.Module, optimizer: str) -> None:
        """Register a further module, ``extras.<name>``, that an optimizer of the agent trains.

        For modules that a callback brings along, such as an auxiliary head. To be called from ``Intervention.build``,
        before optimizers exist.

        Args:
            name: Name of the module, without dots.
            module: Its parameters join the optimizer's after the agent's own.
            optimizer: One of ``optimizer_names``.

        Raises:
            UserError: When there is no such optimizer, or the name is taken.
        """
        if optimizer not in self.optimizer_names:
            raise UserError(f"no optimizer {optimizer!r} in {type(self).__name__}; there are {self.optimizer_names}")
        if "extras" not in self._modules:  # not before it is needed: without extras an agent has its published children
            self.extras = nn.ModuleDict()
        if name in self.extras:
            raise UserError(f"{type(self).__name__} already has an extra module {name!r}")
        self.extras[name] = module
        self._extra_optimizers[name] = optimizer

    def extra_parameters(self, optimizer: str) -> list[nn.Parameter]:
        """Return the parameters of the extra modules that ``optimizer`` trains; for ``configure_optimizers``."""
        own = [name for name, theirs in self._extra_optimizers.items() if theirs == optimizer]
        return [parameter for name in own for parameter in self.extras[name].parameters()]

    def adam(self, name: str) -> torch.optim.Adam:
        """Return an Adam for module ``name`` and the extras that its optimizer trains; for ``configure_optimizers``.

        It steps on all of them in one call (``fused``): the published arithmetic, rounded in another order.
        """
        return torch.optim.Adam([*self.module(name).parameters(), *self.extra_parameters(name)], lr=self.lr, fused=True)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one optimizer for each of ``optimizer_names``: an Adam, unless the agent says otherwise."""
        return self.with_choices([self.adam(name) for name in self.optimizer_names])

    def choose_optimizer(self, name: str, make: Make) -> None:
        """Let another optimizer step on the parameters of a module; to be called from ``Intervention.build``.

        What callbacks bring along (:meth:`add_extra`) is still stepped on by the agent's own.

        Args:
            name: Module by dotted name.
            make: Makes it; given the agent's optimizer, made for these parameters alone. Called again for every list
                of optimizers that is configured.

        Raises:
            UserError: When there is no such module, or the optimizer of a part of it was chosen before.
        """
        self.module(name)
        for other in self._optimizer_choices:
            if f"{other}.".startswith(f"{name}.") or f"{name}.".startswith(f"{other}."):
                raise UserError(f"the optimizer of {name!r} is chosen twice, with that of {other!r}: name one of them")
        self._optimizer_choices[name] = make

    def with_choices(self, optimizers: Sequence[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
        """Return the agent's own optimizers with what callbacks chose in their place; for ``configure_optimizers``."""
        choices = [(list(self.module(name).parameters()), make) for name, make in self._optimizer_choices.items()]
        return [replaced(optimizer, choices) for optimizer in optimizers]

    def optimizer_by_name(self, name: str) -> Any:
        """Return an optimizer by its name: Lightning's while a Trainer is attached, else one owned by the module."""
        return self._optimizers()[self.optimizer_names.index(name)]

    def optimizer_of(self, parameter: Tensor) -> torch.optim.Optimizer | None:
        """Return the torch optimizer that updates ``parameter``, or None."""
        for wrapped in self._optimizers():
            optimizer = getattr(wrapped, "optimizer", wrapped)
            if any(p is parameter for group in optimizer.param_groups for p in group["params"]):
                return optimizer
        return None

    def parameter_names(self, modules: Iterable[nn.Module]) -> frozenset[str]:
        """Return the names, as in ``named_parameters()``, of all parameters of ``modules``."""
        wanted = {id(p) for module in modules for p in module.parameters()}
        return frozenset(name for name, p in self.named_parameters() if id(p) in wanted)

    def _optimizers(self) -> Sequence[Any]:
        if self._trainer is not None:
            found: Any = self.optimizers()
            return found if isinstance(found, list) else [found]  # Lightning gives a single one by itself
        if self._own_optimizers is None:
            self._own_optimizers = list(self.configure_optimizers())
        return self._own_optimizers

    def minimize(self, loss: Tensor, *optimizer_names: str, max_norm: float | None = None) -> None:
        """Step the named optimizers on ``loss``, with gradients for their own parameters and no others.

        Args:
            loss: Scalar with gradient.
            *optimizer_names: Some of ``optimizer_names``.
            max_norm: Largest norm of the gradients of all these parameters together, of the batch of all ranks; larger
                ones are scaled down.
        """
        steps = self.stepping()
        optimizers = [steps.optimizers[self.optimizer_names.index(name)] for name in optimizer_names]
        owned = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        for parameter in owned:  # what zero_grad does, in less time; frozen ones too, or they would be stepped again
            parameter.grad = None
        parameters = [p for p in owned if p.requires_grad]
        steps.backward(loss, parameters)
        if max_norm is not None:
            steps.clip(parameters, max_norm)
        steps.step(optimizers)

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes a copy, or a pickle: without the optimizers of the Trainer, which stays with this one."""
        return {**super().__getstate__(), "_steps": None, "static_updates": None}

    def stepping(self) -> Steps:
        """Return how it steps: in a Trainer decided at the first update of a fit, see ``steps.py``."""
        if self._trainer is None:
            return Steps(self._optimizers())
        if self._steps is None:
            self._steps = steps_of(self, self._optimizers())
        return self._steps


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [("", module), *((name, child) for name, child in module.named_children())]
