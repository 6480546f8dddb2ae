"""An agent with discrete actions that has nothing but a Q network."""

from __future__ import annotations

import math
from types import MappingProxyType

import torch
from tensordict import TensorDict
from torch import nn

from plasticity_rl import RLModule


class OnlyQ(RLModule):
    """Q-learning without a target network: one output for each action."""

    module_names = ("critic",)
    optimizer_names = ("critic_adam",)
    loss_optimizers = MappingProxyType({"critic": ("critic_adam",)})
    value_module = policy_module = "critic"

    def __init__(self, obs_shape, num_actions, seed=0):
        super().__init__(replay_ratio=0.5, num_seed_frames=40, seed=seed)
        self.action_dim, self.num_actions = 1, num_actions
        self.critic = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(obs_shape), 16), nn.ReLU(), nn.Linear(16, num_actions)
        )

    def configure_optimizers(self):
        return [torch.optim.Adam([*self.critic.parameters(), *self.extra_parameters("critic_adam")], lr=1e-3)]

    def choose(self, observations, generator):
        return self.values(observations).argmax(1, keepdim=True)

    def values(self, pixels):
        return self.critic(pixels.float() / 255.0)

    def loss_on(self, loss, batch, generator):
        taken = self.values(batch["pixels"]).gather(1, batch["action"])
        return (taken - self.td_targets(batch, generator)).square().mean()

    @torch.no_grad()
    def td_targets(self, batch, generator):
        return batch["reward"] + batch["discount"] * self.values(batch["next", "pixels"]).amax(1, keepdim=True)

    def update(self, batch):
        loss = self.loss_on("critic", batch, self.rng.get_own("unused"))
        self.minimize(loss, "critic_adam")
        return TensorDict({"loss/critic": loss.detach()}, batch_size=[])

    def forward_all(self, batch):
        return {"critic": self.values(batch["pixels"])}

    def init_layer(self, layer, generator=None):
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.weight, -0.1, 0.1, generator=generator)


def only_q(data, seed, num_actions=None):
    return OnlyQ(data.obs_shape, data.num_actions if num_actions is None else num_actions, seed)
