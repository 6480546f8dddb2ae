"""The collector of single steps, against TorchRL's own collector."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tiny_env import make_tiny_env
from torchrl.collectors import Collector

from plasticity_rl import make_env
from plasticity_rl.data.collector import StepCollector

KEYS = ("pixels", "action", *(("next", key) for key in ("pixels", "reward", "discount", "done", "terminated")))
ENVS = {
    "tiny": lambda: make_tiny_env("tiny", seed=3),
    "tiny, three": lambda: make_tiny_env("tiny", seed=3, num_envs=3),
    "real": lambda: make_env("cartpole_swingup", seed=3, action_repeat=50, image_size=16),
    "real, two": lambda: make_env("cartpole_swingup", seed=3, action_repeat=50, image_size=16, num_envs=2),
}


def actions(num_steps: int, env) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (num_steps, env.batch_size.numel(), env.action_spec.shape[-1])
    return list(torch.rand(shape, generator=generator) * 2 - 1)


class Given:
    """A policy that knows its actions beforehand."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        self.left = list(given)

    def __call__(self, tensordict):
        return tensordict.set("action", self.left.pop(0).view(*tensordict.batch_size, -1))


@pytest.mark.parametrize("name", ENVS)
def test_steps_are_those_of_torchrls_collector_and_stay_as_they_are(name):
    """Over the ends of two episodes; each step is compared when all of them are done, so that none shares memory."""
    num_steps = 45
    env = ENVS[name]()
    chosen = actions(num_steps, env)

    length = num_steps * env.batch_size.numel()
    policy = Given(chosen)
    stock = Collector(env, policy, frames_per_batch=length, total_frames=-1, trust_policy=True)
    policy.left = list(chosen)  # it was tried once at construction
    wanted = next(iter(stock)).reshape(-1, num_steps)
    stock.shutdown()

    left = list(chosen)
    ours = StepCollector(ENVS[name], lambda observations: left.pop(0))
    steps = [ours.step() for _ in range(num_steps)]
    ours.close()

    assert steps[0].batch_size == (env.batch_size.numel(),)
    found = TensorDict.maybe_dense_stack(steps, dim=1)
    assert int(wanted["next", "done"].sum()) == 2 * len(wanted), "two episodes of every environment should have ended"
    for key in KEYS:
        assert torch.equal(found[key], wanted[key]), key
