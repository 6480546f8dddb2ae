"""What an environment of one's own (``data.env``) must be: refused by name here, not met in the middle of a step."""

from __future__ import annotations

from typing import Any

import torch

from plasticity_rl.errors import UserError

OBSERVATIONS = {"pixels": (torch.uint8, 3, "(channels, height, width)"), "state": (torch.float32, 1, "(n,)")}
"""What an observation is: dtype, number of dimensions, and these in words."""


def require_contract(env: Any, task: str, observation: str) -> None:
    """Look at the specs of one environment; nothing is stepped.

    Args:
        env: What the factory returned for ``num_envs=1``.
        task: Name of the task.
        observation: ``pixels`` or ``state``.

    Raises:
        UserError: When it is no TorchRL environment, or lacks what agents here need.
    """
    from torchrl.envs import EnvBase

    found = f"data.env: the environment of task={task}"
    if not isinstance(env, EnvBase):
        raise UserError(
            f"data.env returned a {type(env).__name__} for task={task}, not a TorchRL environment: wrap it, "
            "torchrl.envs.GymWrapper(env) for example"
        )
    if len(env.batch_size):
        raise UserError(f"{found} has the batch shape {tuple(env.batch_size)} for num_envs=1; it must have none, ()")
    _require_observation(env, found, observation)
    _require_action(env, found)
    for name, what in (("discount", "1, and 0 after a true termination"), ("reward", "the reward of the step")):
        specs = env.full_reward_spec if name == "reward" else env.full_observation_spec
        given = sorted(map(str, specs.keys()))
        if name not in given:
            raise UserError(
                f"{found} declares no {name!r}, it has {given}: add it to its specs and to "
                f"what a step returns, float32 of shape (1,): {what}"
            )
        if specs[name].shape.numel() != 1:
            raise UserError(f"{found} has a {name} of shape {tuple(specs[name].shape)}; it must be one number, (1,)")
    if "done" not in (given := sorted(map(str, env.full_done_spec.keys()))):
        raise UserError(f"{found} declares no 'done', it has {given}: add it, bool of shape (1,), true at every end")


def _require_observation(env: Any, found: str, observation: str) -> None:
    specs = env.full_observation_spec
    if observation not in (given := sorted(map(str, specs.keys()))):
        raise UserError(
            f"{found} shows {given}, not data.observation={observation}: rename what it shows "
            "(torchrl.envs.transforms.RenameTransform), or give the other --data.observation"
        )
    dtype, dimensions, shape = OBSERVATIONS[observation]
    spec = specs[observation]
    if spec.dtype != dtype or spec.ndim != dimensions:
        raise UserError(
            f"{found} has {observation} of {_name(spec.dtype)} {tuple(spec.shape)}; it must be {_name(dtype)} {shape}: "
            "convert it (torchrl.envs.transforms: DoubleToFloat, FlattenObservation, PermuteTransform)"
        )


def _require_action(env: Any, found: str) -> None:
    from torchrl.data import Categorical

    keys = list(env.full_action_spec.keys(True, True))
    if keys != ["action"]:
        raise UserError(f"{found} has the actions {sorted(map(str, keys))}; it must have one, 'action'")
    spec = env.action_spec
    if isinstance(spec, Categorical) and spec.shape == (1,) and spec.dtype == torch.int64:
        return
    if not spec.dtype.is_floating_point:
        raise UserError(
            f"{found} has discrete actions ({type(spec).__name__} of {_name(spec.dtype)}, shape {tuple(spec.shape)}), "
            "and agents here choose continuous ones in [-1, 1] or one whole number: "
            "torchrl.data.Categorical(n, shape=(1,), dtype=torch.int64)"
        )
    if spec.ndim != 1:
        raise UserError(f"{found} has actions of shape {tuple(spec.shape)}; they must be a vector, (n,)")
    space = spec.space
    low, high = (getattr(space, name, None) for name in ("low", "high"))
    if low is None or high is None or not (bool((low == -1).all()) and bool((high == 1).all())):
        bounds = (
            "without bounds" if low is None or high is None else f"in [{float(low.min()):g}, {float(high.max()):g}]"
        )
        raise UserError(
            f"{found} has actions {bounds}, and agents here choose them in [-1, 1], which would never reach the rest: "
            "scale them in the environment (torchrl.envs.transforms.ActionScaling)"
        )


def require_first_step(env: Any, step: Any, observation: str) -> None:
    """Compare what the first step of training gave with what the environment declares.

    Args:
        env: The environment, or several.
        step: What the step gave, of batch shape ``[num_envs]``.
        observation: ``pixels`` or ``state``.

    Raises:
        UserError: For another dtype or shape, a reward that is no number, or a discount that is none.
    """
    declared = {observation: env.full_observation_spec[observation], "reward": env.full_reward_spec["reward"]}
    declared["discount"] = env.full_observation_spec["discount"]
    for name, spec in declared.items():
        value, shape = step["next", name], tuple(spec.shape[len(env.batch_size) :])
        if value.dtype != spec.dtype or tuple(value.shape[1:]) != shape:
            raise UserError(
                f"data.env: the environment declares {name} as {_name(spec.dtype)} {shape}, but a step returns "
                f"{_name(value.dtype)} {tuple(value.shape[1:])}: let its specs and its steps agree"
            )
    reward, discount = step["next", "reward"], step["next", "discount"]
    if not bool(reward.isfinite().all()):
        raise UserError(f"data.env: the environment returns the reward {reward.flatten().tolist()}; it must be finite")
    if not bool(((discount >= 0) & (discount <= 1)).all()):
        raise UserError(
            f"data.env: the environment returns the discount {discount.flatten().tolist()}; it must be 1, and 0 after "
            "a true termination (data.discount is multiplied here)"
        )


def require_ends(step: Any) -> None:
    """Compare discounts with terminations where episodes ended.

    Raises:
        UserError: When a termination has a discount of 1: it would teach a wrong value. For 0 without a termination
            there are good reasons, a lost life say.
    """
    after = step["next"]
    terminated, discount = after["terminated"].view(-1), after["discount"].view(-1)
    if bool((terminated & (discount == 1)).any()):
        raise UserError(
            "data.env: an episode ended with terminated=true and discount=1: the discount of the step that leads to a "
            "true termination must be 0; if it was a time limit, set truncated instead of terminated"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
