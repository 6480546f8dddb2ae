"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905) from states, as a LightningModule."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.sac.losses import ModularSACLoss, SquashedGaussian
from plasticity_rl.agents.sizes import LEARNING_RATES, refuse_large_networks
from plasticity_rl.agents.updates import detached, follow, reward_and_discount
from plasticity_rl.errors import UserError, at_least, within
from plasticity_rl.nn.blocks import count_mlp_parameters, init_weights, mlp

LOG_STD_BOUNDS = (-20.0, 2.0)
ENTROPY_DRAWS = 64
"""Draws for the entropy of the policy at one state, which has no closed form behind a tanh."""
MAX_TEMPERATURE = 1e6
"""Of the entropy's initial weight, and of the entropy in nats that it is tuned to: far beyond, float32 overflows."""


class SAC(RLModule):
    """Soft actor-critic from state observations, with a learned temperature; the losses are TorchRL's ``SACLoss``.

    Outside a Trainer, ``update`` is one gradient update on a batch of your own::

        agent = SAC(obs_shape=(24,), action_dim=6)
        metrics = agent.update(batch)  # TensorDict with state, action, reward, discount, ("next", "state")

    Modules: ``actor`` (``actor.policy``), ``critic`` (``critic.Q1`` and ``critic.Q2``, which share nothing) and
    ``temperature``. Losses that callbacks may add to: ``critic``, ``actor``.

    Differences from the published agent: orthogonal initial weights with zero biases (``init_weights``, as DrQ-v2's);
    n-step returns and terminations come folded from the replay; evaluation plays ``tanh(mean)``. Returns of more than
    one step lack the entropy of the steps between: use ``data.n_step`` 1, as ``configs/sac_state.yaml`` does and the
    data module's default (3) does not.

    Args:
        obs_shape: ``(n,)`` of the float32 state; the command line fills it in.
        action_dim: Number of action dimensions, each in [-1, 1]; the command line fills it in.
        lr: Learning rate of the three Adam optimizers.
        hidden_dim: Width of the two hidden layers of the actor and of each critic.
        critic_target_tau: Step of the target network's moving average per update, in (0, 1].
        init_temperature: Initial weight of the entropy, > 0.
        target_entropy: Entropy in nats that the temperature is tuned to; None is ``-action_dim``, as published.
        replay_ratio: Gradient updates per env step (agent decision), > 0; any rational is exact.
        num_seed_frames: Env frames of uniform random actions before the first update.
        cuda_graph: Whether the loop's updates are captured as CUDA graphs and replayed (docs/performance.md); on a CPU
            the same function runs on static tensors, no faster.
        seed: Seed of every random number drawn while training; the command line links it to ``seed_everything``. The
            initial weights come from torch's default generator (``seed_everything``).

    Raises:
        UserError: When an argument is out of range, or for pixels.
    """

    observation_key = "state"
    module_names = ("actor", "critic", "temperature")
    optimizer_names = ("actor", "critic", "temperature")
    loss_optimizers = MappingProxyType({"critic": ("critic",), "actor": ("actor",)})
    value_heads = ("critic.Q1", "critic.Q2")
    takes_histogram = True

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        action_dim: int,
        *,
        lr: float = 3e-4,
        hidden_dim: int = 256,
        critic_target_tau: float = 0.005,
        init_temperature: float = 1.0,
        target_entropy: float | None = None,
        replay_ratio: float = 1.0,
        num_seed_frames: int = 4000,
        cuda_graph: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(replay_ratio=replay_ratio, num_seed_frames=num_seed_frames, seed=seed)
        self.save_hyperparameters()
        if len(obs_shape) != 1:
            raise UserError(
                f"SAC reads states, not images of shape {tuple(obs_shape)}: use --data.observation state, or "
                "--agent drqv2 for pixels"
            )
        at_least("model.hidden_dim", hidden_dim, 1)
        within("model.lr", lr, LEARNING_RATES, "; published: 0.0003")
        if not 0 < init_temperature <= MAX_TEMPERATURE:
            raise UserError(f"model.init_temperature={init_temperature} must be > 0 and at most {MAX_TEMPERATURE:g}")
        if target_entropy is not None and not abs(target_entropy) <= MAX_TEMPERATURE:
            raise UserError(
                f"model.target_entropy={target_entropy} must be a number of nats from {-MAX_TEMPERATURE:g} to "
                f"{MAX_TEMPERATURE:g}; published: -{action_dim}, the number of action dimensions"
            )
        self._refuse_large(obs_shape[0], action_dim, hidden_dim)
        within("model.critic_target_tau", critic_target_tau, "(0, 1]", "; published: 0.005")
        self.lr, self.action_dim, self.obs_dim = lr, action_dim, obs_shape[0]
        self.target_entropy = float(-action_dim if target_entropy is None else target_entropy)
        self.actor = GaussianActor(obs_shape[0], action_dim, hidden_dim)
        self.critic = TwinCritic(obs_shape[0], action_dim, hidden_dim)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.temperature = Temperature(init_temperature)
        self.critic_target_tau, self.cuda_graph = critic_target_tau, cuda_graph
        self._loss: tuple[ModularSACLoss, ...] = ()  # in a tuple: a child would hold log_alpha a second time

    @staticmethod
    def _refuse_large(obs_dim: int, action_dim: int, hidden_dim: int) -> None:
        """Refuse networks that no memory can hold, before they are built."""
        actor = count_mlp_parameters(obs_dim, hidden_dim, 2 * action_dim)
        critic = 2 * count_mlp_parameters(obs_dim + action_dim, hidden_dim, 1)
        refuse_large_networks(actor + critic, critic, {"hidden_dim": hidden_dim}, "256")

    def update(self, batch: TensorDictBase) -> TensorDict:
        """Do one gradient update: critics, actor, temperature, then the target's moving average.

        Args:
            batch: ``[B]`` with ``state`` and ``("next", "state")`` float32 ``(B, n)``, ``action`` ``(B, A)``, n-step
                ``reward`` and ``discount`` ``(B, 1)`` or ``(B,)``; ``next`` is n steps later.

        Returns:
            Detached scalars by log tag. Nothing is read back from a GPU.
        """
        inputs, state = _with_columns(batch), batch["state"]
        seen = {"state": state, "next_state": batch["next", "state"], "features": state}
        sac = self._sac_loss(self.rng.get_own("update_noise", state.device))

        critic_terms = self.loss_terms("critic", batch, **seen)
        td_loss = sac.critic_loss(inputs)
        (q1, q2), target = sac.values, sac.target
        critic_loss = self.with_terms("critic", td_loss, critic_terms)
        self.minimize(critic_loss, *self.loss_optimizers["critic"])

        actor_terms = self.loss_terms("actor", batch, **seen)
        policy_loss, found = sac.actor_loss(inputs)
        actor_loss = self.with_terms("actor", policy_loss, actor_terms)
        self.minimize(actor_loss, *self.loss_optimizers["actor"])

        temperature_loss = sac.alpha_loss(found["log_prob"]).mean()
        self.minimize(temperature_loss, "temperature")
        follow([self.critic_target], [self.critic], self.critic_target_tau)
        metrics = {
            "loss/critic": critic_loss,
            "loss/actor": actor_loss,
            "loss/temperature": temperature_loss,
            "q/q1": q1.mean(),
            "q/q2": q2.mean(),
            "q/target": target.mean(),
            **self.value_metrics(target),
            "q/reward": batch["reward"].mean(),
            "policy/entropy": -found["log_prob"].mean(),
            "policy/temperature": self.temperature.log_alpha.exp(),
            **{f"{tag}/loss": term for tag, term in (critic_terms | actor_terms).items()},
        }
        return detached(metrics)

    def loss_on(self, loss: str, batch: TensorDictBase, generator: torch.Generator) -> Tensor:
        """Return the ``critic`` or ``actor`` loss of :meth:`update` on ``batch``, without terms."""
        sac = self._sac_loss(generator)
        return sac.actor_loss(batch)[0] if loss == "actor" else sac.critic_loss(_with_columns(batch))

    def td_targets(self, batch: TensorDictBase, generator: torch.Generator) -> Tensor:
        """Return the soft clipped double-Q targets ``(B, 1)`` of :meth:`update` on ``batch``."""
        return self._sac_loss(generator).td_target(_with_columns(batch))

    @torch.no_grad()
    def value_bonus(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``alpha * H(policy(.|s))`` ``(B,)``, the entropy as the mean of ``-log p`` over 64 draws."""
        mean, log_std = self.actor(observations)
        shape = (ENTROPY_DRAWS, *mean.shape)
        draws = SquashedGaussian(mean.expand(shape), log_std.expand(shape), generator)
        return -self.temperature.log_alpha.exp() * draws.rsample_and_log_prob()[1].mean(0)

    def _sac_loss(self, generator: torch.Generator) -> ModularSACLoss:
        if not self._loss:
            loss = ModularSACLoss(
                self.actor,
                self.critic,
                self.critic_target,
                self.temperature,
                target_entropy=self.target_entropy,
                observation_key=self.observation_key,
                generator=generator,
                histogram=self.histogram,
            )
            self._loss = (loss,)
        (loss,) = self._loss
        loss.generator = generator
        return loss

    def parts_of_update(self) -> Sequence[Any]:
        """Return TorchRL's losses, once they are there."""
        return self._loss

    def setup(self, stage: str) -> None:
        """Forget what belonged to an earlier Trainer, device or architecture."""
        super().setup(stage)
        self._loss = ()

    def choose(self, observations: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return a draw of the policy ``(batch, action_dim)``, or ``tanh(mean)`` without a generator."""
        mean, log_std = self.actor(observations)
        if generator is None:
            return torch.tanh(mean)
        return SquashedGaussian(mean, log_std, generator).rsample_and_log_prob()[0]

    def encode(self, observations: Tensor) -> Tensor:
        """Return the states themselves: there is no encoder."""
        return observations

    def forward_all(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Run every module once on ``state`` and ``action``, without noise.

        Returns:
            ``actor`` (``tanh(mean)``) ``(B, action_dim)``, ``critic`` (both values) ``(B, 2)`` and ``temperature``
            ``(B, 1)``, the same for all.
        """
        state = batch["state"]
        mean, _ = self.actor(state)
        values = tuple(map(self.values_of, self.critic(state, batch["action"])))
        temperature = self.temperature.log_alpha.exp().expand(len(state), 1)
        return {"actor": torch.tanh(mean), "critic": torch.cat(values, -1), "temperature": temperature}

    def state_readers(self) -> Mapping[str, int]:
        """Return the policy and both critics."""
        return dict.fromkeys(("actor.policy", "critic.Q1", "critic.Q2"), self.obs_dim)

    def init_layer(self, layer: nn.Module, generator: torch.Generator | None = None) -> None:
        """Initialise one layer as at construction: orthogonal weights, zero biases, the initial temperature."""
        if isinstance(layer, Temperature):
            layer.reset()
        init_weights(layer, generator)

    def settings(self) -> dict[str, float]:
        """Return replay ratio and target entropy, by log tag."""
        return {**super().settings(), "schedule/target_entropy": self.target_entropy}


class GaussianActor(nn.Module):
    """Mean and log standard deviation of a Gaussian over actions, before the tanh."""

    def __init__(self, obs_dim: int, action_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.policy = mlp(obs_dim, hidden_dim, 2 * action_dim)
        self.apply(init_weights)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map states ``(batch, n)`` to mean and log standard deviation in [-20, 2], ``(batch, action_dim)`` each."""
        mean, log_std = self.policy(state).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_BOUNDS)


class TwinCritic(nn.Module):
    """Two Q-functions that share nothing."""

    def __init__(self, obs_dim: int, action_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.Q1 = mlp(obs_dim + action_dim, hidden_dim, 1)
        self.Q2 = mlp(obs_dim + action_dim, hidden_dim, 1)
        self.apply(init_weights)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return both values, each ``(batch, 1)``, of ``action`` ``(batch, action_dim)``; or logits of bins."""
        h = torch.cat([state, action], dim=-1)
        return self.Q1(h), self.Q2(h)


class Temperature(nn.Module):
    """The weight of the entropy, as its logarithm ``log_alpha``, a scalar."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.log_alpha = nn.Parameter(torch.tensor(math.log(initial)))

    @torch.no_grad()
    def reset(self) -> None:
        """Go back to the initial temperature, in place."""
        self.log_alpha.fill_(math.log(self.initial))


def _with_columns(batch: TensorDictBase) -> TensorDictBase:
    reward, discount = reward_and_discount(batch)
    return batch.copy().update({"reward": reward, "discount": discount})
