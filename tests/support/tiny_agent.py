"""A second agent, as unlike DrQ-v2 as can be: other names, an MLP encoder, one critic, other optimizers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from types import MappingProxyType

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from plasticity_rl import RLModule
from plasticity_rl.augment.transforms import random_shift
from plasticity_rl.nn.units import Reader


class TinyAgent(RLModule):
    """Deterministic policy gradient from pixels; torso and value share one Adam, the policy has SGD with momentum."""

    module_names = ("torso", "policy", "value")
    optimizer_names = ("value_learner", "policy_learner")
    loss_optimizers = MappingProxyType({"td": ("value_learner",), "dpg": ("policy_learner",)})
    value_module, policy_module = "value", "policy"
    takes_histogram = True

    def __init__(
        self,
        obs_shape: tuple[int, int, int],
        action_dim: int,
        *,
        width: int = 16,
        augment: bool = True,
        replay_ratio: float = 0.5,
        num_seed_frames: int = 40,
        seed: int = 0,
    ) -> None:
        super().__init__(replay_ratio=replay_ratio, num_seed_frames=num_seed_frames, seed=seed)
        self.action_dim, self.augment = action_dim, augment
        self.torso = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(obs_shape), width), nn.ReLU())
        self.policy = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, action_dim), nn.Tanh())
        self.value = nn.Sequential(nn.Linear(width + action_dim, width), nn.ReLU(), nn.Linear(width, 1))
        self.old_value = copy.deepcopy(self.value).requires_grad_(False)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        of_value = [*self.torso.parameters(), *self.value.parameters(), *self.extra_parameters("value_learner")]
        of_policy = [*self.policy.parameters(), *self.extra_parameters("policy_learner")]
        return self.with_choices(
            [torch.optim.Adam(of_value, lr=1e-3), torch.optim.SGD(of_policy, lr=1e-3, momentum=0.9)]
        )

    def update(self, batch: TensorDictBase) -> TensorDict:
        pixels, next_pixels = batch["pixels"], batch["next", "pixels"]
        if self.augment:
            pixels, next_pixels = (random_shift(x, 1, self.rng.get_own("augment")) for x in (pixels, next_pixels))
        features = self.encode(pixels)
        own = self._td_loss(features, batch["action"], self._target(batch, next_pixels))
        seen = {"pixels": pixels, "next_pixels": next_pixels, "features": features}
        td = own + sum(self.loss_terms("td", batch, **seen).values())
        self.minimize(td, "value_learner")
        features = features.detach()
        dpg = -self._values(features, self.policy(features)).mean()
        dpg = dpg + sum(self.loss_terms("dpg", batch, **{**seen, "features": features}).values())
        self.minimize(dpg, "policy_learner")
        with torch.no_grad():
            for old, new in zip(self.old_value.parameters(), self.value.parameters(), strict=True):
                old.lerp_(new, 0.05)
        return TensorDict({"loss/td": td.detach(), "loss/dpg": dpg.detach()}, batch_size=[])

    def _values(self, features: Tensor, action: Tensor) -> Tensor:
        return self.values_of(self.value(torch.cat([features, action], -1)))

    def _td_loss(self, features: Tensor, action: Tensor, target: Tensor) -> Tensor:
        if self.histogram is not None:
            return self.histogram.critic_loss([self.value(torch.cat([features, action], -1))], target)
        return (self._values(features, action) - target).square().mean()

    @torch.no_grad()
    def _target(self, batch: TensorDictBase, next_pixels: Tensor) -> Tensor:
        features = self.encode(next_pixels)
        old = self.values_of(self.old_value(torch.cat([features, self.policy(features)], -1)))
        return batch["reward"] + batch["discount"] * old

    def loss_on(self, loss: str, batch: TensorDictBase, generator: torch.Generator) -> Tensor:
        features = self.encode(batch["pixels"])
        if loss == "dpg":
            features = features.detach()
            return -self._values(features, self.policy(features)).mean()
        return self._td_loss(features, batch["action"], self.td_targets(batch, generator))

    def td_targets(self, batch: TensorDictBase, generator: torch.Generator) -> Tensor:
        return self._target(batch, batch["next", "pixels"])

    def encode(self, pixels: Tensor) -> Tensor:
        return self.torso(pixels.float() / 255.0 - 0.5)

    @torch.no_grad()
    def act(self, pixels: Tensor, *, explore: bool) -> Tensor:
        action = self.policy(self.encode(pixels))
        if explore:
            noise = torch.rand(action.shape, generator=self.rng.get_own("explore"))
            action = (action + noise - 0.5).clamp(-1, 1)
        return action

    def forward_all(self, batch: TensorDictBase) -> dict[str, Tensor]:
        features = self.encode(batch["pixels"])
        value = self._values(features, batch["action"])
        return {"torso": features, "policy": self.policy(features), "value": value}

    def target_of(self, name: str) -> nn.Module | None:
        top, _, sub = name.partition(".")
        return self.old_value.get_submodule(sub) if top == "value" else None

    def output_readers(self, name: str) -> Sequence[Reader]:
        readers = (self.policy, self.value, self.old_value)
        return [Reader(reader[0], self.policy[0].in_features) for reader in readers] if name == "torso" else ()

    def init_layer(self, layer: nn.Module, generator: torch.Generator | None = None) -> None:
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
