"""Recycle dormant units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.dormant_unit_interventions import DormantUnitIntervention
from plasticity_rl.callback.recycling import RecyclesUnits


class ReDo(RecyclesUnits, DormantUnitIntervention):
    """Give dormant hidden units fresh incoming weights and silent outgoing ones, every ``every_n_updates``.

    A unit's score is its mean absolute output after the ReLU, over a batch and over space, divided by the mean of its
    layer; it is dormant at ``tau`` or below. The incoming weights of dormant units are drawn anew from the layer's
    initialisation, their bias becomes 0, and so do their outgoing weights in every layer that reads them: for the
    encoder's last convolution the trunks of actor, critic and target critic. Units that were silent (``tau`` 0) do not
    change any output of the online networks on that batch. Outputs are never recycled. In noisy layers the scale of the
    noise goes with each weight: as at initialisation in what the unit reads, zero in what reads it, where it begins to
    grow with the weight (else the unit would put out noise, and the output would change after all).

    Mutates: incoming weights, biases and outgoing weights of the recycled units, and their optimizer moments (to zero);
        in the target critic the incoming weights become those of the online critic, the outgoing ones zero. The step
        counts of Adam stay: there is one per tensor, and it belongs to the other units as well.
    Logs: ``intervention/redo`` (1 when it acted), ``intervention/redo/recycled/<module>`` (units) and a line of text.
    Reference: Sokar et al. 2023 (arXiv 2302.12902), with tau 0.1; tau 0.025, a period of 1000 updates and batches of 64
        are those of Ma et al. 2024 (arXiv 2310.07418) on Atari, who state none for DeepMind Control.
    Differences from the original: activity is measured without augmentation; fresh weights come from a generator of
        this callback's own; the moments of the biases are cleared too; the target network is edited, which the
        original leaves to its next copy. A LayerNorm between a layer and its activation counts among the incoming
        weights of a unit; one after a layer that reads the units (the trunks) is not concerned.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        tau: Threshold of the score, in [0, 1).
        every_n_updates: Period in gradient updates.
        batch_size: Observations that the score is averaged over.
    """

    reads = frozenset({"units"})
    writes = frozenset({"jump", "fresh units", "optimizer"})
    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"tau": 0.5, "every_n_updates": 3, "batch_size": 8}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 10**12}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        tau: float = 0.025,
        every_n_updates: int = 1000,
        batch_size: int = 64,
    ) -> None:
        super().__init__(modules=modules, tau=tau, every_n_updates=every_n_updates, batch_size=batch_size)

    @property
    def name(self) -> str:
        """``redo``, one word as in the paper."""
        return "redo"

    def act(self, agent: RLModule) -> str:
        """Score all layers first, then recycle: what one module gets does not depend on the others."""
        return self.recycle(agent, self.find_dormant(agent))
