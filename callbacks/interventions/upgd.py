"""Step on useful weights less, and disturb the others."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

from torch.optim import Optimizer

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.optimizer_choice import OptimizerChoice
from plasticity_rl.errors import one_of, within
from plasticity_rl.optim.upgd import Scaling, UtilityGatedDescent


class UPGD(OptimizerChoice):
    """Utility-based perturbed gradient descent: a weight moves by ``2 * lr * (1 - useful) * (direction + noise)``.

    How useful a weight is follows from its utility, a moving average of ``-gradient * weight`` (what the loss would
    grow by without it, to first order), scaled and put through a sigmoid. So useful weights are protected from being
    forgotten, and useless ones are disturbed until they are useful. It replaces the optimizer of the modules.

    Mutates: nothing at an event: weights of ``modules`` change by steps, as with the optimizer it replaces. A unit that
        is recycled starts with utility 0, a frozen weight is left alone by noise and decay as well.
    Logs: nothing of its own.
    Reference: Elsayed & Mahmood 2024 (arXiv 2404.00781); by their code for PPO ``adaptive`` with ``scaling: global``,
        sigma 0.001, beta_utility 0.999, weight decay 0.001 and the learning rate of their Adam.
    Differences from the original: the utility is that of first order, as in the code for PPO. The largest utility is
        that of one module rather than of all, and has its bias corrected as those have that are divided by it, which
        their code omits; where no utility is above 0, all gates are one half. With ``local`` scaling a row is what one
        unit reads: of a convolution a whole kernel, where their code takes the last dimension, one line of it. Adam's
        decays and epsilon are those of the agent's optimizer (theirs: epsilon 1e-5). Their supervised experiments have
        no factor 2, their README and the code for PPO do.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        scaling: ``global``: utilities are divided by the largest of the module. ``local``: by the norm of those that
            the same unit reads.
        adaptive: Whether the direction is that of Adam; else it is the gradient.
        sigma: Standard deviation of the noise, >= 0; directions of Adam are about 1, gradients mostly much smaller.
        beta_utility: Decay of the average of the utility, in [0, 1).
        weight_decay: Decoupled weight decay, >= 0: ``w <- (1 - lr * weight_decay) * w``.
        lr: Learning rate, > 0; None for that of the agent.

    Raises:
        UserError: When an argument is out of range, modules overlap, or another callback chooses their optimizer.
    """

    cuda_graph = "eager"
    reads = frozenset()
    kind = UtilityGatedDescent
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["critic"]}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        scaling: Scaling = "global",
        adaptive: bool = True,
        sigma: float = 0.001,
        beta_utility: float = 0.999,
        weight_decay: float = 0.001,
        lr: float | None = None,
    ) -> None:
        super().__init__(modules=modules)
        one_of("UPGD.scaling", scaling, get_args(Scaling))
        within("UPGD.sigma", sigma, "[0, inf]")
        within("UPGD.beta_utility", beta_utility, "[0, 1)")
        within("UPGD.weight_decay", weight_decay, "[0, inf]")
        if lr is not None:
            within("UPGD.lr", lr, "(0, inf]", ", or null for that of the agent")
        self.scaling, self.adaptive, self.sigma = scaling, adaptive, sigma
        self.beta_utility, self.weight_decay, self.lr = beta_utility, weight_decay, lr

    def make(self, agent: RLModule, own: Optimizer) -> Optimizer:
        """Return the optimizer, whose noise comes from a generator of this callback, the same on all ranks."""
        first = own.param_groups[0]
        adams = {name: first[name] for name in ("betas", "eps") if name in first}
        return UtilityGatedDescent(
            [{"params": group["params"], "lr": self.lr or group["lr"]} for group in own.param_groups],
            functools.partial(agent.rng.get, f"intervention/{self.state_key}"),
            lr=self.lr or first["lr"],
            scaling=self.scaling,
            adaptive=self.adaptive,
            sigma=self.sigma,
            beta_utility=self.beta_utility,
            weight_decay=self.weight_decay,
            **adams,
        )
