"""Cosines between the gradients of single transitions: how much they interfere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tensordict import TensorDictBase

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import ONE, Layout
from plasticity_rl.callback.gradient_probes import LossProbe, per_sample_gradients, probe_generator, trained_parameters
from plasticity_rl.callback.module_probes import or_nan
from plasticity_rl.measures import Interference, gram_matrix, interference


class GradientCovariance(LossProbe):
    """Cosines ``<g_i, g_j> / (|g_i| |g_j|)`` of the gradients of a loss on single transitions, over all pairs.

    Where they are negative, a step that helps one transition hurts another; where all are near 1 the network can no
    longer tell transitions apart. On a batch of the replay, without augmentation and without the terms of
    regularizers, after the update's step. All gradients are held at once: ``batch_size`` times the size of the modules.

    Mutates: nothing.
    Logs: ``gradient_covariance/<modules>/mean_cosine`` in [-1, 1], ``gradient_covariance/<modules>/negative_fraction``
        in [0, 1], and ``gradient_covariance/<modules>/mean_negative`` in [-1, 0], 0 where no cosine is negative; NaN
        while gradients are not finite or all modules are frozen. Modules are joined by ``+``.
    Reference: Lyle et al. 2023 (arXiv 2303.01486), gradient covariance.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name; the gradient is by their weights together. None for those that the loss trains.
        loss: One of the agent's losses, of a single transition each time; None for that of the values.
        batch_size: Transitions, at least 2.
    """

    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 5, "batch_size": 3}
    least_batch_size = 2

    def __init__(
        self,
        *,
        every_n_updates: int = 2000,
        modules: Sequence[str] | None = None,
        loss: str | None = None,
        batch_size: int = 32,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, loss=loss, batch_size=batch_size)

    def tags(self) -> frozenset[str]:
        """Return what :meth:`measure` writes."""
        return frozenset(
            f"gradient_covariance/{self.joined_modules}/{name}"
            for name in ("mean_cosine", "negative_fraction", "mean_negative")
        )

    def charts(self) -> Layout:
        """Return a chart of the cosines."""
        return {
            "Learning dynamics": {
                "Cosines between gradients of single transitions": [f"gradient_covariance/{ONE}/{ONE}"]
            }
        }

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the three summaries of the cosines."""
        found = or_nan(self._interference, agent)
        if not isinstance(found, Interference):
            found = Interference(math.nan, math.nan, math.nan)
        tag = f"gradient_covariance/{self.joined_modules}"
        return {
            f"{tag}/mean_cosine": found.mean_cosine,
            f"{tag}/negative_fraction": found.negative_fraction,
            f"{tag}/mean_negative": found.mean_negative,
        }

    def _interference(self, agent: RLModule) -> Interference | None:
        parameters = list(trained_parameters(agent, self.modules).values())
        if not parameters:
            return None
        noise = probe_generator(agent, "noise")
        value = lambda one: agent.loss_on(self.loss, one, noise)  # noqa: E731
        gradients = per_sample_gradients(agent, value, agent.probe_batch(self.batch_size), parameters)
        return interference(gram_matrix(gradients))
