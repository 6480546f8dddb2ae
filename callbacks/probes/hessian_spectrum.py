"""Spectrum and effective rank of a loss's Hessian."""

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
from plasticity_rl.measures import SpectralDensity, spectral_density

NAMES = ("largest", "smallest", "trace", "negative_mass", "effective_rank", "srank")


class HessianSpectrum(LossProbe):
    """Ends, signs and effective rank of the spectrum of the Hessian of a loss by the weights of ``modules``.

    By stochastic Lanczos quadrature on Hessian-vector products, from random vectors under a seed of the update, on a
    batch of the replay, without augmentation and without the terms of regularizers, after the update's step. Targets
    of the value count as constants. The two ends are eigenvalues found by Lanczos' method; trace, negative mass and
    both ranks are integrals over the estimated density of all eigenvalues, most of which lie near zero. All vectors of
    one start are held at once: ``num_steps`` times the size of the modules.

    How exact: of a critic of 2402 weights after 300 updates, with the defaults on six vectors against all eigenvalues,
    the trace varied by a third of itself (by 0.8 in a fresh critic, where plus and minus nearly cancel), the negative
    mass by 0.06 around the exact 0.32, the effective rank by 137 around 418 (exact: 462; fresh 725 for 520). The srank
    is far too large (1931 for 1488, fresh 2305 for 1480): it is decided by the many small eigenvalues, which 30 steps
    do not tell apart. Compare it only between runs with the same ``num_steps`` and ``modules``.

    Mutates: nothing.
    Logs: ``hessian_spectrum/<modules>/largest``, ``hessian_spectrum/<modules>/smallest`` (most negative),
        ``hessian_spectrum/<modules>/trace``, ``hessian_spectrum/<modules>/negative_mass`` (share of the sum of
        magnitudes that eigenvalues below zero make up, in [0, 1]),
        ``hessian_spectrum/<modules>/effective_rank`` (exponential of the entropy of the magnitudes) and
        ``hessian_spectrum/<modules>/srank`` (number of magnitudes that make up 99 % of their sum), both up to the
        number of weights; NaN while the loss is not finite or all modules are frozen. Modules are joined by ``+``.
    Reference: Ghorbani et al. 2019 (arXiv 1901.10159), the density; Lewandowski et al. 2023 (arXiv 2312.00246), loss of
        rank of the Hessian as the explanation of loss of plasticity.
    Differences from the original: one random vector and 30 steps by default, which give trace and effective rank to
        about a third; both ranks are of the estimated density. The share of negative eigenvalues by number is not
        logged: 30 steps do not resolve it (0.79 on average where 0.42 was exact).

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; None for those that the loss trains.
        loss: One of the agent's losses; None for that of the values.
        num_steps: Hessian-vector products for each vector; each costs about two gradients of the batch.
        num_vectors: Random vectors to average over.
        batch_size: Transitions in the probe batch.

    Raises:
        UserError: When a number is not positive.
    """

    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 7, "num_steps": 2, "batch_size": 3}

    def __init__(
        self,
        *,
        every_n_updates: int = 50_000,
        modules: Sequence[str] | None = None,
        loss: str | None = None,
        num_steps: int = 30,
        num_vectors: int = 1,
        batch_size: int = 128,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, loss=loss, batch_size=batch_size)
        for name, value in {"num_steps": num_steps, "num_vectors": num_vectors}.items():
            at_least(f"HessianSpectrum.{name}", value, 1)
            at_most(f"HessianSpectrum.{name}", value, 1000, "the run waits for all of it; default 30 and 1")
        self.num_steps, self.num_vectors = num_steps, num_vectors

    def tags(self) -> frozenset[str]:
        """Return what :meth:`measure` writes."""
        return frozenset(f"hessian_spectrum/{self.joined_modules}/{name}" for name in NAMES)

    def charts(self) -> Layout:
        """Return a chart of the ends and one of the ranks."""
        ends = [f"hessian_spectrum/{ONE}/(largest|smallest)"]
        ranks = [f"hessian_spectrum/{ONE}/(effective_rank|srank)"]
        return {"Learning dynamics": {"Curvature: ends of the spectrum": ends, "Ranks of the Hessian": ranks}}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the summaries of the spectrum."""
        density = or_nan(self._density, agent)
        values = [math.nan] * len(NAMES)
        if isinstance(density, SpectralDensity):
            ends = [float(density.nodes[-1]), float(density.nodes[0])]
            values = [*ends, density.trace, density.negative_mass, density.effective_rank, density.srank()]
        return {f"hessian_spectrum/{self.joined_modules}/{name}": v for name, v in zip(NAMES, values, strict=True)}

    def _density(self, agent: RLModule) -> SpectralDensity | None:
        parameters = list(trained_parameters(agent, self.modules).values())
        if not parameters:
            return None
        batch, noise = agent.probe_batch(self.batch_size), probe_generator(agent, "noise")
        product = hessian_product(agent, self.loss, batch, parameters, noise)
        size, dtype = sum(p.numel() for p in parameters), parameters[0].dtype
        generator = probe_generator(agent, "hessian_spectrum")
        starts = (
            torch.randn(size, generator=generator, device=agent.device, dtype=dtype) for _ in range(self.num_vectors)
        )
        return spectral_density(product, starts, self.num_steps)
