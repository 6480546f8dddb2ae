"""Ranks and condition number of the empirical neural tangent kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.dqn.losses import values_taken
from plasticity_rl.callback.charts import ONE, Layout
from plasticity_rl.callback.gradient_probes import OutputProbe, per_sample_gradients, trained_parameters
from plasticity_rl.callback.module_probes import or_nan
from plasticity_rl.measures import condition_number, effective_rank, gram_matrix, srank


class NTKRank(OutputProbe):
    """Rank of the kernel ``K_ij = <df(x_i)/dtheta, df(x_j)/dtheta>`` of a module's output on a small batch.

    theta are the weights of ``modules``; f is the sum of the output's columns over the root of their number, so that
    one gradient per input suffices. Of the values of discrete actions it is that of the stored action, as in the loss:
    in a sum over all actions the advantages of dueling streams, whose mean is taken off, would cancel. A kernel that
    falls to a multiple of the identity plus rank one, or to a low rank, is the sign of a network that can fit one
    common direction only. On a batch of the replay without augmentation, after the update's step. Transitions that are
    drawn twice make the kernel singular. All gradients are held at once: ``batch_size`` times the size of the modules.

    Mutates: nothing.
    Logs: ``ntk/<output>/<modules>/srank`` and ``ntk/<output>/<modules>/effective_rank``, in [1, batch_size] or 0 for a
        kernel of zeros, and ``ntk/<output>/<modules>/condition_number``, >= 1, infinite for a singular kernel; NaN
        while gradients are not finite or all modules are frozen. Modules are joined by ``+``.
    Reference: Lyle et al. 2024 (arXiv 2402.18762); Tang et al. 2025 (arXiv 2506.00592), rank of the kernel.
    Differences from the original: of the sum of the output's columns over the root of their number, instead of one
        kernel per column; of the values of discrete actions one kernel, of those of the stored actions.

    Args:
        every_n_updates: Period in gradient updates.
        output: Top-level module whose output is f; None for that of the values.
        modules: Modules by dotted name; None for those that the output's loss trains.
        batch_size: Transitions; no rank can exceed it.
    """

    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 5, "batch_size": 3}

    def __init__(
        self,
        *,
        every_n_updates: int = 5000,
        output: str | None = None,
        modules: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, output=output, modules=modules, batch_size=batch_size)

    @property
    def name(self) -> str:
        """``ntk_rank``."""
        return "ntk_rank"

    def tags(self) -> frozenset[str]:
        """Return what :meth:`measure` writes."""
        return frozenset(
            f"ntk/{self.output}/{self.joined_modules}/{name}"
            for name in ("srank", "effective_rank", "condition_number")
        )

    def charts(self) -> Layout:
        """Return a chart of both ranks."""
        return {
            "Learning dynamics": {"Ranks of the neural tangent kernel": [f"ntk/{ONE}/{ONE}/(srank|effective_rank)"]}
        }

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return two ranks and the condition number of the kernel."""
        kernel = or_nan(self._kernel, agent)
        known = isinstance(kernel, Tensor)
        measures = {"srank": srank, "effective_rank": effective_rank, "condition_number": condition_number}
        return {
            f"ntk/{self.output}/{self.joined_modules}/{name}": measure(kernel) if known else math.nan
            for name, measure in measures.items()
        }

    def _kernel(self, agent: RLModule) -> Tensor | None:
        parameters = list(trained_parameters(agent, self.modules).values())
        if not parameters:
            return None

        def value(one: TensorDictBase) -> Tensor:
            output = agent.forward_all(one)[self.output].flatten(1)
            if self.output == agent.value_module:
                output = values_taken(output, one["action"], agent.num_actions)
            return output.sum() / math.sqrt(output.shape[1])

        return gram_matrix(per_sample_gradients(agent, value, agent.probe_batch(self.batch_size), parameters))
