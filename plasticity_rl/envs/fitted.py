"""Adds to a TorchRL environment what agents here need and what follows from what it has, by TorchRL's transforms."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase

from plasticity_rl.machine.rendering import prepare, rendering_errors

prepare()
with rendering_errors():
    from torchrl.data import Bounded, Composite
    from torchrl.envs import EnvBase, TransformedEnv
    from torchrl.envs.transforms import ActionScaling, DoubleToFloat, RenameTransform, Transform


class Discount(Transform):
    """Adds ``discount``: 1, and 0 after a termination."""

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return tensordict_reset.set("discount", torch.ones((*tensordict_reset.batch_size, 1)))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        terminated = next_tensordict.get("terminated", None)
        if terminated is None:  # an environment without time limits has `done` alone
            terminated = next_tensordict["done"]
        return next_tensordict.set("discount", 1.0 - terminated.float())

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Declare it."""
        observation_spec["discount"] = Bounded(0, 1, (*observation_spec.shape, 1), dtype=torch.float32)
        return observation_spec


def fitted(env: EnvBase, observation: str) -> TransformedEnv:
    """Return an environment with the keys, dtypes and range of actions that agents here need, as far as they follow.

    Args:
        env: Of one's own.
        observation: ``pixels`` or ``state``.
    """
    over = env if isinstance(env, TransformedEnv) else TransformedEnv(env)
    if observation == "state" and "state" not in _shown(over) and "observation" in _shown(over):
        over.append_transform(RenameTransform(["observation"], ["state"]))
    if observation == "state" and "state" in _shown(over) and over.observation_spec["state"].dtype == torch.float64:
        over.append_transform(DoubleToFloat(in_keys=["state"]))
    if _has_other_range(over):
        over.append_transform(ActionScaling())
    if "discount" not in _shown(over):
        over.append_transform(Discount())
    return over


def _shown(env: EnvBase) -> list[Any]:
    return list(env.full_observation_spec.keys())


def _has_other_range(env: EnvBase) -> bool:
    """Whether actions are a bounded vector of floats with another range than [-1, 1]; others are refused elsewhere."""
    if list(env.full_action_spec.keys(True, True)) != ["action"] or not isinstance(env.action_spec, Bounded):
        return False
    space = env.action_spec.space
    finite = bool(space.low.isfinite().all() and space.high.isfinite().all())
    limit = torch.finfo(env.action_spec.dtype).max if env.action_spec.dtype.is_floating_point else 0
    known = finite and bool((space.low > -limit).all() and (space.high < limit).all())
    return known and not bool((space.low == -1).all() and (space.high == 1).all())
