"""Step by the gradient at weights that were moved uphill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Intervention
from plasticity_rl.callback.gradient_probes import (
    flat_gradient,
    probe_generator,
    refuse_without,
    trained_parameters,
)
from plasticity_rl.distributed.ranks import over_ranks
from plasticity_rl.errors import UserError, within
from plasticity_rl.nn.hooks import evaluation_mode


class SharpnessAware(Intervention):
    """Sharpness-aware minimization (SAM): the loss steps by its gradient at ``theta + rho * g / |g|``.

    Right before an update, g is the gradient of the loss that trains the modules on the batch of the update, with
    respect to all their weights together, and they are moved by ``rho`` along it. The update then evaluates the loss
    there, targets too where they depend on the modules; before its optimizers step, the weights are put back, bit for
    bit. One more forward and backward pass of that loss per update.

    Mutates: nothing but by the gradient: weights are where they were before the optimizers of the loss step. With
        ``rho: 0`` nothing at all.
    Logs: nothing of its own; the loss that the agent logs is that at the moved weights.
    Reference: Foret et al. 2021 (arXiv 2010.01412), Eq. 2; on agents Lee et al. 2023 (arXiv 2306.10711), PLASTIC: by
        their code rho 0.1 for the encoder of DrQ on Atari, 0.01 for that of DrQ on DeepMind Control (0.002 on Cheetah
        Run), not adaptive, with Adam. PLASTIC has layer norm, CReLU and resets of all that is behind the encoder beside
        it: ``LayerNorm``, ``CReLU`` and ``Reset``.
    Differences from the original: g is that on the batch as sampled, without augmentation and without the terms of
        regularizers, which the second gradient has; its noise is drawn anew. What is trained beside the modules stays
        where it is, and gets its gradient at the moved ones too. PLASTIC's code moves all that the loss trains, so that
        rho is the length of the whole way and the encoder's part is shorter; the rest then steps by the first gradient
        (DeepMind Control) or by the sum of both (Atari). The actor of DrQ-v2 takes over the features of that pass,
        those of the moved encoder. Updates that another callback makes by itself (``HeavyPriming``) are such steps too.

    Args:
        modules: Modules by dotted name that one loss trains together; None for the encoder that is trained, else for
            the module of the values.
        rho: Length of the way uphill, >= 0.

    Raises:
        UserError: When ``rho`` is negative, several losses train the modules, or the agent has no losses to look at.
    """

    reads = frozenset({"gradients"})
    writes = frozenset({"loss"})
    cuda_graph = "eager"
    family = "regularizer"
    example_arguments: ClassVar[Mapping[str, Any]] = {"rho": 0.02}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"rho": 0.0}

    def __init__(self, *, modules: Sequence[str] | None = None, rho: float = 0.01) -> None:
        within("SharpnessAware.rho", rho, "[0, inf]", "; published: 0.1 on Atari, 0.01 on DeepMind Control")
        self.modules, self.rho = self.named_or_open(modules, ("encoder",)), rho
        self._before: dict[nn.Parameter, Tensor] = {}
        self._handles: list[Any] = []

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the networks that the loss of the values trains, but for those that put out values or actions."""
        trained = agent.networks_trained_by(agent.loss_that_trains(agent.value_module))
        return [name for name in trained if name not in agent.heads()] or [agent.value_module]

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the modules whose weights it moves for the time of a pass."""
        return frozenset(f"move {name.partition('.')[0]} uphill" for name in self.modules)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse wrong names, modules of several losses, and agents without losses to look at."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        refuse_without(agent, "loss_on", self)
        losses = {agent.loss_that_trains(name) for name in self.modules if agent.module(name) is not None}
        if len(losses) > 1:
            raise UserError(
                f"SharpnessAware.modules={self.modules} are trained by the losses {sorted(losses)}: name those of one "
                "loss, and use a second SharpnessAware for the others"
            )
        (self._loss,) = losses
        self._before, self._handles = {}, []

    def on_batch(self, agent: RLModule, batch: TensorDictBase) -> None:
        """Move the modules uphill, until the first optimizer of their loss steps."""
        parameters = list(trained_parameters(agent, self.modules).values()) if self.rho else []
        if not parameters:
            return
        noise = probe_generator(agent, f"intervention/{self.state_key}")
        with evaluation_mode(agent), torch.enable_grad():
            gradient = over_ranks(agent, flat_gradient(agent.loss_on(self._loss, batch, noise), parameters))
        self._before = {p: p.detach().clone() for p in parameters}
        move_along(parameters, gradient, self.rho)
        optimizers = [agent.optimizer_by_name(name) for name in agent.loss_optimizers[self._loss]]
        stepping = [getattr(wrapped, "optimizer", wrapped) for wrapped in optimizers]
        self._handles = [optimizer.register_step_pre_hook(self._put_back) for optimizer in stepping]

    @torch.no_grad()
    def _put_back(self, *_: Any) -> None:
        for parameter, value in self._before.items():
            parameter.copy_(value)
        self._before = {}

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Remove the hooks, which an optimizer must not lose while it calls them."""
        assert not self._before, "no optimizer of the loss has stepped"
        for handle in self._handles:
            handle.remove()
        self._handles = []


@torch.no_grad()
def move_along(parameters: Sequence[Tensor], direction: Tensor, length: float) -> None:
    """Add ``length * d / |d|`` to parameters, in place; nothing where the direction is zero or not finite.

    Args:
        parameters: Edited in place.
        direction: d, a vector ``(p,)`` of all their elements, one after the other.
        length: Length of the way.
    """
    norm = direction.norm()
    step = torch.where(norm.isfinite() & (norm > 0), direction * (length / norm), 0.0)
    for parameter, own in zip(parameters, step.split([p.numel() for p in parameters]), strict=True):
        parameter.add_(own.view_as(parameter))
