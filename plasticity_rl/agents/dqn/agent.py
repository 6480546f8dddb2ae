"""DQN (Mnih et al. 2015), with all up to Rainbow (Hessel et al. 2018, arXiv 1710.02298), as a LightningModule."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from plasticity_rl.agents.augmented import AugmentsImages
from plasticity_rl.agents.dqn import losses
from plasticity_rl.agents.dqn.networks import MLP, ActionValues, ImageEncoder, MLPEncoder, init_weights
from plasticity_rl.agents.dqn.options import encoder_for, refuse_large, refuse_options
from plasticity_rl.agents.histogram import ValueHistogram
from plasticity_rl.agents.updates import copy_weights, detached, follow, reward_and_discount
from plasticity_rl.augment.chain import AugmentationChain
from plasticity_rl.augment.transforms import IntensityJitter, RandomShift, refuse_large_shift
from plasticity_rl.errors import UserError
from plasticity_rl.losses import expectation
from plasticity_rl.nn.noisy import NoisyLinear, noise_in
from plasticity_rl.nn.units import Reader
from plasticity_rl.rng import derive_seed
from plasticity_rl.schedules import corners, parse_schedule


class DQN(AugmentsImages):
    """Learns the value of every action, as a number or as a distribution, and takes the best; for discrete actions.

    All parts of Rainbow are options: double, dueling, ``num_atoms`` (C51), ``noisy_sigma``, and in the data module
    ``n_step``, ``prioritized``, ``discount`` and ``reward_clip``. ``configs/atari/`` holds the published combinations.

    Outside a Trainer, ``update`` is one gradient update on a batch of your own.

    Deviations: evaluation acts by the means of noisy layers (as Dopamine does); the hidden layer of dueling streams is
    never shared. The two Adams of encoder and critic do together what the single one of the originals does.

    Args:
        obs_shape: ``(channels, height, width)`` of stacked uint8 frames, or ``(n,)`` of states.
        num_actions: Number of discrete actions.
        encoder: ``nature`` (Mnih et al. 2015, 84 pixels), ``der`` (van Hasselt et al. 2019, arXiv 1906.05243, 84),
            ``mini`` (42), ``minatar`` (10; Young & Tian 2019, arXiv 1903.03176) or, of states, ``mlp``; None: nature
            or mlp.
        num_channels: Channels of the first convolution, the others in proportion; None: as published.
        hidden_dim: Width of the hidden layer of each stream, and of ``mlp``.
        double: Whether the online network chooses the action whose target value is taken (arXiv 1509.06461).
        dueling: Whether state value and advantages are streams of their own (arXiv 1511.06581).
        num_atoms: Atoms of each action's return distribution (arXiv 1707.06887; published: 51); 1: a number.
        v_min: Return of the lowest atom.
        v_max: Return of the highest atom.
        noisy_sigma: Scale of the noise in the layers of the streams at the start (arXiv 1706.10295; published: 0.5); 0:
            ordinary layers.
        loss: ``huber`` (published) or ``mse``, of values that are numbers; distributions have their cross entropy.
        lr: Learning rate of Adam.
        adam_eps: Adam's epsilon.
        max_grad_norm: Largest norm of the gradient of all parameters together (DQN Zoo: 10); None: no limit.
        target_every_n_updates: Updates between copies to the target network; 0: see ``target_tau``.
        target_tau: Share of the online weights that the target network takes at every update; 0: hard copies.
        epsilon_schedule: Share of random actions by env steps after the seed phase: a number, or
            ``linear(start,end,duration)``.
        eval_epsilon: Share of random actions in evaluation; their generator is made from the seed and the episode.
        augment: Whether updates see augmented images; None: no.
        random_shift_pad: Largest shift in pixels of the random shift of augmented images.
        intensity_scale: Standard deviation of the factor of every augmented image (DrQ(eps): 0.05); 0: none.
        replay_ratio: Gradient updates per env step (agent decision), > 0; published: one in 4 env steps.
        num_seed_frames: Env frames of uniform random actions before the first update.
        cuda_graph: Whether the loop's updates are captured as CUDA graphs and replayed (docs/performance.md); on a CPU
            the same function runs on static tensors, no faster.
        seed: Seed of every random number drawn while training; the command line links it to ``seed_everything``. The
            initial weights come from torch's default generator (``seed_everything``).

    Raises:
        UserError: When an argument is out of range, or would be ignored beside the others.
    """

    module_names = ("encoder", "critic")
    optimizer_names = ("encoder", "critic")
    loss_optimizers = MappingProxyType({"critic": ("encoder", "critic")})
    policy_module = None
    sets_priorities = True
    takes_histogram = True
    support: Tensor

    def __init__(
        self,
        obs_shape: tuple[int, ...],
        num_actions: int,
        *,
        encoder: str | None = None,
        num_channels: int | None = None,
        hidden_dim: int = 512,
        double: bool = True,
        dueling: bool = False,
        num_atoms: int = 1,
        v_min: float = -10.0,
        v_max: float = 10.0,
        noisy_sigma: float = 0.0,
        loss: str = "huber",
        lr: float = 6.25e-5,
        adam_eps: float = 1.5e-4,
        max_grad_norm: float | None = None,
        target_every_n_updates: int = 2000,
        target_tau: float = 0.0,
        epsilon_schedule: str | float = "linear(1.0,0.01,250000)",
        eval_epsilon: float = 0.001,
        augment: bool | None = None,
        random_shift_pad: int = 4,
        intensity_scale: float = 0.0,
        replay_ratio: float = 0.25,
        num_seed_frames: int = 80000,
        cuda_graph: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(replay_ratio=replay_ratio, num_seed_frames=num_seed_frames, seed=seed)
        self.save_hyperparameters()
        refuse_options(self.hparams)
        kind = encoder_for(obs_shape, encoder)
        refuse_large(obs_shape, kind, self.hparams)
        self.action_dim, self.num_actions, self.cuda_graph = 1, num_actions, cuda_graph
        self.lr, self.adam_eps, self.max_grad_norm = lr, adam_eps, max_grad_norm
        self._double, self.loss, self.num_atoms, self._noisy = double, loss, num_atoms, noisy_sigma > 0
        self.target_every_n_updates, self.target_tau = target_every_n_updates, target_tau
        self.epsilon_schedule = parse_schedule(epsilon_schedule, option="model.epsilon_schedule")
        if not all(0 <= value <= 1 for value in corners(self.epsilon_schedule)):
            raise UserError(f"model.epsilon_schedule={epsilon_schedule!r} must stay in [0, 1]: it is a probability")
        self.eval_epsilon = eval_epsilon
        self._eval_generator = torch.Generator().manual_seed(derive_seed(seed, "eval/0"))
        self.observation_key = "state" if kind == MLP else "pixels"
        self._set_augmentations(obs_shape, augment, random_shift_pad, intensity_scale)
        self._build(obs_shape, kind)

    def _set_augmentations(
        self, obs_shape: tuple[int, ...], augment: bool | None, random_shift_pad: int, intensity_scale: float
    ) -> None:
        stages: list[nn.Module] = []
        if self.observation_key == "pixels":
            refuse_large_shift(random_shift_pad, obs_shape, "model.random_shift_pad")
            stages = [RandomShift(random_shift_pad)]
            stages += [IntensityJitter(intensity_scale)] if intensity_scale else []
        self.augmentations = AugmentationChain(stages, obs_shape)
        self.augment = bool(augment)

    def _build(self, obs_shape: tuple[int, ...], kind: str) -> None:
        o: Any = self.hparams

        def linear(in_dim: int, out_dim: int) -> nn.Linear:
            return NoisyLinear(in_dim, out_dim, o.noisy_sigma) if o.noisy_sigma else nn.Linear(in_dim, out_dim)

        self.encoder: ImageEncoder | MLPEncoder = (
            MLPEncoder(obs_shape[0], o.hidden_dim) if kind == MLP else ImageEncoder(obs_shape, kind, o.num_channels)
        )
        self.critic = ActionValues(self.encoder.repr_dim, o.num_actions, o.num_atoms, o.hidden_dim, o.dueling, linear)
        self.encoder.apply(init_weights)
        self.critic.apply(init_weights)
        self.encoder_target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)
        self.value_heads = ("critic.advantage", "critic.value") if o.dueling else ("critic.advantage",)
        self.register_buffer("support", torch.linspace(o.v_min, o.v_max, o.num_atoms), persistent=False)

    @property
    def copies_target(self) -> bool:
        """Whether the target network is copied at once, at every ``target_every_n_updates``-th update."""
        return self.target_every_n_updates > 0

    @property
    def epsilon(self) -> float:
        """Share of random actions at the current env step."""
        repeat = self.data.action_repeat if self._trainer is not None else 1
        return self.epsilon_schedule(max(self.steps_of_exploration - self.num_seed_frames // repeat, 0))

    # ---- acting ------------------------------------------------------------------------------------------------------

    def begin_evaluation_episode(self, episode: int) -> None:
        """Take the random actions of this evaluation episode from a generator of its own, which nothing else uses."""
        self._eval_generator.manual_seed(derive_seed(self.rng.seed, f"eval/{episode}"))

    def choose(self, observations: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the best actions, int64 ``(batch, 1)``, and a random one with probability epsilon.

        Args:
            observations: ``(batch, *obs_shape)``.
            generator: Source of exploration and of the layers' noise; without one, the means of noisy layers decide,
                and the episode's own generator draws the few random actions of evaluation.
        """
        with self._noise_in(self.critic, generator):
            best = self._values(self.critic(self.encoder(observations))).argmax(1, keepdim=True)
        epsilon = self.eval_epsilon if generator is None else self.epsilon
        source = self._eval_generator if generator is None else generator
        coin = torch.rand(best.shape, generator=source, device=source.device)
        other = torch.randint(self.num_actions, best.shape, generator=source, device=source.device)
        return torch.where(coin.to(best.device) < epsilon, other.to(best.device), best)

    def _noise_in(self, module: nn.Module, generator: torch.Generator | None) -> AbstractContextManager[None]:
        return noise_in(module, generator) if self._noisy else nullcontext()

    def _values(self, outputs: Tensor) -> Tensor:
        """Return values ``(batch, num_actions)`` of what the critic puts out."""
        return self.values_of(outputs).squeeze(-1) if self.num_atoms == 1 else expectation(outputs, self.support)

    def classify_values(self, histogram: ValueHistogram) -> None:
        """Read the critic's outputs as logits over bins; see :meth:`ModuleAccess.classify_values`.

        Raises:
            UserError: When they are distributions already, or have a loss of the user's choice.
        """
        if self.num_atoms > 1:
            raise UserError(
                f"model.num_atoms={self.num_atoms}: the values are distributions (C51) already; leave HLGaussCritic "
                "out, or set model.num_atoms=1"
            )
        if self.loss != "huber":
            raise UserError(f"model.loss={self.loss}: HLGaussCritic has its cross entropy; leave model.loss out")
        super().classify_values(histogram)
        for critic in (self.critic, self.critic_target):
            critic.num_atoms = histogram.bins

    # ---- learning ----------------------------------------------------------------------------------------------------

    def update(self, batch: TensorDictBase) -> TensorDict:
        """Do one gradient update of encoder and critic, then move the target network where it is due.

        Args:
            batch: ``[B]`` with ``pixels`` and ``("next", "pixels")`` uint8 ``(B, C, H, W)`` (or ``state``, float32
                ``(B, n)``), ``action`` int64 ``(B, 1)``, n-step ``reward`` and ``discount`` ``(B, 1)`` or ``(B,)``;
                ``next`` is n steps later. Of a prioritized replay also ``weight`` ``(B, 1)``.

        Returns:
            Detached scalars by log tag. Nothing is read back from a GPU, except the loss of every sample where a
            prioritized replay asks for it.
        """
        return self.finish_update(batch, self.update_core(batch))

    def update_core(self, batch: TensorDictBase) -> TensorDict:
        """Do all of the update but priorities and hard copies.

        Returns:
            ``metrics``, and by sample ``error`` ``(B,)``: of values the TD error, of distributions their cross entropy
            (Hessel et al. 2018).
        """
        key = self.observation_key
        observation, next_observation = self.observations_of(batch)
        noise = self.rng.get_own("update_noise", observation.device)
        target = self._target(batch, next_observation, noise)
        features = self.encoder(observation)
        taken = self._taken(features, batch, noise)
        each = self._losses(taken, target)
        seen = {key: observation, f"next_{key}": next_observation, "features": features}
        terms = self.loss_terms("critic", batch, **seen)
        total = self.with_terms("critic", losses.mean_weighted(each, batch.get("weight", None)), terms)
        self.minimize(total, *self.loss_optimizers["critic"], max_norm=self.max_grad_norm)

        values, targets = self._mean_taken(taken.detach()), self._mean_target(target)
        if self.target_tau:
            follow(*self._targets_and_online(), self.target_tau)
        metrics = {
            "loss/critic": total,
            "q/taken": values.mean(),
            "q/target": targets.mean(),
            **self.value_metrics(targets),
            "q/reward": batch["reward"].mean(),
            **{f"{tag}/loss": term for tag, term in terms.items()},
        }
        error = (values - targets).abs().squeeze(1) if self.num_atoms == 1 else each.detach()
        return TensorDict({"metrics": detached(metrics), "error": error})

    def finish_update(self, batch: TensorDictBase, core: TensorDictBase) -> TensorDict:
        """Tell a prioritized replay the error of every sample, then copy the target network where that is due."""
        if self._trainer is not None:
            self.data.replay.update_priorities(batch, core["error"])
        if not self.target_tau and (self.num_updates + 1) % self.target_every_n_updates == 0:
            copy_weights(*self._targets_and_online())
            self.dispatch("on_target_copy")
        return core["metrics"]

    def _targets_and_online(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        return (self.encoder_target, self.critic_target), (self.encoder, self.critic)

    def _taken(self, features: Tensor, batch: TensorDictBase, generator: torch.Generator) -> Tensor:
        with self._noise_in(self.critic, generator):
            return losses.values_of(self.critic(features), batch["action"])

    def _losses(self, taken: Tensor, target: Tensor) -> Tensor:
        if self.histogram is not None:
            return self.histogram.cross_entropies(taken, target)
        if self.num_atoms == 1:
            return losses.value_losses(taken, target, self.loss)
        return losses.categorical_losses(taken, target)

    @torch.no_grad()
    def _target(self, batch: TensorDictBase, next_observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return target values ``(B, 1)``, or probabilities ``(B, num_atoms)``."""
        reward, discount = reward_and_discount(batch)
        with self._noise_in(self.critic_target, generator):
            outputs = self.critic_target(self.encoder_target(next_observation))
        values = self._values(outputs)
        chosen_by = values
        if self._double:
            with self._noise_in(self.critic, generator):
                chosen_by = self._values(self.critic(self.encoder(next_observation)))
        best = chosen_by.argmax(1, keepdim=True)
        if self.num_atoms == 1:
            return losses.td_target(reward, discount, values, best)
        probabilities = losses.values_of(outputs, best).softmax(-1)
        return losses.project(probabilities, reward, discount, self.support)

    def _mean_taken(self, taken: Tensor) -> Tensor:
        """Return the values ``(B, 1)`` of what :meth:`_taken` gave: themselves, or the means of their logits."""
        return self.values_of(taken) if self.num_atoms == 1 else expectation(taken, self.support).unsqueeze(1)

    def _mean_target(self, target: Tensor) -> Tensor:
        """Return the values ``(B, 1)`` of what :meth:`_target` gave: themselves, or the means of the distributions."""
        return target if self.num_atoms == 1 else (target * self.support).sum(-1, keepdim=True)

    def loss_on(self, loss: str, batch: TensorDictBase, generator: torch.Generator) -> Tensor:
        """Return the loss of :meth:`update` on ``batch``, not augmented and without terms."""
        target = self._target(batch, batch["next", self.observation_key], generator)
        taken = self._taken(self.encoder(batch[self.observation_key]), batch, generator)
        return losses.mean_weighted(self._losses(taken, target), batch.get("weight", None))

    def td_targets(self, batch: TensorDictBase, generator: torch.Generator) -> Tensor:
        """Return the targets ``(B, 1)`` of :meth:`update` on ``batch``, of distributions their means, not augmented."""
        target = self._target(batch, batch["next", self.observation_key], generator)
        return self._mean_target(target)

    # ---- what callbacks ask ------------------------------------------------------------------------------------------

    def adam(self, name: str) -> torch.optim.Adam:
        """Return an Adam for module ``name`` and the extras that its optimizer trains, with the epsilon given."""
        optimizer = super().adam(name)
        optimizer.param_groups[0]["eps"] = self.adam_eps
        return optimizer

    def encode(self, observations: Tensor) -> Tensor:
        """Return the encoder's features ``(batch, repr_dim)``."""
        return self.encoder(observations)

    def forward_all(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Run encoder and critic once on observations, neither augmented nor with noise.

        Returns:
            ``encoder`` ``(B, repr_dim)`` and ``critic``, the values of all actions ``(B, num_actions)``.
        """
        features = self.encoder(batch[self.observation_key])
        return {"encoder": features, "critic": self._values(self.critic(features))}

    def output_readers(self, name: str) -> Sequence[Reader]:
        """Return the first layers of all streams for the encoder, in the target network as well."""
        if name != "encoder":
            return ()
        streams = [
            net.get_submodule(head.removeprefix("critic."))
            for net in (self.critic, self.critic_target)
            for head in self.value_heads
        ]
        layers = [one.get_submodule("0") for one in streams]
        return [Reader(layer, layer.get_parameter("weight").shape[1]) for layer in layers]

    def state_readers(self) -> Mapping[str, int]:
        """Return the encoder's layers, where it reads states."""
        return {} if self.observation_key == "pixels" else {"encoder.mlp": self.hparams["obs_shape"][0]}

    def init_layer(self, layer: nn.Module, generator: torch.Generator | None = None) -> None:
        """Initialise one layer as at construction: uniform within one by the root of the fan-in."""
        init_weights(layer, generator)

    def settings(self) -> dict[str, float]:
        """Return replay ratio, epsilon and augmentation flag, by log tag."""
        return {**super().settings(), "schedule/epsilon": self.epsilon}
