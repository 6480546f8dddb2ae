"""Base of probes that need gradients of their own, and the gradients: none of them touches a parameter's ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.module_probes import ModuleProbe
from plasticity_rl.errors import UserError
from plasticity_rl.nn.hooks import evaluation_mode, hooked
from plasticity_rl.rng import derive_seed

Key = TypeVar("Key")


def refuse_without(agent: RLModule, method: str, probe: object) -> None:
    """Raise UserError when the agent does not give what the probe asks for."""
    if getattr(type(agent), method) is getattr(RLModule, method):
        raise UserError(f"{type(probe).__name__} needs an agent with {method}, which {type(agent).__name__} lacks")


def refuse_unknown_loss(agent: RLModule, loss: str, probe: object) -> None:
    """Raise UserError when the agent has no loss of this name."""
    if loss not in agent.loss_optimizers:
        names = list(agent.loss_optimizers)
        raise UserError(f"{type(probe).__name__}.loss={loss!r}: {type(agent).__name__} has the losses {names}")


def loss_stepping_on(agent: RLModule, name: str) -> str:
    """Return the loss whose optimizers step on a module, by dotted name; the agent's first where none does."""
    own = {id(p) for p in agent.module(name).parameters()}
    for loss, optimizers in agent.loss_optimizers.items():
        groups = [group for optimizer in optimizers for group in agent.optimizer_by_name(optimizer).param_groups]
        if any(id(p) in own for group in groups for p in group["params"]):
            return loss
    return agent.first_loss()


def modules_by_loss(agent: RLModule, names: Iterable[str]) -> dict[str, list[str]]:
    """Return modules by the loss that trains them, see :func:`loss_stepping_on`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(loss_stepping_on(agent, name), []).append(name)
    return groups


class LossProbe(ModuleProbe):
    """A probe of one of the agent's losses on the shared probe batch, as a function of the weights of chosen modules.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for the networks that the loss trains.
        loss: One of the agent's losses; None for that of the values.
        batch_size: Transitions in the probe batch.
    """

    reads = frozenset({"gradients"})

    loss: str

    def __init__(
        self, *, every_n_updates: int, modules: Sequence[str] | None, loss: str | None, batch_size: int
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules)
        self.batch_size = self.enough(batch_size)
        self.loss = loss or ""
        self.leave_open(loss=loss)

    def default_for(self, argument: str, agent: RLModule) -> Any:
        """Return the loss of the values, or the networks that the loss trains."""
        if argument == "loss":
            return agent.loss_that_trains(agent.value_module)
        return super().default_for(argument, agent)

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the networks that the loss trains."""
        known = self.loss in agent.loss_optimizers  # another one is refused in setup, by a better message
        return agent.networks_trained_by(self.loss) if known else agent.networks()

    def resolve(self, agent: RLModule) -> None:
        """Fill in the loss before the modules, which depend on it."""
        if "loss" in self._left_open:
            self.loss = self.default_for("loss", agent)
        super().resolve(agent)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse unknown modules and losses before training."""
        super().setup(trainer, pl_module, stage)
        refuse_without(as_agent(pl_module), "loss_on", self)
        refuse_unknown_loss(as_agent(pl_module), self.loss, self)


class OutputProbe(ModuleProbe):
    """A probe of the output of one module on the shared probe batch, as a function of the weights of chosen modules.

    Args:
        every_n_updates: Period in gradient updates.
        output: Top-level module; None for that of the values.
        modules: Modules by dotted name; their weights vary, all others stay as they are. None for the networks that
            the output's loss trains.
        batch_size: Transitions in the probe batch.
    """

    reads = frozenset({"gradients"})

    output: str

    def __init__(
        self, *, every_n_updates: int, output: str | None, modules: Sequence[str] | None, batch_size: int
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules)
        self.batch_size = self.enough(batch_size)
        self.output = output or ""
        self.leave_open(output=output)

    def default_for(self, argument: str, agent: RLModule) -> Any:
        """Return the module of the values, or the networks that the output's loss trains."""
        return agent.value_module if argument == "output" else super().default_for(argument, agent)

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the networks that the output's loss trains."""
        return agent.networks_trained_by(agent.loss_that_trains(self.output))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse unknown modules and outputs before training."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        if self.output not in agent.module_names:
            raise UserError(
                f"{type(self).__name__}.output={self.output!r} must be a top-level module of {type(agent).__name__}: "
                f"{list(agent.module_names)}"
            )


def probe_generator(agent: RLModule, name: str) -> torch.Generator:
    """Return a generator on the agent's device under a seed of this update: nothing to save, no other one moves."""
    return torch.Generator(agent.device).manual_seed(derive_seed(agent.rng.seed, f"probe/{name}/{agent.num_updates}"))


def trained_parameters(agent: RLModule, modules: Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the parameters of modules that are not frozen, by their names in the agent, each once."""
    names = agent.parameter_names(agent.module(name) for name in modules)
    return {name: p for name, p in agent.named_parameters() if name in names and p.requires_grad}


def flat_gradient(
    value: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False, retain_graph: bool | None = None
) -> Tensor:
    """Return the gradient of a scalar in one vector ``(p,)``; zeros for parameters that it does not depend on."""
    parts = torch.autograd.grad(
        value,
        parameters,
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([part.flatten() for part in parts])


def per_sample_gradients(
    agent: RLModule,
    value: Callable[[TensorDictBase], Tensor],
    batch: TensorDictBase,
    parameters: Sequence[Tensor],
) -> Tensor:
    """Return the gradient ``(n, p)`` of ``value`` on every transition of a batch alone, one after the other.

    Args:
        agent: Put into evaluation mode meanwhile.
        value: Maps a batch of one transition to a scalar with gradient.
        batch: ``[n]``.
        parameters: What to differentiate by.
    """
    first = parameters[0]
    rows = torch.empty(len(batch), sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
    with evaluation_mode(agent), torch.enable_grad():
        for index in range(len(batch)):
            rows[index] = flat_gradient(value(batch[index : index + 1]), parameters)
    return rows


def activation_gradients(
    agent: RLModule, loss: str, layers: Mapping[Key, nn.Module], batch: TensorDictBase, generator: torch.Generator
) -> dict[Key, Tensor]:
    """Return the gradient of a loss with respect to the outputs of hidden layers.

    Args:
        agent: Put into evaluation mode meanwhile.
        loss: One of the agent's losses.
        layers: Activation layers by a key of any kind.
        batch: ``[B]`` with the keys of a training batch.
        generator: Source of the loss's noise.

    Returns:
        Tensors of the shape of the outputs, ``(B, units)`` or ``(B, channels, height, width)``, by key; of the first
        pass with gradient. Zeros where the loss does not depend on the output; layers that do not run are left out.
    """
    outputs: dict[Key, Tensor] = {}

    def recorder(key: Key) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(_: nn.Module, __: Any, output: Tensor) -> None:
            if torch.is_grad_enabled() and key not in outputs:
                # Behind a frozen encoder an output needs no gradient of its own accord.
                outputs[key] = output if output.requires_grad else output.requires_grad_()

        return record

    with evaluation_mode(agent), torch.enable_grad():
        with hooked(layer.register_forward_hook(recorder(key)) for key, layer in layers.items()):
            value = agent.loss_on(loss, batch, generator)
        if not outputs:
            return {}
        gradients = torch.autograd.grad(value, list(outputs.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(outputs, gradients, strict=True))


def hessian_product(
    agent: RLModule, loss: str, batch: TensorDictBase, parameters: Sequence[Tensor], generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """Return the function ``v -> H v`` of the Hessian of a loss by ``parameters``, vectors ``(p,)``.

    Holds the graph of the gradient as long as the function lives. Targets count as constants.
    """
    with evaluation_mode(agent), torch.enable_grad():
        gradient = flat_gradient(agent.loss_on(loss, batch, generator), parameters, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:  # a loss linear in the parameters
            return torch.zeros_like(vector)
        return flat_gradient(gradient @ vector, parameters, retain_graph=True)

    return product
