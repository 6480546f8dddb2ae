"""Keep an update from changing the outputs on observations that it did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn import functional as F

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Regularizer
from plasticity_rl.callback.shadow import Twin, network_tensors, running_statistics
from plasticity_rl.distributed.ranks import over_ranks
from plasticity_rl.errors import at_least, one_of, within

SHARE_OF_VALUES = 0.01
"""Target ratio of Double DQN."""
SHARE_OF_POLICY = 0.00005
"""Target ratio of TD3's policy. Its loss is minus a value, whose size says little of the gradient."""


class ChurnReduction(Regularizer):
    """Add ``coefficient * E_x (f(x; theta) - f(x; theta_old))^2``, x from another batch, theta_old one update older.

    f is the output of a module: both values of the critic at the stored actions, or the actor's mean action. Use one
    callback for the value (``module: critic``) and one for the policy (``module: actor, loss: actor``). In the actor's
    loss the features have no gradient, and come from an encoder that has taken the critic's step of this update.
    Weights that another intervention lets jump (a reset, a recycled unit) jump in theta_old as well: the term is about
    what learning changed. The coefficient follows the agent's own loss, without the terms of other callbacks.

    Mutates: adds a term to the loss named ``loss``. With coefficient 0 nothing is added, kept or drawn.
    Logs: ``intervention/churn_reduction/<module>/loss``, the term as added;
        ``intervention/churn_reduction/loss``, the sum over all of this name.
    Reference: Tang et al. 2025, C-CHAIN (ICML 2025; openreview EkoFXfSauv), after Tang & Berseth 2024 (NeurIPS 2024,
        openreview cQoAgPBARc). In the code of both, the coefficient makes the term a share of the loss: 0.01 of the
        values of Double DQN (MinAtar); of a policy 0.00005 with TD3 (MuJoCo, squared actions) and, with PPO, whose loss
        is of normalised advantages, 0.02 to 0.1.
    Differences from the original: squared mean actions with SAC too, where theirs is the KL divergence of the Gaussians
        before the tanh, with the coefficient ``0.0005 * mean |min Q - alpha log pi|``. A share of the loss of the
        values with SAC and DrQ-v2 too, where theirs, of SAC and TD3, is 0.1 times the sum of both critics' mean squared
        differences. The coefficient follows moving averages from the third update on, with ``decay``; theirs is a
        constant for the first 10000 updates, then follows the means of the last 50000, and that of a policy falls
        linearly with time besides, to a tenth in 1e6 updates. Reference observations are not augmented.

    Args:
        module: Top-level module whose output is kept, e.g. ``critic`` or ``actor``.
        loss: Loss that the term is added to: ``critic`` (which also trains the encoder) or ``actor``.
        coefficient: Weight of the term, >= 0, or None to let it follow ``target_ratio``.
        target_ratio: Share of the absolute loss that the term should have, > 0; None for 0.00005 where ``module`` is
            the agent's policy, and 0.01 elsewhere.
        decay: Weight of the old averages of loss and churn per update, in [0, 1).
        batch_size: Transitions in the reference batch, or None for as many as in the training batch.

    Raises:
        UserError: When a number is out of its range.
    """

    reads = frozenset({"outputs", "copy", "own loss"})
    cuda_graph = "eager"
    example_arguments: ClassVar[Mapping[str, Any]] = {"decay": 0.9}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.0}

    def __init__(
        self,
        *,
        module: str = "critic",
        loss: str = "critic",
        coefficient: float | None = None,
        target_ratio: float | None = None,
        decay: float = 0.999,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(coefficient=1.0 if coefficient is None else coefficient, modules=[module], loss=loss)
        share = SHARE_OF_VALUES if target_ratio is None else target_ratio
        within("ChurnReduction.target_ratio", share, "(0, inf]", "; for no term set coefficient: 0")
        within("ChurnReduction.decay", decay, "[0, 1)", ": at 1 the averages never move")
        if batch_size is not None:
            at_least("ChurnReduction.batch_size", batch_size, 1, ", or null")
        self.module, self.fixed, self.target_ratio = module, coefficient, share
        self.leave_open(target_ratio=target_ratio)
        self.decay, self.batch_size = decay, batch_size
        self._older: dict[str, Tensor] = {}
        self._newer: dict[str, Tensor] = {}
        self._averages = torch.zeros(2)
        self._updates = 0
        self._twin: Twin | None = None
        self._trained: set[int] = set()
        self._churn = torch.zeros(())

    def arguments(self) -> dict[str, Any]:
        """Return the constructor arguments; the base class keeps a number where the user left the coefficient open."""
        return {**super().arguments(), "coefficient": self.fixed}

    def default_for(self, argument: str, agent: RLModule) -> Any:
        """Return the published share of a policy, or that of values."""
        if argument == "target_ratio":
            return SHARE_OF_POLICY if self.module == agent.policy_module else SHARE_OF_VALUES
        return super().default_for(argument, agent)

    def tags(self) -> frozenset[str]:
        """Return the tag of the term."""
        return frozenset([f"intervention/{self.name}/{self.module}/loss"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the networks of an earlier run."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        one_of("ChurnReduction.module", self.module, agent.module_names)
        self._averages, self._updates = torch.zeros(2), 0
        self._older, self._newer = {}, {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the term. What training starts from stands for the two updates before, unless a checkpoint knows them."""
        agent = as_agent(pl_module)
        if self.coefficient == 0:
            return
        self._refuse_untrained(agent)
        agent.add_loss_term(
            self.loss, f"intervention/{self.name}/{self.module}", lambda batch: self._term_of(agent, batch)
        )
        for name, value in network_tensors(agent).items():
            for kept in (self._older, self._newer):
                kept[name] = kept[name].to(value.device) if name in kept else value.detach().clone()
        self._averages = self._averages.to(next(agent.module(self.module).parameters()).device)
        self._twin = Twin(agent, self._older_network(agent))
        optimizers = [agent.optimizer_by_name(name) for name in agent.loss_optimizers[self.loss]]
        self._trained = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}

    @torch.no_grad()
    def on_update_start(self, agent: RLModule) -> None:
        """Keep the weights as they are now; those of the update before become the older ones."""
        if self.coefficient == 0:
            return
        assert self._twin is not None
        self._older, self._newer = self._newer, self._older
        tensors = network_tensors(agent)
        for name, value in self._newer.items():
            value.copy_(tensors[name])
        self._twin.weights = self._older_network(agent)
        self._twin.follow()

    def _older_network(self, agent: RLModule) -> dict[str, Tensor]:
        """Return the older weights beside present statistics: that these move is nothing that was learned."""
        return {**self._older, **running_statistics(agent)}

    def penalty(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        """Return the mean squared difference of the outputs on a reference batch of the replay."""
        assert self._twin is not None
        size = self.batch_size or batch.batch_size[0]
        self._twin.follow()  # an injection may have come after the start of this update
        generator = agent.rng.get_own(f"intervention/{self.state_key}")
        reference = agent.data.replay.peek(size, generator).to(agent.device)
        live = network_tensors(agent)
        live = {name: value if id(value) in self._trained else value.detach() for name, value in live.items()}
        with torch.no_grad():
            old = self._twin.outputs(reference)[self.module]
        return F.mse_loss(self._twin.outputs(reference, live)[self.module], old)

    def _term_of(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        churn = self.penalty(agent, batch)
        self._churn = churn.detach()
        return self._weight() * churn

    def _weight(self) -> Tensor | float:
        if self.fixed is not None:
            return self.fixed
        loss, churn = self._averages
        return torch.where(churn > 0, self.target_ratio * loss / churn, torch.zeros_like(churn))

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Average the agent's own loss, and the churn; the first update has no older network to differ from."""
        self._updates += 1
        if self.fixed is None and self._updates > 1:
            loss = agent.own_loss(self.loss, metrics[f"loss/{self.loss}"]).abs()
            self._averages.lerp_(over_ranks(agent, torch.stack([loss, self._churn])), 1.0 - self.decay)

    def copies(self) -> Sequence[Mapping[str, Tensor]]:
        """Return the networks of one and two updates ago: the term would pull weights that jumped back to them."""
        return self._older, self._newer

    def state_dict(self) -> dict[str, Any]:
        """Return the older networks, the averages, and how many updates there were."""
        return {
            "older": dict(self._older),
            "newer": dict(self._newer),
            "averages": self._averages,
            "updates": self._updates,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._older, self._newer = dict(state_dict["older"]), dict(state_dict["newer"])
        self._averages, self._updates = state_dict["averages"], state_dict["updates"]
