"""DrQ-v2 (Yarats et al. 2021, arXiv 2107.09645) as a LightningModule."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from plasticity_rl import losses
from plasticity_rl.agents.augmented import AugmentsImages
from plasticity_rl.agents.drqv2.networks import Actor, Critic, count_parameters, encoder_for, noisy_action
from plasticity_rl.agents.sizes import LEARNING_RATES, refuse_large_networks
from plasticity_rl.agents.updates import detached, follow, reward_and_discount
from plasticity_rl.augment.chain import AugmentationChain, as_text
from plasticity_rl.augment.transforms import RandomShift, refuse_large_shift
from plasticity_rl.errors import UserError, at_least, within
from plasticity_rl.nn.blocks import init_weights
from plasticity_rl.nn.compiled import Compiled, Run, plain
from plasticity_rl.nn.units import Reader
from plasticity_rl.schedules import corners, parse_schedule


class DrQV2(AugmentsImages):
    """DrQ-v2: off-policy actor-critic from pixels, encoder trained by the critic's loss only.

    From states (``--data.observation state``) it is the same agent without encoder and augmentation: the trunks of
    actor and critic (Linear, LayerNorm, Tanh) read the state, so that everything behind them is the published network.

    Outside a Trainer, ``update`` is one gradient update on a batch of your own::

        agent = DrQV2(obs_shape=(9, 84, 84), action_dim=6)
        metrics = agent.update(batch)  # TensorDict with pixels, action, reward, discount, ("next", "pixels")

    Differences from the published agent are listed in docs/differences.md.

    Args:
        obs_shape: ``(channels, height, width)`` of the stacked uint8 frames, or ``(n,)`` of a float32 state; the
            command line fills it in.
        action_dim: Number of action dimensions, each in [-1, 1]; the command line fills it in.
        lr: Learning rate of the three Adam optimizers.
        feature_dim: Width of the trunk's output.
        hidden_dim: Width of the hidden layers of actor and critic.
        num_channels: Channels of every convolution of the encoder; not used for states.
        critic_target_tau: Step of the target network's moving average per update, in (0, 1].
        stddev_schedule: Standard deviation of the exploration noise: a number, ``linear(start,end,duration)`` or
            ``step_linear(...)``; durations in env steps (agent decisions), as published.
        stddev_clip: Largest absolute noise on actions inside the losses.
        augment: Whether updates see augmented images; None is true for pixels, and false for states, which are never
            augmented.
        random_shift_pad: Largest shift in pixels of the published augmentation.
        augmentations: Augmentations in order, instead of the published random shift alone: the kinds of
            ``plasticity_rl.augment``, and transforms of kornia or ``torchvision.transforms.v2`` by class path. Not
            part of a checkpoint's hyperparameters; a resumed run takes them from its config.
        replay_ratio: Gradient updates per env step (agent decision), > 0; any rational is exact.
        num_seed_frames: Env frames of uniform random actions before the first update.
        compile: Backend of ``torch.compile`` for the networks of an update, e.g. ``inductor``, which needs a C++
            compiler on a CPU; None does not compile. Float32 results differ in rounding, and so do updates that a probe
            watches (``FractionActiveUnits``), which run uncompiled.
        cuda_graph: Whether the loop's updates are captured as CUDA graphs and replayed (docs/performance.md); on a CPU
            the same function runs on static tensors, no faster.
        seed: Seed of every random number drawn while training; the command line links it to ``seed_everything``. The
            initial weights come from torch's default generator (``seed_everything``), as published.
    """

    module_names: tuple[str, ...] = ("encoder", "actor", "critic")
    optimizer_names: tuple[str, ...] = ("encoder", "actor", "critic")
    loss_optimizers = MappingProxyType({"critic": ("encoder", "critic"), "actor": ("actor",)})
    value_heads = ("critic.Q1", "critic.Q2")
    takes_histogram = True
    precisions = ("32-true", "bf16-mixed")

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        action_dim: int,
        *,
        lr: float = 1e-4,
        feature_dim: int = 50,
        hidden_dim: int = 1024,
        num_channels: int = 32,
        critic_target_tau: float = 0.01,
        stddev_schedule: str | float = "linear(1.0,0.1,500000)",
        stddev_clip: float = 0.3,
        augment: bool | None = None,
        random_shift_pad: int = 4,
        augmentations: list[nn.Module] | None = None,
        replay_ratio: float = 0.5,
        num_seed_frames: int = 4000,
        compile: str | None = None,
        cuda_graph: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(replay_ratio=replay_ratio, num_seed_frames=num_seed_frames, seed=seed)
        self.save_hyperparameters(ignore=["augmentations"])  # modules: a checkpoint holds tensors and plain data only
        widths = {"feature_dim": feature_dim, "hidden_dim": hidden_dim, "num_channels": num_channels}
        at_least("model.random_shift_pad", random_shift_pad, 0)
        within("model.lr", lr, LEARNING_RATES, "; published: 0.0001")
        within("model.stddev_clip", stddev_clip, "[0, inf]", "; published: 0.3")
        within("model.critic_target_tau", critic_target_tau, "(0, 1]", "; published: 0.01")
        self.lr = lr
        self.stddev_schedule = parse_schedule(stddev_schedule, option="model.stddev_schedule")
        if min(corners(self.stddev_schedule)) < 0:
            raise UserError(
                f"model.stddev_schedule={stddev_schedule!r} gives a negative standard deviation; use values >= 0"
            )
        self.stddev_clip = stddev_clip
        self.action_dim = action_dim
        self._refuse_widths(obs_shape, widths)
        self.encoder = encoder_for(obs_shape, num_channels)
        if len(obs_shape) == 1:  # states: there is nothing to encode
            self.observation_key = "state"
            self.module_names = self.optimizer_names = ("actor", "critic")
            self.loss_optimizers = MappingProxyType({"critic": ("critic",), "actor": ("actor",)})
        self.augment = self.observation_key == "pixels" if augment is None else augment
        self.random_shift_pad = random_shift_pad
        if augmentations is not None and self.observation_key != "pixels":
            raise UserError("model.augmentations: states are not augmented, only images; leave it out")
        refuse_large_shift(random_shift_pad, obs_shape, "model.random_shift_pad")
        published = [RandomShift(random_shift_pad)] if self.observation_key == "pixels" else []
        self.augmentations = AugmentationChain(published if augmentations is None else augmentations, obs_shape)
        self._augmentations_as_text = None if augmentations is None else [as_text(one) for one in augmentations]
        self.actor = Actor(self.encoder.repr_dim, action_dim, feature_dim, hidden_dim)
        self.critic = Critic(self.encoder.repr_dim, action_dim, feature_dim, hidden_dim)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self._run: Run = plain if compile is None else Compiled(compile)
        self.critic_target_tau, self.cuda_graph = critic_target_tau, cuda_graph

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments, the augmentations as text."""
        return {**super().options(), "augmentations": self._augmentations_as_text}

    def _refuse_widths(self, obs_shape: tuple[int, ...], widths: dict[str, int]) -> None:
        """Refuse networks of no width, and those that no memory can hold, before they are built."""
        for name, value in widths.items():
            at_least(f"model.{name}", value, 1)
        count = count_parameters(obs_shape, self.action_dim, **widths)
        refuse_large_networks(sum(count.values()), count["critic"], widths, "50, 1024, 32 for images of 84 pixels")

    @property
    def stddev(self) -> float:
        """Standard deviation of the exploration noise at the current env step."""
        return self.stddev_schedule(self.steps_of_exploration)

    def numbers_of_update(self) -> dict[str, float]:
        """Return the standard deviation of the noise."""
        return {"stddev": self.stddev}

    def update(self, batch: TensorDictBase) -> TensorDict:
        """Do one gradient update: critic and encoder, then actor, then the target's moving average.

        Args:
            batch: ``[B]`` with ``pixels`` and ``("next", "pixels")`` uint8 ``(B, C, H, W)`` (or ``state``, float32
                ``(B, n)``), ``action`` ``(B, A)``, n-step ``reward`` and ``discount`` ``(B, 1)`` or ``(B,)``; ``next``
                is n steps later.

        Returns:
            Detached scalars by log tag. Nothing is read back from a GPU.
        """
        key = self.observation_key
        observation, next_observation = self.observations_of(batch)
        noise = self.rng.get_own("update_noise", observation.device)
        run = self._run
        features = run(self.encoder, observation)
        target = self._target(batch, next_observation, noise, run)

        outputs = run(self.critic, features, batch["action"])
        seen = {key: observation, f"next_{key}": next_observation, "features": features}
        critic_terms = self.loss_terms("critic", batch, **seen)
        critic_loss = self.with_terms("critic", self._critic_loss(outputs, target), critic_terms)
        self.minimize(critic_loss, *self.loss_optimizers["critic"])

        features = features.detach()
        actor_terms = self.loss_terms("actor", batch, **{**seen, "features": features})
        actor_loss = self.with_terms("actor", self._actor_loss(features, noise, run), actor_terms)
        self.minimize(actor_loss, *self.loss_optimizers["actor"])

        follow([self.critic_target], [self.critic], self.critic_target_tau)
        q1, q2 = (self.values_of(head.detach()) for head in outputs)
        metrics = {
            "loss/critic": critic_loss,
            "loss/actor": actor_loss,
            "q/q1": q1.mean(),
            "q/q2": q2.mean(),
            "q/target": target.mean(),
            **self.value_metrics(target),
            "q/reward": batch["reward"].mean(),
            **{f"{tag}/loss": term for tag, term in (critic_terms | actor_terms).items()},
        }
        return detached(metrics)

    def _noisy(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        return noisy_action(mean, self.number("stddev"), self.stddev_clip, generator)

    @torch.no_grad()
    def _target(
        self, batch: TensorDictBase, next_observation: Tensor, generator: torch.Generator, run: Run = plain
    ) -> Tensor:
        reward, discount = reward_and_discount(batch)
        features = run(self.encoder, next_observation)
        action = self._noisy(run(self.actor, features), generator)
        q1, q2 = map(self.values_of, run(self.critic_target, features, action))
        return losses.td_target(reward, discount, q1, q2)

    def _critic_loss(self, outputs: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        """Return the loss of what both heads put out: values, or logits."""
        if self.histogram is not None:
            return self.histogram.critic_loss(outputs, target)
        return losses.critic_loss(*outputs, target)

    def _actor_loss(self, features: Tensor, generator: torch.Generator, run: Run = plain) -> Tensor:
        action = self._noisy(run(self.actor, features), generator)
        return losses.actor_loss(*map(self.values_of, run(self.critic, features, action)))

    def loss_on(self, loss: str, batch: TensorDictBase, generator: torch.Generator) -> Tensor:
        """Return the ``critic`` or ``actor`` loss of :meth:`update` on ``batch``, not augmented and without terms."""
        features = self.encoder(batch[self.observation_key])
        if loss == "actor":
            return self._actor_loss(features.detach(), generator)
        return self._critic_loss(self.critic(features, batch["action"]), self.td_targets(batch, generator))

    def td_targets(self, batch: TensorDictBase, generator: torch.Generator) -> Tensor:
        """Return the clipped double-Q targets ``(B, 1)`` of :meth:`update` on ``batch``, not augmented."""
        return self._target(batch, batch["next", self.observation_key], generator)

    def choose(self, observations: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the actor's actions ``(batch, action_dim)``, with exploration noise if there is a generator."""
        action = self.actor(self.encoder(observations))
        return action if generator is None else noisy_action(action, self.stddev, None, generator)

    def module(self, name: str) -> nn.Module:
        """Return a module by dotted name, e.g. ``critic`` or ``critic.Q1``.

        Raises:
            UserError: When there is none; the message lists what exists.
        """
        if name.split(".")[0] == "encoder" and "encoder" not in self.module_names:
            raise UserError(f"no module {name!r}: states need no encoder; name modules of {list(self.module_names)}")
        return super().module(name)

    def encode(self, observations: Tensor) -> Tensor:
        """Return the encoder's features ``(batch, repr_dim)``; of states the states themselves."""
        return self.encoder(observations)

    def forward_all(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Run encoder, actor and critic once on observations and ``action``, neither augmented nor with noise.

        Returns:
            ``encoder`` ``(B, repr_dim)``, ``actor`` (mean action) ``(B, action_dim)``, ``critic`` (both values)
            ``(B, 2)``; from states no ``encoder``.
        """
        features = self.encoder(batch[self.observation_key])
        values = tuple(map(self.values_of, self.critic(features, batch["action"])))
        outputs = {"encoder": features, "actor": self.actor(features), "critic": torch.cat(values, -1)}
        return {name: outputs[name] for name in self.module_names}

    def output_readers(self, name: str) -> Sequence[Reader]:
        """Return the trunks of actor, critic and target critic for the encoder; the others end in no hidden units."""
        first = [net.trunk.get_submodule("0") for net in (self.actor, self.critic, self.critic_target)]
        return [Reader(layer, layer.get_parameter("weight").shape[1]) for layer in first] if name == "encoder" else ()

    def state_readers(self) -> Mapping[str, int]:
        """Return the trunks of actor and critic, which read the state where there is no image."""
        size = self.encoder.repr_dim
        return {} if self.observation_key == "pixels" else {"actor.trunk": size, "critic.trunk": size}

    def init_layer(self, layer: nn.Module, generator: torch.Generator | None = None) -> None:
        """Initialise one layer as published: orthogonal weights, zero biases."""
        init_weights(layer, generator)

    def settings(self) -> dict[str, float]:
        """Return replay ratio, exploration noise and augmentation flag, by log tag."""
        return {**super().settings(), "schedule/stddev": self.stddev}
