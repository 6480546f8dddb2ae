"""Contrastive learning of CURL (Laskin et al. 2020, arXiv 2004.04136): its loss, and its slowly moving key weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plasticity_rl.errors import UserError
from plasticity_rl.nn.hooks import evaluation_mode

if TYPE_CHECKING:
    from plasticity_rl.agents.base import RLModule


def info_nce(queries: Tensor, keys: Tensor, weight: Tensor, first: int = 0) -> Tensor:
    """InfoNCE over the bilinear product, Eq. 4: ``-mean_i log(exp(q_i^T W k_i) / sum_j exp(q_i^T W k_j))``.

    Args:
        queries: ``(batch, dim)``, with gradient.
        keys: ``(n, dim)``; row ``first + i`` is the positive of query i, all others are its negatives.
        weight: W, ``(dim, dim)``.
        first: Position of the first query's key, in ``0 .. n - batch``.

    Returns:
        A scalar >= 0; ``log(n)`` where the keys cannot be told apart.
    """
    logits = queries @ weight @ keys.T
    logits = logits - logits.max(dim=1, keepdim=True).values  # changes no probability, and keeps exp() finite
    return F.cross_entropy(logits, torch.arange(first, first + len(queries), device=logits.device))


class BilinearProduct(nn.Module):
    """The matrix W of the bilinear product, uniform in [0, 1) as in the authors' code.

    Args:
        dim: Length of the vectors compared.
        generator: CPU generator of the initial values.
    """

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(dim, dim, generator=generator))


@torch.no_grad()
def move_towards(averages: Mapping[str, Tensor], values: Mapping[str, Tensor], tau: float) -> None:
    """Take one step of an exponential moving average, in place: ``average <- (1 - tau) average + tau value``.

    Args:
        averages: Tensors by name, edited.
        values: Tensors of the same names and shapes.
        tau: Step, in (0, 1].
    """
    for name, average in averages.items():
        average.lerp_(values[name], tau)


class Embedding(nn.Module):
    """An agent's encoder followed by one of its modules; made anew at each use, so it never becomes part of the agent.

    Args:
        agent: Its ``encode`` turns pixels into features.
        projection: Module by dotted name that reads the features, or None for the features themselves.
    """

    def __init__(self, agent: RLModule, projection: str | None) -> None:
        super().__init__()
        self.agent, self.projection = agent, projection

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels ``(batch, channels, height, width)`` to vectors ``(batch, dim)``."""
        features = self.agent.encode(pixels)
        return features if self.projection is None else self.agent.module(self.projection)(features)

    @torch.no_grad()
    def dim(self, obs_shape: tuple[int, ...], encoder: str) -> int:
        """Return the length of the vectors for observations of ``obs_shape``, leaving all buffers as they are.

        Raises:
            UserError: When observations do not pass the module called ``encoder``, or the projection cannot read them.
        """
        ran: list[str] = []
        handle = self.agent.module(encoder).register_forward_hook(lambda *_: ran.append(encoder))
        try:
            with handle, evaluation_mode(self):
                features = self.agent.encode(torch.zeros((1, *obs_shape), dtype=torch.uint8))
                vectors = features if self.projection is None else self.agent.module(self.projection)(features)
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"CURL.projection={self.projection!r} cannot read the features of {encoder!r}; name a module that "
                f"takes them alone, such as 'critic.trunk', or null for the features themselves"
            ) from error
        if not ran:
            raise UserError(f"CURL.encoder={encoder!r}: {type(self.agent).__name__} does not encode observations by it")
        return vectors.shape[1]

    def with_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what ``torch.func.functional_call`` needs to run with other weights and to move no buffer.

        Args:
            weights: Tensors by their names in the agent.
        """
        replaced = {f"agent.{name}": tensor for name, tensor in weights.items()}
        return replaced | {name: buffer.clone() for name, buffer in self.named_buffers()}
