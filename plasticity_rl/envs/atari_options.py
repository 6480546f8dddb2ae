"""The options of an Atari environment; ale-py itself is imported when one is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from plasticity_rl.envs.atari_games import GAMES
from plasticity_rl.envs.extras import ALE, Extra
from plasticity_rl.envs.options import EnvironmentOptions
from plasticity_rl.errors import at_least, at_most, one_of, within

if TYPE_CHECKING:
    from torchrl.envs import EnvBase

PREFIX = "atari:"
SCREEN_WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class AtariOptions(EnvironmentOptions):
    """An Atari 2600 game; needs the extra ``atari`` (ale-py).

    The defaults are those of DQN and Rainbow (google-deepmind/dqn_zoo), but for the mean over areas, which is
    Dopamine's and gymnasium's way to 84 x 84. Of the frames that an action is held, the last two are combined by their
    maximum; a step that the end of the game cuts short shows its last frame.

    Keys:

    - ``pixels``: uint8 in [0, 255], gray, shape (frame_stack, image_size, image_size), the oldest frame first; after a
      reset the first frame fills the stack.
    - ``action``: int64 (1,), a whole number below ``num_actions`` of the base environment.
    - ``reward``: float32 (1,), the game's score of this step, not clipped.
    - ``discount``: float32 (1,), of the step that led here: 0 when the game is over, and with ``life_loss`` when a life
      was lost; else 1, also at the time limit and after a reset.
    - ``done``, ``terminated``, ``truncated``: bool (1,). A lost life ends no episode.

    ``env.set_seed(seed)`` replaces the generator of no-op starts and sticky actions, and resets nothing. The base
    environment has ``task_name``, ``action_repeat`` and ``num_actions``.

    Args:
        task: Name of the game, e.g. ``atari:pong``, ``atari:ms_pacman``.
        observation: ``pixels``; there is nothing else to see.
        action_repeat: Emulator frames per env step (agent decision); the end of a game cuts the last one short.
        frame_stack: Frames per observation.
        image_size: Height and width of a frame in pixels; published: 84.
        full_actions: Whether to offer all 18 actions of the console, not only those that the game knows; games of one
            network must have equally many.
        sticky: Probability, at every frame, that the action of the frame before goes on; published: 0, or 0.25
            (Machado et al. 2018).
        noops: Largest number of no-ops at a start; 0 for none.
        noop_unit: ``frames``: 1 to ``noops`` frames (DQN Zoo, gymnasium); ``env_steps``: 0 to ``noops`` - 1 times
            ``action_repeat`` frames (Dopamine's Atari-100k).
        life_loss: Whether the discount is 0 where a life is lost; the episode goes on, and returns are whole games'.
        max_episode_frames: Emulator frames after the no-ops at which an episode is truncated; published: 108000.

    Raises:
        UserError: For an option out of range.
    """

    title: ClassVar[str] = "Atari"
    examples: ClassVar[str] = "atari:breakout, atari:ms_pacman, atari:pong"
    extra: ClassVar[Extra] = ALE

    task: str = field(default="atari:pong", kw_only=False)
    action_repeat: int = 4
    frame_stack: int = 4
    image_size: int = 84
    full_actions: bool = False
    sticky: float = 0.0
    noops: int = 30
    noop_unit: Literal["frames", "env_steps"] = "frames"
    life_loss: bool = True
    max_episode_frames: int = 108_000

    def __post_init__(self) -> None:
        """Refuse numbers and names that are not allowed."""
        super().__post_init__()
        one_of("observation", self.observation, ("pixels",), f": {self.title} has no other")
        for name in ("frame_stack", "image_size", "max_episode_frames"):
            at_least(name, getattr(self, name), 1)
        reason = "a screen is that many pixels wide, and the mean over areas only shrinks; published: 84"
        at_most("image_size", self.image_size, SCREEN_WIDTH, reason)
        within("sticky", self.sticky, "[0, 1)", "; published: 0 or 0.25")
        at_least("noops", self.noops, 0, "; published: 30")
        one_of("noop_unit", self.noop_unit, ("frames", "env_steps"))
        for name in ("full_actions", "life_loss"):
            one_of(name, getattr(self, name), (True, False))

    @property
    def game(self) -> str:
        """Name of the game, without what stands before it."""
        return self.task.removeprefix(PREFIX)

    @property
    def stacked_frames(self) -> int:
        """Frames in one observation."""
        return self.frame_stack

    @property
    def least_observation_bytes(self) -> int:
        """Bytes of a stack of gray frames."""
        return self.frame_stack * self.image_size**2

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """Return the names of all games, sorted: ``atari:pong``, ``atari:ms_pacman`` ..."""
        return tuple(PREFIX + game for game in GAMES)

    @classmethod
    def task_descriptions(cls) -> dict[str, str]:
        """Return the names of all games, with how they are written."""
        written = {PREFIX + game: game.replace("_", " ").title() for game in GAMES}
        return {task: f"Atari 2600: {name} (extra atari)." for task, name in written.items()}

    def build(self, seed: int) -> EnvBase:
        """Return a TransformedEnv (frame stack) over :class:`~plasticity_rl.envs.atari.AtariEnv`.

        Raises:
            UserError: When ale-py is missing.
        """
        from torchrl.envs import CatFrames, TransformedEnv

        from plasticity_rl.envs.atari import AtariEnv

        taken = {name: value for name, value in self.values.items() if name not in ("observation", "frame_stack")}
        env = AtariEnv(game=self.game, seed=seed, **taken)
        return TransformedEnv(env, CatFrames(self.frame_stack, dim=-3, in_keys=["pixels"]))
