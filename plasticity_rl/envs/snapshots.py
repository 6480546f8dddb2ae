"""Exact snapshots of environments: stepping on after a load is bit-identical to never having stopped.

A snapshot holds tensors and plain Python only, so it passes ``torch.load(weights_only=True)``: what the simulator says
of itself (:class:`Simulator`), and the buffers of the TorchRL transforms above, such as a half-filled frame stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.nn.parameter import UninitializedBuffer

from plasticity_rl.errors import UserError
from plasticity_rl.machine.rendering import rendering_errors

with rendering_errors():  # TorchRL may import mujoco, which already fails on a wrong MUJOCO_GL
    from torchrl.envs import EnvBase, SerialEnv, TransformedEnv


@runtime_checkable
class Simulator(Protocol):
    """A base environment that can save and restore itself exactly."""

    def simulator_state(self) -> dict[str, Any]:
        """Return everything that decides the future, as tensors and plain Python."""

    def load_simulator_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`simulator_state` returned, also when it comes from another process."""


@runtime_checkable
class Elsewhere(Protocol):
    """Environments in other processes, which save and restore themselves; see ``side_by_side.py``."""

    batch_size: torch.Size

    def snapshots_of_all(self) -> list[dict[str, Any]]:
        """Return what :func:`env_state_dict` would return of each of them here."""

    def load_snapshots_of_all(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Restore the snapshot of each, in their order."""

    def why_not_exact(self) -> str:
        """Return what :func:`why_not_exact` would return of them here."""


def env_state_dict(env: EnvBase) -> dict[str, Any]:
    """Return an exact snapshot of ``env``, at any step of an episode.

    Args:
        env: a base environment with the :class:`Simulator` methods, with any nesting of TransformedEnv and SerialEnv.

    Returns:
        Nested dict of tensors and plain Python, independent of later steps. About 5 to 10 KB per dm_control
        environment, plus the frame stack.

    Raises:
        UserError: for an environment that cannot be saved exactly.
    """
    # TransformedEnv and SerialEnv forward unknown attributes to what they wrap, so they come before the protocol.
    if isinstance(env, TransformedEnv):
        return {"transform": _transform_state(env.transform), "base": env_state_dict(env.base_env)}
    if isinstance(env, SerialEnv):
        return {"envs": [env_state_dict(e) for e in workers(env)]}
    if isinstance(env, Elsewhere):
        states = env.snapshots_of_all()
        return {"envs": states} if env.batch_size else states[0]
    return {"simulator": _simulator(env).simulator_state()}


def load_env_state_dict(env: EnvBase, state: Mapping[str, Any]) -> None:
    """Restore a snapshot of :func:`env_state_dict` into an environment built with the same arguments (any seed).

    Args:
        env: the environment to overwrite; it need not have been reset.
        state: the snapshot; it is not modified and may be loaded again.

    Raises:
        UserError: when the snapshot is of another task, number of environments, frame stack or image size.
    """
    if isinstance(env, TransformedEnv):
        _expect(state, "transform", env)
        load_env_state_dict(env.base_env, state["base"])
        _load_transform_state(env.transform, state["transform"])
    elif isinstance(env, SerialEnv):
        for worker, saved in zip(workers(env), _of_several(state, env), strict=True):
            load_env_state_dict(worker, saved)
    elif isinstance(env, Elsewhere):
        env.load_snapshots_of_all(_of_several(state, env) if env.batch_size else [state])
    else:
        _expect(state, "simulator", env)
        _simulator(env).load_simulator_state(state["simulator"])


def why_not_exact(env: EnvBase) -> str:
    """Return what keeps an environment, as far as it is known before a snapshot, from being saved exactly; or nothing.

    Args:
        env: as of :func:`env_state_dict`; one that has a method ``why_not_exact`` is asked.
    """
    if isinstance(env, TransformedEnv):
        return why_not_exact(env.base_env)
    if isinstance(env, SerialEnv):
        return next(filter(None, map(why_not_exact, workers(env))), "")
    if isinstance(env, Elsewhere):
        return env.why_not_exact()
    if not isinstance(env, Simulator):
        return f"{type(env).__name__} has no simulator_state() and load_simulator_state(state)"
    return env.why_not_exact() if hasattr(env, "why_not_exact") else ""


def _simulator(env: EnvBase) -> Simulator:
    if not isinstance(env, Simulator):
        raise UserError(
            f"{type(env).__name__} cannot be saved exactly: it needs simulator_state() and load_simulator_state(state)."
        )
    return env


def _of_several(state: Mapping[str, Any], env: EnvBase) -> list[Mapping[str, Any]]:
    _expect(state, "envs", env)
    saved, count = state["envs"], env.batch_size.numel()
    if len(saved) != count:
        raise UserError(f"The snapshot holds {len(saved)} environments, this run has num_envs={count}.")
    return saved


def _expect(state: Mapping[str, Any], key: str, env: EnvBase) -> None:
    if key not in state:
        raise UserError(f"The snapshot holds {list(state)}, but {type(env).__name__} needs {key!r}: other num_envs?")


def workers(env: SerialEnv) -> list[EnvBase]:
    """Return the environments inside, after starting them (TorchRL starts them at the first reset)."""
    if env.is_closed:
        env.start()
    return env._envs


# --- transforms


def _buffers(transform: torch.nn.Module) -> dict[str, tuple[torch.nn.Module, str, torch.Tensor]]:
    """Map full buffer names to (owner, name in the owner, value)."""
    return {
        f"{path}.{name}".lstrip("."): (module, name, value)
        for path, module in transform.named_modules()
        for name, value in module.named_buffers(recurse=False)
    }


def _transform_state(transform: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    """Copy all buffers; None stands for one that no reset has filled yet."""
    return {
        key: None if isinstance(value, UninitializedBuffer) else value.detach().cpu().clone()
        for key, (_, _, value) in _buffers(transform).items()
    }


def _load_transform_state(transform: torch.nn.Module, state: Mapping[str, torch.Tensor | None]) -> None:
    buffers = _buffers(transform)
    if set(buffers) != set(state):
        raise UserError(f"The snapshot has the transform buffers {sorted(state)}, the environment {sorted(buffers)}.")
    for key, (module, name, old) in buffers.items():
        new = state[key]
        if new is None:
            module._buffers[name] = UninitializedBuffer()
            continue
        if not isinstance(old, UninitializedBuffer) and old.shape != new.shape:
            raise UserError(
                f"The snapshot's {key} has shape {tuple(new.shape)}, the environment's {tuple(old.shape)}: "
                "use the frame_stack and image_size of the saved run."
            )
        module._buffers[name] = new.clone()


# --- plain values


def encode(value: Any) -> dict[str, Any] | None:
    """Return ``{kind: value}`` in tensors and plain Python, or None for what has no such form."""
    if isinstance(value, np.random.RandomState):
        name, keys, position, has_gauss, cached = value.get_state(legacy=True)
        # As int64, because PyTorch has only few operations on uint32.
        return {"random": [name, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached]}
    if isinstance(value, np.generic):
        return {"scalar": torch.from_numpy(np.array(value))} if value.dtype.kind in "biuf" else None
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())} if value.dtype.kind in "biuf" else None
    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    if isinstance(value, list | tuple):
        items = [encode(item) for item in value]
        # A named tuple is not rebuilt from its items alone; those found in tasks are constants.
        is_plain = type(value) in (list, tuple) and None not in items
        return {type(value).__name__: items} if is_plain else None
    return None


def decode(encoded: Mapping[str, Any]) -> Any:
    """Return what :func:`encode` was given."""
    ((kind, value),) = encoded.items()
    if kind == "random":
        generator = np.random.RandomState()
        generator.set_state((value[0], value[1].numpy().astype(np.uint32), *value[2:]))
        return generator
    if kind == "scalar":
        return value.numpy()[()]
    if kind == "array":
        return value.numpy().copy()
    if kind in ("list", "tuple"):
        items = [decode(item) for item in value]
        return items if kind == "list" else tuple(items)
    return value
