"""One DeepMind Control task as a TorchRL base environment, numerically identical to the DrQ-v2 wrapper stack.

One agent step: the action is scaled to the task's range in float32, held for ``action_repeat`` simulator steps whose
rewards are summed, and only then one image is drawn (drawing is most of the cost). TorchRL's ``frame_skip`` draws every
skipped frame and its action scaling rounds differently, which is why both are done below TorchRL here.

Two deviations from the DrQ-v2 stack, on purpose: a true termination has discount 0 (there, 0 becomes 1), and the frame
buffer has the size of the image instead of 640 x 480 (the pixels are the same).
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from typing import Any

import dm_env
import numpy as np
import torch
from dm_env import specs
from tensordict import TensorDict, TensorDictBase

from plasticity_rl.envs import dmc_snapshots, snapshots
from plasticity_rl.envs.image_sizes import as_height_and_width
from plasticity_rl.errors import UserError
from plasticity_rl.machine.rendering import (
    check_display,
    free_at_exit,
    free_contexts,
    keep_render_threads,
    prepare,
    rendering_errors,
)

prepare()
with rendering_errors():
    with warnings.catch_warnings():  # dm_control turns every DeprecationWarning of every package on when imported
        from dm_control import manipulation, mujoco, suite
        from dm_control.suite.wrappers import action_scale
    from torchrl.data import Bounded, Categorical, Composite, Unbounded
    from torchrl.envs import EnvBase
keep_render_threads()

_MANIPULATION_CAMERA = "front_close"


@functools.cache
def tasks() -> dict[str, tuple[str, str]]:
    """Map the usual DrQ-v2 names to (domain, task) of the suite, or to ("", name) of a manipulation task."""
    names = {}
    for domain, task in suite.ALL_TASKS:
        names[f"{'cup' if domain == 'ball_in_cup' else domain}_{task}"] = (domain, task)
    for name in manipulation.get_environments_by_tag("vision"):
        names[name.removesuffix("_vision")] = ("", name.removesuffix("_vision"))
    return names


class _Float32Action(dm_env.Environment):
    """Declare float32 actions, so that the scaling above rounds to float32 before the simulator widens them again."""

    def __init__(self, env: dm_env.Environment) -> None:
        self._env = env
        inner = env.action_spec()
        self._dtype = inner.dtype
        self._spec = specs.BoundedArray(inner.shape, np.float32, inner.minimum, inner.maximum, inner.name)

    def reset(self) -> dm_env.TimeStep:
        return self._env.reset()

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        return self._env.step(action.astype(self._dtype))

    def action_spec(self) -> specs.BoundedArray:
        return self._spec

    def observation_spec(self) -> Any:
        return self._env.observation_spec()


class _ActionRepeat(dm_env.Environment):
    """Hold each action: rewards are summed, weighted by the discounts before them; discounts are multiplied."""

    def __init__(self, env: dm_env.Environment, times: int) -> None:
        self._env = env
        self._times = times

    def reset(self) -> dm_env.TimeStep:
        return self._env.reset()

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        reward, discount = 0.0, 1.0
        for _ in range(self._times):
            time_step = self._env.step(action)
            if time_step.first():
                raise RuntimeError("step() after the end of an episode: call reset() first.")
            reward += time_step.reward * discount
            discount *= time_step.discount
            if time_step.last():
                break
        return time_step._replace(reward=reward, discount=discount)

    def action_spec(self) -> specs.BoundedArray:
        return self._env.action_spec()

    def observation_spec(self) -> Any:
        return self._env.observation_spec()


def _load(task: str, seed: int, from_pixels: bool) -> Any:
    """Return the bare dm_control environment: of the suite, or of composer for a manipulation task."""
    domain, name = tasks()[task]
    if domain:
        return suite.load(domain, name, task_kwargs={"random": seed}, visualize_reward=False)
    env = manipulation.load(f"{name}_{'vision' if from_pixels else 'features'}", seed=seed)
    if from_pixels:
        # The observables would draw an image at every simulator step; DMCEnv draws one per agent step instead.
        for observable in env.task.observables.values():
            observable.enabled = False
    return env


@functools.lru_cache(maxsize=4)
def _pristine_model(task: str, from_pixels: bool) -> dict[str, np.ndarray]:
    """Return the model arrays of a new build with seed 0, the common base of snapshots in all processes."""
    env = _load(task, 0, from_pixels)
    arrays = {name: value.copy() for name, value in dmc_snapshots.model_arrays(env.physics).items()}
    env.physics.free()
    return arrays


class DMCEnv(EnvBase):
    """One DeepMind Control task with single frames or state.

    :class:`~plasticity_rl.envs.dmc_options.DMControlOptions` documents the keys.

    Attributes:
        task_name: name of the task, as in :func:`plasticity_rl.envs.task_names`.
        action_repeat: simulator steps per agent step.

    Args:
        task: one of :func:`plasticity_rl.envs.task_names`.
        seed: seed of the task's generator.
        action_repeat: simulator steps per agent step.
        image_size: height and width of ``pixels`` in pixels, one number or two; None observes the state.
        render: drawing quality, ``exact`` or ``fast``.
        camera_id: camera number, None for the usual one.

    Raises:
        UserError: for a camera the task does not have, or when rendering does not start.
    """

    def __init__(
        self,
        task: str,
        *,
        seed: int,
        action_repeat: int = 2,
        image_size: int | tuple[int, int] | None = 84,
        render: str = "exact",
        camera_id: int | None = None,
    ) -> None:
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size())
        self.task_name = task
        self.action_repeat = action_repeat
        self._in_suite = bool(tasks()[task][0])
        self._image_size = None if image_size is None else as_height_and_width(image_size)
        self._flags = {"shadow": False, "reflection": False} if render == "fast" else {}
        self._dm_env = _load(task, seed, image_size is not None)
        stack = _ActionRepeat(_Float32Action(self._dm_env), action_repeat)
        self._stack = action_scale.Wrapper(stack, minimum=-1.0, maximum=+1.0)
        self._camera = self._choose_camera(camera_id)
        self._buffer = self._image_size or (1, 1)
        self._eye: mujoco.Camera | None = None
        self._reset_generator: np.random.RandomState | None = None
        free_at_exit(self)
        if self._image_size is not None:
            self._draw_observation(*self._image_size)  # fails here rather than in the middle of a run
        self._make_specs()

    @property
    def episode_steps(self) -> float:
        """Env steps of an episode that nothing ends early, or infinity; of manipulation tasks at least so many."""
        if self._in_suite:
            frames = self._dm_env._step_limit
        else:
            frames = self._dm_env._time_limit / self._dm_env.control_timestep()
        return math.ceil(frames / self.action_repeat) if frames < math.inf else math.inf

    def _choose_camera(self, camera_id: int | None) -> int | str:
        if camera_id is None:
            if not self._in_suite:
                return _MANIPULATION_CAMERA
            return 2 if self.task_name.startswith("quadruped_") else 0  # number 0 is too far from the quadruped
        cameras = self._dm_env.physics.model.ncam
        if not -1 <= camera_id < cameras:
            raise UserError(f"camera_id={camera_id} is not allowed: {self.task_name} has -1 (free) to {cameras - 1}.")
        return camera_id

    def _make_specs(self) -> None:
        flag = Categorical(2, shape=(1,), dtype=torch.bool)
        self.observation_spec = Composite(self._observation_spec(), discount=Bounded(0, 1, (1,), dtype=torch.float32))
        self.action_spec = Bounded(-1, 1, self._stack.action_spec().shape, dtype=torch.float32)
        self.reward_spec = Unbounded((1,), dtype=torch.float32)
        self.done_spec = Composite(done=flag.clone(), terminated=flag.clone(), truncated=flag.clone())

    def _observation_spec(self) -> dict[str, Bounded | Unbounded]:
        if self._image_size is not None:
            return {"pixels": Bounded(0, 255, (3, *self._image_size), dtype=torch.uint8)}
        size = sum(int(np.prod(spec.shape)) for spec in self._dm_env.observation_spec().values())
        return {"state": Unbounded((size,), dtype=torch.float32)}

    def _observe(self, time_step: dm_env.TimeStep) -> dict[str, torch.Tensor]:
        if self._image_size is not None:
            return {"pixels": torch.from_numpy(self._draw_observation(*self._image_size).transpose(2, 0, 1).copy())}
        flat = np.concatenate([np.ravel(value) for value in time_step.observation.values()])
        return {"state": torch.from_numpy(flat.astype(np.float32))}

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        if not self._in_suite:
            self._reset_generator = copy.deepcopy(self._dm_env.random_state)
        data = {**self._observe(self._stack.reset()), "discount": torch.ones(1)}
        return TensorDict(data, self.batch_size, self.device)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        time_step = self._stack.step(tensordict["action"].numpy())
        done = time_step.last()
        terminated = done and time_step.discount < 1
        flags = {"done": done, "terminated": terminated, "truncated": done and not terminated}
        data = {
            **self._observe(time_step),
            "discount": torch.tensor([time_step.discount], dtype=torch.float32),
            "reward": torch.tensor([time_step.reward], dtype=torch.float32),
            **{name: torch.tensor([flag]) for name, flag in flags.items()},
        }
        return TensorDict(data, self.batch_size, self.device)

    def _set_seed(self, seed: int | None) -> None:
        """Replace the task's generator. Nothing is reset: the next reset is the first that draws from it."""
        if seed is not None:
            owner, name = (self._dm_env.task, "_random") if self._in_suite else (self._dm_env, "_random_state")
            setattr(owner, name, np.random.RandomState(seed))

    def render_rgb(self, height: int, width: int) -> np.ndarray:
        """Draw the present state, as uint8 RGB (height, width, 3)."""
        if height > self._buffer[0] or width > self._buffer[1]:
            self.free_rendering()
            self._buffer = (max(height, self._buffer[0]), max(width, self._buffer[1]))
        self._prepare_drawing()
        return self._dm_env.physics.render(height, width, camera_id=self._camera, render_flag_overrides=self._flags)

    def _draw_observation(self, height: int, width: int) -> np.ndarray:
        """Return a view of a buffer that the next call overwrites, uint8 RGB (height, width, 3)."""
        self._prepare_drawing()
        if self._eye is None:
            # A new camera and scene for every image, as in physics.render, would double the time of a "fast" one.
            self._eye = mujoco.Camera(self._dm_env.physics, height, width, self._camera)
        return self._eye.render(render_flag_overrides=self._flags)

    def _prepare_drawing(self) -> None:
        """Make the OpenGL contexts if there are none: at first, after freeing, or when composer built a new model."""
        physics = self._dm_env.physics
        if physics._contexts is not None:
            return
        check_display()
        self._eye = None  # may look at a model that composer has freed
        physics.model.vis.global_.offheight, physics.model.vis.global_.offwidth = self._buffer
        if self._flags:
            physics.model.vis.quality.offsamples = 0
        with rendering_errors():
            physics.contexts  # noqa: B018 - the property makes them

    def free_rendering(self) -> None:
        """Free the OpenGL contexts; the next frame makes new ones."""
        if self._dm_env.physics is not None:
            free_contexts(self._dm_env.physics)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Free the OpenGL contexts and mark the environment closed. Closing twice is harmless."""
        self.free_rendering()
        super().close(raise_if_closed=raise_if_closed)

    def simulator_state(self) -> dict[str, Any]:
        """Return an exact snapshot of the simulation and the task, as tensors and plain Python."""
        pristine = _pristine_model(self.task_name, self._image_size is not None)
        state = {"task_name": self.task_name, **dmc_snapshots.dm_env_state(self._dm_env, pristine)}
        if not self._in_suite:
            state["reset_generator"] = snapshots.encode(self._reset_generator)
        return state

    def load_simulator_state(self, state: dict[str, Any]) -> None:
        """Restore a snapshot of the same task.

        Raises:
            UserError: for a snapshot of another task.
        """
        if state.get("task_name") != self.task_name:
            saved = state.get("task_name")
            raise UserError(f"The snapshot is of task {saved}, this environment is of task {self.task_name}.")
        if not self._in_suite:
            # Composer builds a new model for each episode (other sizes, other order of bricks): repeat that reset.
            self._reset_generator = snapshots.decode(state["reset_generator"])
            self._dm_env._random_state = copy.deepcopy(self._reset_generator) or self._dm_env.random_state
            self._dm_env.reset()
        pristine = _pristine_model(self.task_name, self._image_size is not None)
        dmc_snapshots.load_dm_env_state(self._dm_env, state, pristine)
