"""Values learned by classification instead of regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.histogram import ValueHistogram
from plasticity_rl.callback.architecture import Architecture, put
from plasticity_rl.errors import UserError, at_least, at_most, within
from plasticity_rl.nn.layers import layers_from_output
from plasticity_rl.surgery import resized, size_of

MAX_BINS = 10_000


class HLGaussCritic(Architecture):
    """Let value heads put out logits over ``bins`` of [``v_min``, ``v_max``], and learn them by cross entropy.

    A target y becomes the mass of a Gaussian around y in every bin, ``(erf((r - y) / (sqrt(2) sigma)) - erf((l - y) /
    (sqrt(2) sigma))) / Z`` between its edges l and r, where Z makes the sum 1. Sigma is ``sigma_ratio`` times the width
    of a bin. The value of a head is the mean of its histogram over the bins' centres, and that is what everything else
    sees: targets (of two heads the smaller value, less the weighted entropy in SAC), the actor, the actions of DQN,
    logged values, probes.

    Targets outside the range count as its ends; watch ``q/clipped``. Choose the range a little wider than returns can
    be, about three sigma: of a Gaussian at the very end half is cut off, so that its mean lies 0.8 sigma inside, and
    bootstrapping adds that up. A fresh head puts out nearly equal logits, hence values near the middle of the range,
    also after a reset: around 0 where the range is symmetric. With rewards in [0, 1] per simulator frame, summed over
    an action repeat of 2, and a discount of 0.99 returns are at most 200; with rewards clipped to [-1, 1] and a
    discount of 0.99 at most 100 in size, though C51 gets by with -10 to 10 on Atari.

    Mutates: before training, the output layers of the value heads, which are drawn anew with ``bins`` outputs for each
        one as the agent initialises a layer of that shape; their target; and the loss of the values.
    Logs: ``q/clipped`` (fraction of the targets of an update outside [v_min, v_max]); ``loss/critic`` is then a cross
        entropy in nats, summed over the heads.
    Reference: Farebrother et al. 2024 (arXiv 2403.03950), section 3.1 and Appendix A, HL-Gauss (Imani & White 2018,
        arXiv 1806.04613); ``sigma_ratio`` 0.75 is theirs.
    Differences from the original: on twin critics each head has its own cross entropy, and the target is made of the
        smaller mean; they use it where there is one value (DQN, CQL, IMPALA). Targets outside of the range count as its
        ends; their listing takes them as they are, and is 0/0 far outside. Dueling streams are added bin by bin, as
        C51's. Priorities of a replay are absolute TD errors of the means, since the cross entropy of a learned
        transition is the entropy of its target and not 0. The number of bins is a choice of this project (theirs: 51
        from -10 to 10 on Atari).

    Args:
        v_min: Left edge of the first bin, in units of the return.
        v_max: Right edge of the last bin.
        bins: Number of bins, from 2 on.
        sigma_ratio: Standard deviation of the Gaussian in widths of a bin, > 0. A value is given back by its own
            histogram to a hundred-thousandth of a bin from 0.75 on, and is rounded to the bin's centre towards 0.

    Raises:
        UserError: When the range is empty, a number is out of its range, the agent's values are distributions already
            (``model.num_atoms`` of DQN), or have a loss of their own choice (``model.loss``).
    """

    cuda_graph = "inside"
    reads = frozenset()
    writes = frozenset({"architecture", "loss"})
    example_arguments: ClassVar[Mapping[str, Any]] = {"v_min": -10.0, "v_max": 10.0, "bins": 21}

    def __init__(self, *, v_min: float, v_max: float, bins: int = 101, sigma_ratio: float = 0.75) -> None:
        for name, value in {"v_min": v_min, "v_max": v_max}.items():
            within(f"HLGaussCritic.{name}", value, "(-inf, inf)")
        if not v_min < v_max:
            raise UserError(f"HLGaussCritic.v_min={v_min} must be less than v_max={v_max}: the range of the values")
        at_least("HLGaussCritic.bins", bins, 2)
        at_most("HLGaussCritic.bins", bins, MAX_BINS, "every one is an output of each value head")
        within("HLGaussCritic.sigma_ratio", sigma_ratio, "(0, inf)", "; published: 0.75")
        self.v_min, self.v_max, self.bins, self.sigma_ratio = v_min, v_max, bins, sigma_ratio
        self.modules = ["critic"]

    @property
    def name(self) -> str:
        """``hl_gauss_critic``: the usual rule would part H and L."""
        return "hl_gauss_critic"

    def resolve(self, agent: RLModule) -> None:
        """Take the module of this agent's values."""
        super().resolve(agent)
        self.modules = [agent.value_module]

    def tags(self) -> frozenset[str]:
        """Return the tag that the agent writes for it."""
        return frozenset({"q/clipped"})

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one may say what the outputs of value heads are."""
        return frozenset({"classify the values"})

    def build(self, agent: RLModule) -> None:
        """Widen the output layers, and tell the agent what they put out."""
        width = (self.v_max - self.v_min) / self.bins
        agent.classify_values(ValueHistogram(self.v_min, self.v_max, self.bins, self.sigma_ratio * width))
        for head in agent.value_heads or (agent.value_module,):
            for path, layer in layers_from_output(agent.module(head), head)[0].items():
                outputs, inputs = size_of(layer)
                put(agent, path, resized(layer, outputs * self.bins, inputs))
