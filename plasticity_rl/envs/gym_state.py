"""Exact snapshots of Gymnasium environments, as tensors and plain Python.

An environment that is plain Python (classic control, most of one's own) is its attributes and those of its wrappers:
numbers, arrays, texts, lists, dicts and generators. One of Gymnasium's MuJoCo also has a simulation, whose arrays are
copied. Anything else that an attribute holds (a world of Box2D, an emulator) has no plain form, and such an environment
cannot be saved, unless it says how: methods ``simulator_state()`` and ``load_simulator_state(state)`` of the innermost
one. Pickles were looked at: loading one runs what whoever wrote the checkpoint liked.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from plasticity_rl.envs import snapshots
from plasticity_rl.errors import UserError
from plasticity_rl.machine.rendering import prepare, rendering_errors

prepare()
with rendering_errors():  # a wrong MUJOCO_GL fails here
    import mujoco

_INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)
CONSTANT = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
"""Values that do not change with the steps."""
OF_PACKAGES = ("pygame", "gymnasium.spaces", "gymnasium.envs.registration", "gymnasium.envs.mujoco.mujoco_rendering")
"""Where classes come from whose objects decide nothing: what draws, and what describes."""
NOT_OURS = ("env", "_saved_kwargs", "_cached_spec")
"""Attributes of wrappers that are saved by themselves, or are how they were made."""
GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def _layers(env: Any) -> Iterator[Any]:
    """Yield all wrappers and, last, the environment inside."""
    while env is not env.unwrapped:
        yield env
        env = env.env
    yield env


def _says_how(inner: Any) -> bool:
    return isinstance(inner, snapshots.Simulator)


def _attributes(layer: Any) -> Iterator[tuple[str, Any]]:
    for name, value in vars(layer).items():
        module = type(value).__module__
        constant = isinstance(value, CONSTANT) or any(f"{module}.".startswith(f"{one}.") for one in OF_PACKAGES)
        simulation = isinstance(value, mujoco.MjModel | mujoco.MjData)
        if not constant and not simulation and name not in NOT_OURS:
            yield name, value


def why_not(env: Any) -> str:
    """Return what keeps an environment from being saved exactly, or an empty string."""
    layers = list(_layers(env))
    for layer in layers[:-1] if _says_how(layers[-1]) else layers:
        for name, value in _attributes(layer):
            if encode(value) is None:
                kind = f"{type(value).__module__}.{type(value).__qualname__}"
                return f"{type(layer).__name__}.{name} is a {kind}, which has no form as plain data"
    return ""


def state_of(env: Any, model: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Snapshot an environment.

    Args:
        env: It, with its wrappers.
        model: What :func:`model_of` returned when it was made.

    Raises:
        UserError: When it cannot be saved exactly.
    """
    if reason := why_not(env):
        raise UserError(
            f"{env.spec.id if env.spec else type(env.unwrapped).__name__} cannot be saved exactly: {reason}"
        )
    *wrappers, inner = _layers(env)
    state: dict[str, Any] = {"wrappers": [_encoded(layer) for layer in wrappers]}
    if _says_how(inner):
        return {**state, "inner": inner.simulator_state()}
    state["inner"] = _encoded(inner)
    if model:
        state["mujoco"] = _simulation(inner, model)
    return state


def load_state(env: Any, state: Mapping[str, Any], model: Mapping[str, np.ndarray]) -> None:
    """Restore :func:`state_of` into an environment made in the same way."""
    *wrappers, inner = _layers(env)
    for layer, saved in zip(wrappers, state["wrappers"], strict=True):
        _restore(layer, saved)
    if _says_how(inner):
        inner.load_simulator_state(state["inner"])
        return
    _restore(inner, state["inner"])
    if model:
        _load_simulation(inner, state["mujoco"], model)


def _encoded(layer: Any) -> dict[str, Any]:
    return {name: encode(value) for name, value in _attributes(layer)}


def _restore(layer: Any, saved: Mapping[str, Any]) -> None:
    for name, value in saved.items():
        setattr(layer, name, decode(value))


# ---- MuJoCo ----------------------------------------------------------------------------------------------------------


def model_of(env: Any) -> dict[str, np.ndarray]:
    """Return copies of the arrays of an environment's MuJoCo model as it was built; nothing where there is none."""
    model = getattr(env.unwrapped, "model", None)
    return {name: value.copy() for name, value in _arrays(model).items()} if isinstance(model, mujoco.MjModel) else {}


def _arrays(struct: Any) -> dict[str, np.ndarray]:
    """Return writable views of all arrays of a MuJoCo struct."""
    names = (name for name in dir(struct) if not name.startswith("_"))
    return {name: value for name in names if isinstance(value := getattr(struct, name), np.ndarray) and value.size}


def _simulation(inner: Any, pristine: Mapping[str, np.ndarray]) -> dict[str, Any]:
    saved = np.empty(mujoco.mj_stateSize(inner.model, _INTEGRATION))
    mujoco.mj_getState(inner.model, inner.data, saved, _INTEGRATION)
    changed = {
        name: torch.from_numpy(value.copy())
        for name, value in _arrays(inner.model).items()
        if not np.array_equal(value, pristine[name], equal_nan=value.dtype.kind == "f")
    }
    # What follows from positions is of the simulator step before: some rewards read it, so it is kept as it is.
    arrays = {name: torch.from_numpy(value.copy()) for name, value in _arrays(inner.data).items()}
    return {"state": torch.from_numpy(saved), "model": changed, "data": arrays}


def _load_simulation(inner: Any, state: Mapping[str, Any], pristine: Mapping[str, np.ndarray]) -> None:
    for name, array in _arrays(inner.model).items():
        array[...] = state["model"][name].numpy() if name in state["model"] else pristine[name]
    saved = state["state"].numpy()
    mujoco.mj_setState(inner.model, inner.data, saved, _INTEGRATION)
    mujoco.mj_forward(inner.model, inner.data)
    mujoco.mj_setState(inner.model, inner.data, saved, _INTEGRATION)  # the forward pass moves the warm start
    for name, array in _arrays(inner.data).items():
        value = state["data"].get(name)
        if value is not None and tuple(value.shape) == array.shape:  # as many contacts; the next step makes its own
            array[...] = value.numpy()


# ---- attributes ------------------------------------------------------------------------------------------------------


def encode(value: Any) -> dict[str, Any] | None:
    """Return ``{kind: value}`` in tensors and plain Python, or None for what has no such form."""
    if isinstance(value, np.random.Generator):
        state = value.bit_generator.state
        return {"generator": encode(state)} if state["bit_generator"] in GENERATORS else None
    if type(value) is dict:
        pairs = [[encode(key), encode(one)] for key, one in value.items()]
        return {"dict": pairs} if all(None not in pair for pair in pairs) else None
    if type(value) in (list, tuple, deque):
        items = [encode(one) for one in value]
        if None in items:
            return None
        return {"deque": [items, value.maxlen]} if isinstance(value, deque) else {type(value).__name__: items}
    return snapshots.encode(value)


def decode(encoded: Mapping[str, Any]) -> Any:
    """Return what :func:`encode` was given."""
    ((kind, value),) = encoded.items()
    if kind == "generator":
        state = decode(value)
        name = state["bit_generator"]
        if name not in GENERATORS:
            raise UserError(f"The snapshot names a generator {name!r}; there are {', '.join(GENERATORS)}.")
        bits = getattr(np.random, name)()
        bits.state = state
        return np.random.Generator(bits)
    if kind == "dict":
        return {decode(key): decode(one) for key, one in value}
    if kind == "deque":
        return deque(map(decode, value[0]), value[1])
    if kind in ("list", "tuple"):
        return list(map(decode, value)) if kind == "list" else tuple(map(decode, value))
    return snapshots.decode(encoded)
