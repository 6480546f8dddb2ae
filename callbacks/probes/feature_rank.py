"""Feature rank of every module."""

from __future__ import annotations

from collections.abc import Sequence

from plasticity_rl.callback.module_probes import RankProbe
from plasticity_rl.errors import within
from plasticity_rl.measures import Spectrum, feature_rank


class FeatureRank(RankProbe):
    """Number of singular values of ``features / sqrt(batch_size)`` above ``epsilon``.

    Features are the outputs of a module's last hidden ReLU layer, flattened, on a batch of the replay without
    augmentation, after the update's step.

    Mutates: nothing.
    Logs: ``rank/feature_rank/<module>``, or ``rank/feature_rank_undivided/<module>`` without the division, in [0,
        batch_size]; NaN while features are not finite.
    Reference: Lyle et al. 2022 (arXiv 2204.09560), section 3; published with batches of 5000.
    Differences from the original: on four transitions for every unit of the layer by default, at least 256. The
        published plots are reported to leave out the division: ``divide=False``.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a hidden ReLU layer; None for all that have one, every value head by
            itself. Of a module with several heads the last head's features are taken; name a head to choose it.
        batch_size: Transitions in the probe batch; no rank can exceed it. None takes four for every unit of the layer
            (256 at least, 16384 or a full replay at most), and 256 of the feature maps of a convolution.
        epsilon: Threshold, >= 0; absolute, so that features which shrink to zero lose rank.
        divide: Whether singular values are divided by ``sqrt(batch_size)``, as in the paper's definition. Without it
            the number grows with the batch; the authors' plots are reported to be made so.

    Raises:
        UserError: When ``epsilon`` is out of range.
    """

    cuda_graph = "stays"

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] | None = None,
        batch_size: int | None = None,
        epsilon: float = 0.01,
        divide: bool = True,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules, batch_size=batch_size)
        within("FeatureRank.epsilon", epsilon, "[0, inf]")
        self.epsilon, self.divide = epsilon, divide

    @property
    def tag(self) -> str:
        """First part of the tags: the two numbers keep apart."""
        return super().tag + ("" if self.divide else "_undivided")

    def rank(self, features: Spectrum) -> float:
        """Return the rank of the features with this spectrum."""
        return feature_rank(features, self.epsilon, divide=self.divide)
