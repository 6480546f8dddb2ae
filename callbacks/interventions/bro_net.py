"""BroNet: the residual heads of BRO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.intervention import Intervention
from plasticity_rl.callback.residual_heads import ResidualHeads, linear_like, norm_like
from plasticity_rl.nn.residual import Residual
from plasticity_rl.nn.starts import mark_start


class BroNet(ResidualHeads):
    """Build the heads of actor and critic as BRO's: a residual stream to which every block adds a normalised sum.

    A head becomes Linear, LayerNorm, ReLU, then ``num_blocks`` times
    ``x + LayerNorm(Linear(ReLU(LayerNorm(Linear(x)))))``, all of one width, then the output layer. Heads are
    ``actor.policy``, ``critic.Q1`` and ``critic.Q2`` of DrQ-v2 and SAC, and the streams of DQN's critic; trunks and
    convolutions before them stay.

    BRO is more than its network. Its full resets are ``Reset`` with ``modules: [actor, critic, temperature]`` and
    ``at_frames`` (see ``configs/interventions/bro_net.yaml``), and its ten updates per env step are
    ``model.replay_ratio``. Not here: the optimistic second actor that explores, the quantile critic, the mean of the
    two critics instead of the smaller one, and AdamW.

    Units: the hidden layer of a block has units of its own. The outputs of the first ReLU are the stream: they count as
    hidden activations (fraction of active units), but nobody recycles or prunes them, for every block reads them, and
    every block adds to them. The features whose rank and norm probes take are those of the last block's hidden layer,
    not the stream that the output layer reads.

    Mutates: before training, the heads of ``modules`` and of their target, whose weights are drawn anew.
    Logs: nothing of its own.
    Reference: Nauman et al. 2024 (arXiv 2405.16158); layers, sizes and initial weights from the published code: one
        block of width 256 for the policy, two of width 512 for values.
    Differences from the original: those above. Trunks of DrQ-v2 stay in front of the heads. Policies keep their own
        output (the bounds of SAC's log standard deviation, whose weights start times sqrt(2) as all others do; there
        without that factor). With noisy layers all linear layers of a head are noisy.

    Args:
        modules: Modules by dotted name: ``actor``, ``critic``, or a head such as ``critic.Q1``; None for those that put
            out actions and values.
        num_blocks: Blocks of every head; None: 1 for actions, 2 for values.
        hidden_dim: Width of all layers; None: 256 for actions, 512 for values.

    Raises:
        UserError: When a number is out of range, or a module has no head.
    """

    cuda_graph = "stays"
    published_sizes: ClassVar[Mapping[str, tuple[int, int]]] = {"actions": (1, 256), "values": (2, 512)}
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["actor", "critic"], "hidden_dim": 8}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        num_blocks: int | None = None,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__(modules=modules, num_blocks=num_blocks, hidden_dim=hidden_dim)

    def conflict_with(self, agent: RLModule, other: Intervention) -> str | None:
        """Refuse activations of another width in its heads."""
        replaced = [claim.removeprefix("replace the activation ") for claim in sorted(other.claims(agent))]
        if type(other).__name__ in ("CReLU", "DeepFourierFeatures"):
            for head in (head for head in self.heads(agent) if any(one.startswith(f"{head}.") for one in replaced)):
                return (
                    f"it gives a unit two outputs, and in {head} those of the first layer are the residual stream "
                    "itself; leave it out of the other's modules"
                )
        return super().conflict_with(agent, other)

    def layers(self, first: nn.Linear, last: nn.Linear, num_blocks: int, width: int) -> list[nn.Module]:
        """Return the layers of a head."""

        def linear(like: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
            return mark_start(linear_like(like, inputs, outputs), "orthogonal")

        stem = [linear(first, first.in_features, width), norm_like(first, width), nn.ReLU()]
        blocks = [
            Residual(
                linear(first, width, width),
                norm_like(first, width),
                nn.ReLU(),
                linear(first, width, width),
                norm_like(first, width),
            )
            for _ in range(num_blocks)
        ]
        return [*stem, *blocks, linear(last, width, last.out_features)]
