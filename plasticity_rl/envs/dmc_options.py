"""The options of a DeepMind Control environment; dm_control itself is imported when one is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from plasticity_rl.envs.dmc_tasks import described_tasks
from plasticity_rl.envs.image_sizes import as_height_and_width, refuse_image_size
from plasticity_rl.envs.options import Observation, StackedImages
from plasticity_rl.errors import at_least, at_most, one_of

if TYPE_CHECKING:
    from torchrl.envs import EnvBase

MAX_IMAGE_SIZE = 4096
"""Pixels. There a frame buffer of MuJoCo takes 1.9 GB (112 bytes a pixel, measured with Mesa, which draws 8192 pixels
too but not 16384), and the published agent 240 GB of weights, gradients and moments."""


@dataclass(frozen=True, kw_only=True)
class DMControlOptions(StackedImages):
    """A task of the DeepMind Control Suite, or a manipulation task.

    Keys:

    - ``pixels``: uint8 in [0, 255], shape (3 * frame_stack, height, width), the oldest frame first; after a reset the
      first frame fills the stack. Or ``state``: float32 (n,), dm_control's own observations, each flattened,
      joined in the order of its dictionary; of this moment only, not stacked. Manipulation tasks are then dm_control's
      ``features`` variant.
    - ``action``: float32 in [-1, 1].
    - ``reward``: float32 (1,), the sum over the repeat.
    - ``discount``: float32 (1,), of the step that led here: 1, also at a time limit and after a reset; 0 at a true
      termination.
    - ``done``, ``terminated``, ``truncated``: bool (1,).

    ``env.set_seed(seed)`` replaces the generator of the task, touches no global one and resets nothing: what follows
    the next ``reset`` depends on the seed and the actions only. The base environment has ``task_name`` and
    ``action_repeat``.

    Args:
        task: Task name, e.g. ``walker_run``, ``cup_catch``, ``reach_duplo``; or ``gym:Pendulum-v1`` and other ids of
            Gymnasium, or ``torchrl:my_module.MyEnv``, which have options of their own.
        observation: ``pixels``, or ``state``: the task's own observations as one float32 vector (positions, velocities
            ...), without rendering. The options of pictures then have no meaning: ``frame_stack``, ``image_size``,
            ``render``, ``camera_id``.
        action_repeat: Simulator frames per env step (agent decision); the end of an episode cuts the last one short.
        frame_stack: Frames per observation.
        image_size: Height and width of a frame in pixels: one number, or two for images that are not square.
        render: ``exact`` gives the published pixels; ``fast`` leaves out shadows, reflections and multisampling
            (several times faster in software, visibly different pixels).
        camera_id: Camera, -1 for the free one, or None for the published choice (quadruped 2, the close front camera
            for manipulation, others 0).

    Raises:
        UserError: For an option out of range.
    """

    title: ClassVar[str] = "DeepMind Control"
    examples: ClassVar[str] = "walker_run, cartpole_swingup, cup_catch"
    of_images: ClassVar[tuple[str, ...]] = ("frame_stack", "image_size", "render", "camera_id")

    task: str = field(default="walker_run", kw_only=False)
    action_repeat: int = 2
    frame_stack: int = 3
    image_size: int | tuple[int, int] = 84
    render: Literal["exact", "fast"] = "exact"
    camera_id: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers and names that are not allowed; of cameras, the task's model knows how many there are."""
        super().__post_init__()
        at_least("frame_stack", self.frame_stack, 1)
        object.__setattr__(self, "image_size", refuse_image_size(self.image_size))
        one_of("render", self.render, ("exact", "fast"))
        if self.draws:
            reason = "neither frame buffers nor networks go much beyond; published: 84"
            at_most("image_size", max(as_height_and_width(self.image_size)), MAX_IMAGE_SIZE, reason)

    @classmethod
    def draws_to_show(cls, observation: Observation) -> bool:
        """Pixels are drawn, states are not."""
        return observation == "pixels"

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """Return all task names, sorted: ``walker_run``, ``cup_catch``, ``reach_duplo`` ..."""
        from plasticity_rl.envs.dmc import tasks

        return tuple(sorted(tasks()))

    @classmethod
    def task_descriptions(cls) -> dict[str, str]:
        """Return all task names, each with what dm_control says of it."""
        return described_tasks()

    def build(self, seed: int) -> EnvBase:
        """Return a TransformedEnv (frame stack) over :class:`~plasticity_rl.envs.dmc.DMCEnv`, or for states a DMCEnv.

        Raises:
            UserError: For a camera the task does not have, or when rendering does not start.
        """
        from plasticity_rl.envs.dmc import DMCEnv  # first: it chooses OpenGL's backend before TorchRL imports mujoco

        # isort: split
        from torchrl.envs import CatFrames, TransformedEnv

        seen = self.observation == "pixels"
        env = DMCEnv(
            self.task,
            seed=seed,
            action_repeat=self.action_repeat,
            image_size=self.image_size if seen else None,
            render=self.render,
            camera_id=self.camera_id,
        )
        return TransformedEnv(env, CatFrames(self.frame_stack, dim=-3, in_keys=["pixels"])) if seen else env
