"""Effective rank of the features of every module."""

from __future__ import annotations

from plasticity_rl.callback.module_probes import RankProbe
from plasticity_rl.measures import Spectrum, effective_rank


class EffectiveRank(RankProbe):
    """Exponential of the entropy of the singular values, normalised to sum 1.

    Features are the outputs of a module's last hidden ReLU layer, flattened, on a batch of the replay without
    augmentation, after the update's step.

    Mutates: nothing.
    Logs: ``rank/effective_rank/<module>``, in [1, batch_size], or 0 where all features are zero; NaN while they are
        not finite.
    Reference: Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", EUSIPCO.

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
        return effective_rank(features)
