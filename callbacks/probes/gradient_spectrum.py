"""Spectrum and effective rank of the covariance of the gradients of single transitions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tensordict import TensorDictBase

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import ONE, Layout
from plasticity_rl.callback.gradient_probes import LossProbe, per_sample_gradients, probe_generator, trained_parameters
from plasticity_rl.callback.module_probes import or_nan
from plasticity_rl.measures import Spectrum, covariance_spectrum, effective_rank, gram_matrix, srank

NAMES = ("trace", "largest_share", "effective_rank", "srank")


class GradientSpectrum(LossProbe):
    """Eigenvalues of ``1/n sum_i (g_i - g)(g_i - g)^T`` over the gradients g_i of a loss on single transitions.

    g is their mean. Where few directions make up all of the covariance, transitions pull the weights in few directions
    only. ``GradientCovariance`` has the angles between the same gradients. On a batch of the replay, without
    augmentation and without the terms of regularizers, after the update's step. All gradients are held at once:
    ``batch_size`` times the size of the modules.

    Mutates: nothing.
    Logs: ``gradient_spectrum/<modules>/trace`` (variance of the gradient),
        ``gradient_spectrum/<modules>/largest_share`` (largest eigenvalue over the trace, in [0, 1]),
        ``gradient_spectrum/<modules>/effective_rank`` (exponential of the entropy) and
        ``gradient_spectrum/<modules>/srank`` (number of eigenvalues that make up 99 % of the trace), in
        [1, batch_size - 1], all 0 where all gradients are alike; NaN while gradients are not finite or all modules are
        frozen. Modules are joined by ``+``.
    Reference: Lyle et al. 2023 (arXiv 2303.01486) and 2024 (arXiv 2402.18762), gradient covariance and its collapse.
    Differences from the original: the spectrum around the mean gradient; the originals show the angles
        (``GradientCovariance``).

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; the gradient is by their weights together. None for those that the loss trains.
        loss: One of the agent's losses, of a single transition each time; None for that of the values.
        batch_size: Transitions, at least 2; no rank can reach it.
    """

    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 5, "batch_size": 3}
    least_batch_size = 2

    def __init__(
        self,
        *,
        every_n_updates: int = 5000,
        modules: Sequence[str] | None = None,
        loss: str | None = None,
        batch_size: int = 32,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, loss=loss, batch_size=batch_size)

    def tags(self) -> frozenset[str]:
        """Return what :meth:`measure` writes."""
        return frozenset(f"gradient_spectrum/{self.joined_modules}/{name}" for name in NAMES)

    def charts(self) -> Layout:
        """Return a chart of both ranks."""
        title = "Ranks of the gradient covariance"
        return {"Learning dynamics": {title: [f"gradient_spectrum/{ONE}/(effective_rank|srank)"]}}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the summaries of the spectrum."""
        found = or_nan(self._spectrum, agent)
        values = [math.nan] * len(NAMES)
        if isinstance(found, Spectrum):
            trace, largest = float(found.singular_values.sum()), float(found.singular_values[0])
            values = [trace, largest / trace if trace else 0.0, effective_rank(found), srank(found)]
        return {f"gradient_spectrum/{self.joined_modules}/{name}": v for name, v in zip(NAMES, values, strict=True)}

    def _spectrum(self, agent: RLModule) -> Spectrum | None:
        parameters = list(trained_parameters(agent, self.modules).values())
        if not parameters:
            return None
        noise = probe_generator(agent, "noise")
        value = lambda one: agent.loss_on(self.loss, one, noise)  # noqa: E731
        gradients = per_sample_gradients(agent, value, agent.probe_batch(self.batch_size), parameters)
        return covariance_spectrum(gram_matrix(gradients))
