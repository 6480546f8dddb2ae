"""One env step at a time from a TorchRL collector, restorable in the middle of an episode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import EnvBase

from plasticity_rl.env_state import env_state_dict, load_env_state_dict
from plasticity_rl.errors import RunFailure, describe_error

Policy = Callable[[Tensor], Tensor]
"""Maps observations ``(num_envs, *obs_shape)``, uint8 or float32, to actions ``(num_envs, action_dim)``."""


class WatchedPolicy:
    """A policy that knows whether it is being called: its errors are not those of the environment."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.acting = policy, False

    def __call__(self, observations: Tensor) -> Tensor:
        """Call the policy; after an error ``acting`` stays true."""
        self.acting = True
        actions = self.policy(observations)
        self.acting = False
        return actions


class _PolicyModule:
    """A ``Policy`` as TorchRL calls it. With ``out_keys`` it is not called once at construction, which would draw."""

    out_keys = ("action",)

    def __init__(self, policy: Policy, observation: str) -> None:
        self.policy, self.observation = policy, observation

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        observation = tensordict[self.observation]
        action = self.policy(observation.reshape(-1, *observation.shape[tensordict.batch_dims :]))
        return tensordict.set("action", action.reshape(*tensordict.batch_size, -1))


class StepCollector:
    """TorchRL's ``Collector``, asked for exactly one env step of every env.

    Collecting one step at a time is what makes the replay ratio exact and every update use the newest policy.

    Args:
        env: An environment, or a vector of them with batch shape ``[num_envs]``.
        policy: The acting policy. It is called, not stored as a submodule, so that the agent's weights are never
            registered twice.
        observation: Key of the observation that the policy is given.
        failure: Returns what to raise when the environment raises something.
    """

    def __init__(
        self,
        env: EnvBase,
        policy: Policy,
        observation: str = "pixels",
        failure: Callable[[Exception], Exception] = lambda error: RunFailure(describe_error(error)),
    ) -> None:
        self._failure = failure
        self.env = env
        self.num_envs = env.batch_size.numel()
        self._observation = observation
        self.episode_return = torch.zeros(self.num_envs)
        self.episode_steps = torch.zeros(self.num_envs, dtype=torch.int64)
        self._policy = WatchedPolicy(policy)
        self._collector = Collector(
            env,
            policy=_PolicyModule(self._policy, observation),
            frames_per_batch=self.num_envs,
            total_frames=-1,
            track_traj_ids=False,
            auto_register_policy_transforms=False,
            trust_policy=True,
            use_buffers=False,
        )
        self._steps: Iterator[TensorDictBase] = iter(self._collector)

    def step(self) -> TensorDictBase:
        """Step every env once.

        Returns:
            TensorDict of batch shape ``[num_envs]`` with the observation, ``action`` and, under ``next``, the
            observation, ``reward``, ``discount`` and ``done``.

        Raises:
            RunFailure: When the environment fails; errors of the policy go through as they are.
        """
        try:
            step = next(self._steps).reshape(-1)
        except Exception as error:
            if self._policy.acting:
                raise
            raise self._failure(error) from error
        self.episode_return += step["next", "reward"].view(-1)
        self.episode_steps += 1
        return step

    def finished_episodes(self, step: TensorDictBase) -> list[tuple[float, int]]:
        """Return ``(return, env steps)`` of the episodes that ``step`` ended, and start counting their successors."""
        ended = step["next", "done"].view(-1)
        if not ended.any():
            return []
        episodes = [(float(self.episode_return[i]), int(self.episode_steps[i])) for i in ended.nonzero().flatten()]
        self.episode_return[ended] = 0.0
        self.episode_steps[ended] = 0
        return episodes

    def observations(self) -> Tensor:
        """Return what the last step led to, or the first observation of a new episode where it ended one.

        Returns:
            ``(num_envs, *obs_shape)``.
        """
        carrier = self._collector._carrier
        shown = carrier[self._observation]
        return shown.reshape(-1, *shown.shape[carrier.batch_dims :])

    def state_dict(self) -> dict[str, Any]:
        """Return simulator, open episode and counters: TorchRL's own state starts a fresh trajectory instead."""
        carrier = self._collector._carrier
        return {
            "env": env_state_dict(self.env),
            "carrier": {"/".join(_as_tuple(key)): value.clone() for key, value in carrier.items(True, True)},
            "episode_return": self.episode_return.clone(),
            "episode_steps": self.episode_steps.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken, in the middle of the open episode."""
        load_env_state_dict(self.env, state["env"])
        items = {tuple(key.split("/")): value.clone() for key, value in state["carrier"].items()}
        self._collector._carrier = TensorDict(items, batch_size=self.env.batch_size)
        self.episode_return = state["episode_return"].clone()
        self.episode_steps = state["episode_steps"].clone()

    def close(self) -> None:
        """Close the env and free its rendering context."""
        self._collector.shutdown()


def _as_tuple(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key
