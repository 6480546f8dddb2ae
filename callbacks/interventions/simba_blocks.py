"""SimBa: residual heads behind normalised observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from plasticity_rl.callback.normalized_states import NormalizedStates
from plasticity_rl.callback.residual_heads import ResidualHeads, linear_like, norm_like
from plasticity_rl.nn.residual import Residual
from plasticity_rl.nn.starts import mark_start

EXPANSION = 4
"""Width of a block's hidden layer, in widths of the stream."""


class SimBaBlocks(NormalizedStates, ResidualHeads):
    """Build the heads of actor and critic as SimBa's: a linear residual stream that every block reads normalised.

    A head becomes Linear, then ``num_blocks`` times ``x + Linear(ReLU(Linear(LayerNorm(x))))`` with a hidden layer of
    four times the width, then LayerNorm and the output layer. Heads are ``actor.policy``, ``critic.Q1`` and
    ``critic.Q2`` of DrQ-v2 and SAC, and the streams of DQN's critic; trunks and convolutions before them stay.

    States are normalised by running statistics before whatever reads them first: each number minus its mean, divided by
    its standard deviation, over all observations that the run acted on so far, those of the random seed phase
    too. As in the original it is not those of the batches, which would count an observation as often as it is drawn.
    Observations of evaluations do not count, nor do those that ``WarmStartReplay`` brings along.

    Units: the hidden layer of a block has units of its own, which make and are read by one layer each, so that they are
    recycled, pruned and measured as any (fractions of active units, dormant units). The stream has none: what feeds it
    is read by all blocks behind. The features whose rank and norm probes take are those of the last block's hidden
    layer, not the normalised stream that the output layer reads.

    Mutates: before training, the heads of ``modules`` and of their target, whose weights are drawn anew; with states,
        adds a normalisation in front of what reads them. During training nothing but its statistics, buffers, in the
        online and the target network alike, after every env step. They are no weights: a reset keeps them.
    Logs: nothing of its own.
    Reference: Lee et al. 2024 (arXiv 2410.09754); layers, sizes and initial weights from the published code: one block
        of width 128 for the policy, two of width 512 for values.
    Differences from the original: the architecture alone, without its AdamW (weight decay 0.01), learning rates, and
        choice of one or two critics. Statistics change after an observation was acted on, instead of right before.
        Trunks of DrQ-v2 stay in front of the heads, and images are not normalised. Policies keep their own output
        (the bounds of SAC's log standard deviation). With noisy layers all linear layers of a head are noisy. The first
        and the output layer start as the agent's own, which for DrQ-v2 and SAC is the original's orthogonal one.

    Args:
        modules: Modules by dotted name: ``actor``, ``critic``, or a head such as ``critic.Q1``; None for those that put
            out actions and values.
        num_blocks: Blocks of every head; None: 1 for actions, 2 for values.
        hidden_dim: Width of the stream; None: 128 for actions, 512 for values.
        normalize_observations: Whether states are normalised; None: where the run observes states.

    Raises:
        UserError: When a number is out of range, a module has no head, or images are to be normalised.
    """

    cuda_graph = "stays"
    published_sizes: ClassVar[Mapping[str, tuple[int, int]]] = {"actions": (1, 128), "values": (2, 512)}
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["actor", "critic"], "hidden_dim": 8}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        num_blocks: int | None = None,
        hidden_dim: int | None = None,
        normalize_observations: bool | None = None,
    ) -> None:
        super().__init__(
            modules=modules,
            num_blocks=num_blocks,
            hidden_dim=hidden_dim,
            normalize_observations=normalize_observations,
        )

    @property
    def name(self) -> str:
        """``simba_blocks``, SimBa being one word."""
        return "simba_blocks"

    def layers(self, first: nn.Linear, last: nn.Linear, num_blocks: int, width: int) -> list[nn.Module]:
        """Return the layers of a head."""
        hidden = EXPANSION * width
        blocks = [
            Residual(
                norm_like(first, width),
                mark_start(linear_like(first, width, hidden), "he_normal"),
                nn.ReLU(),
                mark_start(linear_like(first, hidden, width), "he_normal"),
            )
            for _ in range(num_blocks)
        ]
        embedding, output = linear_like(first, first.in_features, width), linear_like(last, width, last.out_features)
        return [embedding, *blocks, norm_like(first, width), output]
