"""TorchRL's ``SACLoss`` on an agent's own modules, and the distribution of SAC's actions."""

from __future__ import annotations

import math

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torch.nn import functional as F
from torchrl.objectives import SACLoss
from torchrl.objectives.value import TD0Estimator

from plasticity_rl.agents.histogram import ValueHistogram


class SquashedGaussian:
    """``tanh(u)`` with ``u ~ N(mean, exp(log_std)^2)``, independent dimensions (Haarnoja et al. 2018, appendix C).

    Not TorchRL's ``TanhNormal``: that draws from the process-wide generator, and its argument checks wait for a GPU and
    end a run that has diverged.

    Args:
        mean: ``(batch, action_dim)``, before the tanh.
        log_std: ``(batch, action_dim)``.
        generator: Source of the noise, on their device.
    """

    def __init__(self, mean: Tensor, log_std: Tensor, generator: torch.Generator | None = None) -> None:
        self.mean, self.log_std, self.generator = mean, log_std, generator

    def rsample_and_log_prob(self, sample_shape: torch.Size | None = None) -> tuple[Tensor, Tensor]:
        """Draw actions ``(batch, action_dim)``, with gradient, and their log density ``(batch,)``.

        The log density is computed from ``u``, which ``atanh`` of a rounded action would not give back.
        """
        mean = self.mean
        noise = torch.randn(mean.shape, generator=self.generator, device=mean.device, dtype=mean.dtype)
        u = mean + self.log_std.exp() * noise
        log_normal = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2.0 * math.pi)
        log_derivative = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))  # log(1 - tanh(u)^2), also for large u
        return torch.tanh(u), (log_normal - log_derivative).sum(-1)


class _Policy(TensorDictModuleBase):
    """What ``SACLoss`` asks of an actor: the distribution at an observation."""

    def __init__(self, loss: ModularSACLoss, temperature: nn.Module) -> None:
        super().__init__()
        self.in_keys, self.out_keys = [loss.observation_key], ["action"]
        self.log_prob_keys, self.dist_sample_keys = ["action_log_prob"], ["action"]
        self.loss = (loss,)  # in a tuple: not a child module
        self.temperature = temperature  # TorchRL looks for a parameter to know the device

    def get_dist(self, tensordict: TensorDictBase) -> SquashedGaussian:
        (loss,) = self.loss
        mean, log_std = loss.actor(tensordict[loss.observation_key])
        return SquashedGaussian(mean, log_std, loss.generator)


class _Values(TensorDictModuleBase):
    """What ``SACLoss`` asks of the critics besides calling them: their keys."""

    def __init__(self, observation_key: str) -> None:
        super().__init__()
        self.in_keys, self.out_keys = [observation_key, "action"], ["state_action_value"]


class _FoldedReturn(TD0Estimator):
    """``reward + discount * V(next)``: the replay has folded n steps, gamma and terminations into the two."""

    latest: Tensor

    def value_estimate(self, tensordict: TensorDictBase, *args: object, **kwargs: object) -> Tensor:
        value = tensordict["next", self.tensor_keys.value]
        self.latest = (tensordict["reward"] + tensordict["discount"] * value).detach()
        return self.latest


class ModularSACLoss(SACLoss):
    """``torchrl.objectives.SACLoss`` that calls the modules of an agent and owns none of their parameters.

    As it comes, ``SACLoss`` stacks the parameters of both critics into new ones, and evaluates both through the module
    of the first. Then no callback could edit a critic in place or hook its layers. So the networks given to it here
    have no parameters; where it evaluates stacked ones (``_make_vmap``, and the target's parameters), the agent's
    critics are called. Everything else is TorchRL's: target, losses of critics, actor and temperature.

    Args:
        actor: Maps observations to ``(mean, log_std)``, ``(batch, action_dim)`` each.
        critic: Maps ``(observation, action)`` to both values, ``(batch, 1)`` each.
        critic_target: Its slow twin.
        temperature: Holds the parameter ``log_alpha``.
        target_entropy: Entropy in nats that the temperature is tuned to.
        observation_key: Key of observations in batches.
        generator: Source of all noise.
        histogram: What the critics' outputs are logits of, then learned by cross entropy; None: they are values.

    Attributes:
        values: Both values of the last evaluation, ``(2, batch, 1)``, detached.
        generator: May be exchanged at any time.
    """

    _TARGET = "target"

    def __init__(
        self,
        actor: nn.Module,
        critic: nn.Module,
        critic_target: nn.Module,
        temperature: nn.Module,
        *,
        target_entropy: float,
        observation_key: str,
        generator: torch.Generator,
        histogram: ValueHistogram | None = None,
    ) -> None:
        self.__dict__.update(actor=actor, critic=critic, critic_target=critic_target)  # called, not registered
        self.__dict__.update(observation_key=observation_key, generator=generator, histogram=histogram)
        super().__init__(
            _Policy(self, temperature),
            _Values(observation_key),
            num_qvalue_nets=None,
            delay_qvalue=False,
            loss_function="l2",
            target_entropy=target_entropy,
        )
        self.log_alpha = temperature.log_alpha
        self.make_value_estimator(_FoldedReturn(gamma=1.0, value_network=None))

    def critic_loss(self, batch: TensorDictBase) -> Tensor:
        """Return the loss of both critics: TorchRL's squares, or with a histogram the cross entropy of their logits."""
        if self.histogram is None:
            loss, _ = self.qvalue_v2_loss(batch)
            return loss
        target = self.td_target(batch)
        logits = self.critic(batch[self.observation_key], batch["action"])
        self.values = torch.stack([self.histogram.values(head.detach()) for head in logits])
        return self.histogram.critic_loss(logits, target)

    def td_target(self, batch: TensorDictBase) -> Tensor:
        """Return the target of both critics, ``(batch, 1)``, detached."""
        self._compute_target_v2(batch)
        return self.target

    @property
    def target(self) -> Tensor:
        """Target of the last critics' loss, ``(batch, 1)``, detached."""
        return self.value_estimator.latest

    @property
    def target_qvalue_network_params(self) -> str:
        """Stands for the target critics where ``SACLoss`` passes on their parameters."""
        return self._TARGET

    def _make_vmap(self) -> None:
        self._vmap_qnetworkN0 = self._evaluate

    def _evaluate(self, tensordict: TensorDictBase, params: object) -> TensorDict:
        critic = self.critic_target if params is self._TARGET else self.critic
        outputs = critic(tensordict[self.observation_key], tensordict["action"])
        values = torch.stack(outputs if self.histogram is None else [self.histogram.values(head) for head in outputs])
        self.values = values.detach()
        return TensorDict({"state_action_value": values}, batch_size=[2, *tensordict.batch_size])
