"""Srank of the features of every module."""

from __future__ import annotations

from collections.abc import Sequence

from plasticity_rl.callback.module_probes import RankProbe
from plasticity_rl.errors import within
from plasticity_rl.measures import Spectrum, srank


class SRank(RankProbe):
    """Smallest k such that the k largest singular values make up ``1 - delta`` of their sum.

    Features are the outputs of a module's last hidden ReLU layer, flattened, on a batch of the replay without
    augmentation, after the update's step.

    Mutates: nothing.
    Logs: ``rank/srank/<module>``, in [0, batch_size]; NaN while features are not finite.
    Reference: Kumar et al. 2021 (arXiv 2010.14498), section 3; published with batches of 2048. Some libraries call
        it stable rank.
    Differences from the original: on four transitions for every unit of the layer by default, at least 256.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a hidden ReLU layer; None for all that have one, every value head by
            itself. Of a module with several heads the last head's features are taken; name a head to choose it.
        batch_size: Transitions in the probe batch; no rank can exceed it. None takes four for every unit of the layer
            (256 at least, 16384 or a full replay at most), and 256 of the feature maps of a convolution.
        delta: Share of the sum of singular values that may be missing, in [0, 1).

    Raises:
        UserError: When ``delta`` is out of range.
    """

    cuda_graph = "stays"

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] | None = None,
        batch_size: int | None = None,
        delta: float = 0.01,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, batch_size=batch_size)
        within("SRank.delta", delta, "[0, 1)")
        self.delta = delta

    def rank(self, features: Spectrum) -> float:
        """Return the rank of the features with this spectrum."""
        return srank(features, self.delta)
