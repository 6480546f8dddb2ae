"""What interventions share that replace the hidden layers of heads by a residual stream."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.architecture import Architecture, layers_without_norm, place_generator, with_twin
from plasticity_rl.callback.heads import heads_of
from plasticity_rl.callback.intervention import Intervention
from plasticity_rl.errors import UserError, at_least, at_most
from plasticity_rl.surgery import refill, reinitialize, resized

NORM_EPSILON = 1e-6
"""Of the layer norms, as flax has it; torch's own default is 1e-5."""


class ResidualHeads(Architecture):
    """Builds heads of ``num_blocks`` residual blocks on a stream of ``hidden_dim`` numbers, with the agent's output.

    Args:
        modules: Modules by dotted name; None for those that put out actions and values.
        num_blocks: Blocks of every head; None: as published, by what the head puts out.
        hidden_dim: Width of the stream; None: as published.

    Raises:
        UserError: When a number is out of range.
    """

    reads = frozenset()
    writes = frozenset({"architecture"})
    stage = "heads"
    published_sizes: ClassVar[Mapping[str, tuple[int, int]]]
    """Blocks and width of a head that puts out ``actions`` or ``values``."""

    def __init__(self, *, modules: Sequence[str] | None, num_blocks: int | None, hidden_dim: int | None) -> None:
        super().__init__(modules=modules, published=("actor", "critic"))
        for name, value, most in (("num_blocks", num_blocks, 64), ("hidden_dim", hidden_dim, 8192)):
            if value is not None:
                at_least(f"{type(self).__name__}.{name}", value, 1, ", or null for the published sizes")
                at_most(f"{type(self).__name__}.{name}", value, most, "larger heads do not fit into memory")
        self.num_blocks, self.hidden_dim = num_blocks, hidden_dim

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that put out actions and values."""
        return agent.heads()

    def heads(self, agent: RLModule) -> list[str]:
        """Return the dotted names of the heads.

        Raises:
            UserError: When a module has none.
        """
        return heads_of(agent, self.modules, f"{type(self).__name__}.modules")

    def sizes(self, agent: RLModule, head: str) -> tuple[int, int]:
        """Return how many blocks a head has, and how wide its stream is."""
        kind = "actions" if head.partition(".")[0] == agent.policy_module else "values"
        blocks, width = self.published_sizes[kind]
        return self.num_blocks or blocks, self.hidden_dim or width

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the heads that it builds, and the places in them that another would put a norm at."""
        heads = self.heads(agent)
        return frozenset(f"build the head {head}" for head in heads) | self._norms(agent)

    def _norms(self, agent: RLModule) -> frozenset[str]:
        return frozenset(f"put a norm behind {path}" for path in layers_without_norm(agent, self.heads(agent)))

    def conflict_with(self, agent: RLModule, other: Intervention) -> str | None:
        """Refuse norms in its heads, which have their own."""
        if not isinstance(other, ResidualHeads) and (shared := sorted(self._norms(agent) & other.claims(agent))):
            head = next(head for head in self.heads(agent) if shared[0].startswith(f"put a norm behind {head}."))
            return f"{head} is normalised in places of its own architecture; leave it out of the other's modules"
        return super().conflict_with(agent, other)

    def build(self, agent: RLModule) -> None:
        """Put the new heads in the places of the old ones."""
        for head in self.heads(agent):
            old = [layer for layer in agent.module(head).children() if isinstance(layer, nn.Linear)]
            if not old:
                raise UserError(f"{type(self).__name__}.modules: {head!r} has no linear layers of its own to replace")
            new = nn.Sequential(*self.layers(old[0], old[-1], *self.sizes(agent, head)))
            reinitialize(new, agent.init_layer, place_generator(agent, head))
            online, *targets = with_twin(agent, head)
            for network, own in [
                (online, new),
                *((twin, copy.deepcopy(new).requires_grad_(False)) for twin in targets),
            ]:
                assert isinstance(network, nn.Sequential)
                refill(network, own)

    def layers(self, first: nn.Linear, last: nn.Linear, num_blocks: int, width: int) -> list[nn.Module]:
        """Return the layers of a head, whose first values are drawn afterwards.

        Args:
            first: First layer of the old head, of whose kind (noisy or not) and input size the new one is.
            last: Its output layer.
            num_blocks: Residual blocks.
            width: Of the stream.
        """
        raise NotImplementedError


def linear_like(layer: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer of the kind of ``layer`` with a bias, not initialised."""
    other = resized(layer, outputs, inputs)
    assert isinstance(other, nn.Linear)
    return other


def norm_like(layer: nn.Linear, width: int) -> nn.LayerNorm:
    """Return a layer norm on the device of ``layer``."""
    same: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    return nn.LayerNorm(width, NORM_EPSILON, **same)
