"""Whole-number actions from the policy to the batch, through an agent that has nothing but a Q network."""

from __future__ import annotations

import math
from types import MappingProxyType

import pytest
import torch
from helpers import fit_tiny, tiny_agent, weights_hash
from tensordict import TensorDict
from torch import nn

from plasticity_rl import RLModule
from plasticity_rl.errors import UserError

TASK = {"task": "tiny_discrete"}


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


def test_an_agent_with_discrete_actions_trains_and_goes_on_exactly(tmp_path):
    whole = fit_tiny(tmp_path / "whole", make_agent=only_q, data_options=TASK, max_frames=200)
    assert whole.data.num_actions == 3
    assert whole.data.action_dim == 1
    stored = whole.data.replay[:20]["action"]  # the seed phase
    assert stored.dtype == torch.int64
    assert sorted(stored.unique().tolist()) == [0, 1, 2]
    fit_tiny(tmp_path / "cut", make_agent=only_q, data_options=TASK, max_frames=100)
    resumed = fit_tiny(tmp_path / "cut", make_agent=only_q, data_options=TASK, max_frames=200, ckpt_path="last")
    assert weights_hash(resumed) == weights_hash(whole)


@pytest.mark.parametrize(
    ("make", "task", "says"),
    [
        (tiny_agent, "tiny_discrete", "3 discrete actions, and DrQV2 chooses continuous actions"),
        (lambda data, seed: only_q(data, seed, 3), "tiny", "continuous actions, and OnlyQ chooses 3 discrete actions"),
        (
            lambda data, seed: only_q(data, seed, 4),
            "tiny_discrete",
            "3 discrete actions, and OnlyQ chooses 4 discrete actions",
        ),
    ],
)
def test_actions_of_another_kind_are_refused_before_training(make, task, says, tmp_path):
    with pytest.raises(UserError, match=says):
        fit_tiny(tmp_path, make_agent=make, data_options={"task": task})
