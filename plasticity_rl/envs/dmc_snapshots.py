"""Exact snapshots of dm_control: of the suite and of composer.

MuJoCo needs:

- the integration state (positions, velocities, warm start, controls, time ...), not only positions and velocities;
- every model array that differs from a freshly built model, because many tasks move their target by editing the model;
- the task's own variables and random generator, the episode's step count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from plasticity_rl.envs.snapshots import decode, encode
from plasticity_rl.errors import UserError
from plasticity_rl.machine.rendering import free_contexts, prepare, rendering_errors

prepare()
with rendering_errors():
    import mujoco

_INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)
# Arrays which the GPU holds a copy of: drawing after a change needs a new upload.
_UPLOADED = ("hfield_", "mesh_", "skin_", "tex_")


def model_arrays(physics: Any) -> dict[str, np.ndarray]:
    """Return writable views of all arrays of a dm_control physics' MuJoCo model, by name."""
    model = physics.model.ptr
    names = (name for name in dir(model) if not name.startswith("_"))
    return {name: value for name in names if isinstance(value := getattr(model, name), np.ndarray)}


def dm_env_state(env: Any, pristine: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Snapshot a dm_control environment, of the suite or of composer.

    Args:
        env: ``dm_control.rl.control.Environment`` or ``dm_control.composer.Environment``.
        pristine: arrays of a model of the same task as built, before any reset; the same in every process.

    Returns:
        Tensors and plain Python.
    """
    physics = env.physics
    changed = {
        name: torch.from_numpy(value.copy())
        for name, value in model_arrays(physics).items()
        if not np.array_equal(value, pristine[name], equal_nan=value.dtype.kind == "f")
    }
    return {
        "physics": torch.from_numpy(physics.get_state(_INTEGRATION)),
        "model": changed,
        "task": _encode_attributes(env.task),
        "episode": _encode_attributes(env, only=("_step_count", "_reset_next_step", "_random_state")),
    }


def load_dm_env_state(env: Any, state: Mapping[str, Any], pristine: Mapping[str, np.ndarray]) -> None:
    """Restore :func:`dm_env_state` into an environment of the same task.

    Args:
        env: the environment to overwrite. One of composer must have gone through the reset that began the saved
            episode, because that builds the model.
        state: a snapshot.
        pristine: as for :func:`dm_env_state`.

    Raises:
        UserError: when the snapshot's model has other sizes than the environment's.
    """
    physics = env.physics
    size = mujoco.mj_stateSize(physics.model.ptr, _INTEGRATION)
    if size != len(state["physics"]):
        raise UserError(f"The snapshot's physics has {len(state['physics'])} numbers, this environment's {size}.")
    _load_model(physics, state["model"], pristine)
    _decode_attributes(env.task, state["task"])
    _decode_attributes(env, state["episode"])
    # The forward pass recomputes what is derived from the state, but also moves the warm start: so set once more.
    saved = state["physics"].numpy()
    physics.set_state(saved, _INTEGRATION)
    with physics.suppress_physics_errors():
        physics.forward()
    physics.set_state(saved, _INTEGRATION)


def _load_model(physics: Any, changed: Mapping[str, torch.Tensor], pristine: Mapping[str, np.ndarray]) -> None:
    upload = False
    for name, array in model_arrays(physics).items():
        value = changed[name].numpy() if name in changed else pristine[name]
        if array.shape != value.shape:
            raise UserError(f"The snapshot's {name} has shape {value.shape}, this environment's {array.shape}.")
        if not np.array_equal(array, value, equal_nan=array.dtype.kind == "f"):
            array[...] = value
            upload = upload or name.startswith(_UPLOADED)
    if upload:
        free_contexts(physics)


def _encode_attributes(owner: Any, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Encode the attributes that plain data can express; the others (entities, observables) do not change."""
    encoded = {}
    for name, value in vars(owner).items():
        if not only or name in only:
            with_kind = encode(value)
            if with_kind is not None:
                encoded[name] = with_kind
    return encoded


def _decode_attributes(owner: Any, encoded: Mapping[str, Any]) -> None:
    for name, value in encoded.items():  # some tasks add attributes at their first reset, so owner may lack them yet
        setattr(owner, name, decode(value))
