"""The options of a Gymnasium environment, ``gym:<id>``; gymnasium itself is imported when one is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from plasticity_rl.envs import gym_ids
from plasticity_rl.envs.extras import GYMNASIUM, Extra
from plasticity_rl.envs.image_sizes import as_height_and_width, refuse_image_size
from plasticity_rl.envs.options import StackedImages
from plasticity_rl.errors import at_least

if TYPE_CHECKING:
    from torchrl.envs import EnvBase


@dataclass(frozen=True, kw_only=True)
class GymOptions(StackedImages):
    """Any Gymnasium environment with continuous actions, ``gym:Pendulum-v1``; needs the extra ``[gym]``.

    What it shows is as of :class:`~plasticity_rl.envs.dmc_options.DMControlOptions`: ``pixels`` or ``state``, actions
    in [-1, 1] that are scaled to the environment's range, the sum of rewards over the repeat, and a discount of 0 after
    a termination only: at a time limit the return goes on with the value of the last observation.

    Args:
        task: ``gym:`` and the id of an environment, e.g. ``gym:Pendulum-v1``, ``gym:HalfCheetah-v5``, or
            ``gym:my_module:Line-v0`` of a module that registers it.
        observation: ``pixels``: what the environment draws (or shows, where its observation is an RGB image), resized;
            or ``state``: its observation as one float32 vector (``gymnasium.spaces.flatten``; of a Dict its parts in
            order).
        action_repeat: Steps of the environment per env step; many already hold an action for several simulator steps.
        frame_stack: Frames per observation.
        image_size: Height and width of a frame in pixels: one number, or two for images that are not square.

    Raises:
        UserError: For an option out of range, or when gymnasium is not installed.
    """

    title: ClassVar[str] = "Gymnasium"
    examples: ClassVar[str] = "gym:Pendulum-v1, gym:HalfCheetah-v5"
    extra: ClassVar[Extra] = GYMNASIUM

    frame_stack: int = 3
    image_size: int | tuple[int, int] = 84

    def __post_init__(self) -> None:
        """Refuse numbers that are not allowed."""
        super().__post_init__()
        at_least("frame_stack", self.frame_stack, 1)
        object.__setattr__(self, "image_size", refuse_image_size(self.image_size))

    @property
    def draws(self) -> bool:
        """Whether a step may draw with OpenGL: some environments draw by themselves, those of MuJoCo do with it."""
        return self.observation == "pixels"

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """Return none: what is registered is known when gymnasium is asked."""
        return ()

    @classmethod
    def check_task(cls, task: str) -> None:
        """Do nothing for an environment that is registered.

        Raises:
            UserError: For any other, with what gymnasium suggests; or when it is not installed.
        """
        gym_ids.require_registered(task)

    @classmethod
    def check_task_early(cls, task: str) -> None:
        """Ask Gymnasium, unless that imports something else too: a module of the user's, or plugins.

        Raises:
            UserError: For an environment that is not registered, or when Gymnasium is not installed.
        """
        cls.extra.require(f"task={task}")
        if ":" not in task.removeprefix(gym_ids.PREFIX) and not gym_ids.has_plugins():
            gym_ids.require_registered(task)

    def build(self, seed: int) -> EnvBase:
        """Return a :class:`~plasticity_rl.envs.gym_env.GymEnv`, with a frame stack over it for pixels.

        Raises:
            UserError: For an environment that agents here cannot act in, or that cannot be drawn.
        """
        from plasticity_rl.envs.gym_env import GymEnv

        # isort: split
        from torchrl.envs import CatFrames, TransformedEnv

        seen = self.observation == "pixels"
        size = as_height_and_width(self.image_size) if seen else None
        env = GymEnv(self.task, seed=seed, action_repeat=self.action_repeat, image_size=size)
        return TransformedEnv(env, CatFrames(self.frame_stack, dim=-3, in_keys=["pixels"])) if seen else env
