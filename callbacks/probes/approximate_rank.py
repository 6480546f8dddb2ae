"""Approximate rank of the features of every module."""

from __future__ import annotations

from plasticity_rl.callback.module_probes import RankProbe
from plasticity_rl.measures import Spectrum, approximate_rank


class ApproximateRank(RankProbe):
    """Smallest k such that the k largest squared singular values make up 99 % of their sum.

    Features are the outputs of a module's last hidden ReLU layer, flattened, on a batch of the replay without
    augmentation, after the update's step.

    Mutates: nothing.
    Logs: ``rank/approximate_rank/<module>``, in [0, batch_size]; NaN while features are not finite.
    Reference: Yang et al. 2019 (arXiv 1909.12255); with 99 % in the released code of Dohare et al. 2024 (arXiv
        2306.13812).

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a hidden ReLU layer; None for all that have one, every value head by
            itself. Of a module with several heads the last head's features are taken; name a head to choose it.
        batch_size: Transitions in the probe batch; no rank can exceed it. None takes four for every unit of the layer
            (256 at least, 16384 or a full replay at most), and 256 of the feature maps of a convolution.
    """

    cuda_graph = "stays"

    def rank(self, features: Spectrum) -> float:
        """Return the rank of the features with this spectrum."""
        return approximate_rank(features)
