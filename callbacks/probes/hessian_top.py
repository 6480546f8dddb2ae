"""Eigenvalue of largest magnitude of a loss's Hessian."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import ONE, Layout
from plasticity_rl.callback.gradient_probes import LossProbe, hessian_product, probe_generator, trained_parameters
from plasticity_rl.callback.module_probes import or_nan
from plasticity_rl.errors import at_least, at_most
from plasticity_rl.measures import Eigenvalue, top_eigenvalue


class HessianTop(LossProbe):
    """Eigenvalue of largest magnitude, with its sign, of the Hessian of a loss by the weights of ``modules``.

    By power iteration on Hessian-vector products, from a random vector under a seed of the update, on a batch of the
    replay, without augmentation and without the terms of regularizers, after the update's step. Targets of the value
    count as constants, as in the update.

    Mutates: nothing.
    Logs: ``hessian_top/<modules>/eigenvalue`` and ``hessian_top/<modules>/residual``, within which an eigenvalue lies;
        NaN while the loss is not finite or all modules are frozen. Modules are joined by ``+``.
    Reference: one of the three quantities that Klein et al. 2024 (arXiv 2411.04832) propose to report as a standard,
        there the largest eigenvalue.
    Differences from the original: the eigenvalue of largest magnitude, which may be negative, instead of the largest
        one.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for those that the loss trains.
        loss: One of the agent's losses; None for that of the values.
        num_iterations: Hessian-vector products; each costs about two gradients of the batch.
        batch_size: Transitions in the probe batch.

    Raises:
        UserError: When ``num_iterations`` is not positive.
    """

    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 7, "num_iterations": 2, "batch_size": 3}

    def __init__(
        self,
        *,
        every_n_updates: int = 10_000,
        modules: Sequence[str] | None = None,
        loss: str | None = None,
        num_iterations: int = 20,
        batch_size: int = 128,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, loss=loss, batch_size=batch_size)
        at_least("HessianTop.num_iterations", num_iterations, 1)
        reason = "each costs two gradients, and power iteration has settled long before; default 20"
        at_most("HessianTop.num_iterations", num_iterations, 10_000, reason)
        self.num_iterations = num_iterations

    def tags(self) -> frozenset[str]:
        """Return what :meth:`measure` writes."""
        return frozenset(f"hessian_top/{self.joined_modules}/{name}" for name in ("eigenvalue", "residual"))

    def charts(self) -> Layout:
        """Return a chart of the eigenvalue."""
        return {"Learning dynamics": {"Curvature: eigenvalue of largest magnitude": [f"hessian_top/{ONE}/eigenvalue"]}}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the eigenvalue and its residual."""
        found = or_nan(self._eigenvalue, agent)
        if not isinstance(found, Eigenvalue):
            found = Eigenvalue(math.nan, math.nan)
        tag = f"hessian_top/{self.joined_modules}"
        return {f"{tag}/eigenvalue": found.value, f"{tag}/residual": found.residual}

    def _eigenvalue(self, agent: RLModule) -> Eigenvalue | None:
        parameters = list(trained_parameters(agent, self.modules).values())
        if not parameters:
            return None
        batch, noise = agent.probe_batch(self.batch_size), probe_generator(agent, "noise")
        product = hessian_product(agent, self.loss, batch, parameters, noise)
        size = sum(p.numel() for p in parameters)
        generator = probe_generator(agent, "hessian_top")
        start = torch.randn(size, generator=generator, device=agent.device, dtype=parameters[0].dtype)
        return top_eigenvalue(product, start, self.num_iterations)
