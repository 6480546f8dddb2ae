"""The options of a MinAtar environment; minatar itself is imported when one is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from plasticity_rl.envs.extras import MINATAR, Extra
from plasticity_rl.envs.minatar_games import CHANNELS, SIDE
from plasticity_rl.envs.options import EnvironmentOptions
from plasticity_rl.errors import at_least, one_of, within

if TYPE_CHECKING:
    from torchrl.envs import EnvBase

PREFIX = "minatar:"


@dataclass(frozen=True, kw_only=True)
class MinAtarOptions(EnvironmentOptions):
    """A MinAtar game (Young and Tian 2019), for experiments of minutes; needs the extra ``minatar``.

    Keys:

    - ``pixels``: uint8, 0 or 255, shape (channels, 10, 10), one channel for each kind of thing.
    - ``action``: int64 (1,), a whole number below ``num_actions`` of the base environment.
    - ``reward``: float32 (1,), the game's score of this step.
    - ``discount``: float32 (1,), of the step that led here: 0 when the game is over; else 1, also at the time limit and
      after a reset.
    - ``done``, ``terminated``, ``truncated``: bool (1,).

    ``env.set_seed(seed)`` replaces the generator of the game and its sticky actions, and resets nothing. The base
    environment has ``task_name``, ``action_repeat`` and ``num_actions``.

    Args:
        task: Name of the game: ``minatar:asterix``, ``minatar:breakout``, ``minatar:freeway``, ``minatar:seaquest``,
            ``minatar:space_invaders``.
        observation: ``pixels``; there is nothing else to see.
        action_repeat: Game frames per env step (agent decision); published: 1.
        channels: Channels of an observation, filled up with empty ones, or None for the game's own (4, 4, 7, 10, 6);
            games of one network must have equally many: 10.
        full_actions: Whether to offer all 6 actions, not only those that the game knows; games of one network must have
            equally many.
        sticky: Probability, at every frame, that the action of the frame before goes on; published: 0.1.
        difficulty_ramping: Whether Asterix, Seaquest and Space Invaders become harder with time.
        max_episode_frames: Game frames at which an episode is truncated.

    Raises:
        UserError: For an option out of range.
    """

    title: ClassVar[str] = "MinAtar"
    examples: ClassVar[str] = "minatar:breakout, minatar:space_invaders"
    extra: ClassVar[Extra] = MINATAR

    task: str = field(default="minatar:breakout", kw_only=False)
    channels: int | None = None
    full_actions: bool = False
    sticky: float = 0.1
    difficulty_ramping: bool = True
    max_episode_frames: int = 108_000

    def __post_init__(self) -> None:
        """Refuse numbers and names that are not allowed."""
        super().__post_init__()
        one_of("observation", self.observation, ("pixels",), f": {self.title} has no other")
        at_least("max_episode_frames", self.max_episode_frames, 1)
        within("sticky", self.sticky, "[0, 1)", "; published: 0.1")
        for name in ("full_actions", "difficulty_ramping"):
            one_of(name, getattr(self, name), (True, False))
        least = CHANNELS.get(self.game, 1)
        if self.channels is not None:
            at_least("channels", self.channels, least, f": {self.task} has {least}")

    @property
    def game(self) -> str:
        """Name of the game, without what stands before it."""
        return self.task.removeprefix(PREFIX)

    @property
    def least_observation_bytes(self) -> int:
        """Bytes of one observation."""
        return (self.channels or CHANNELS.get(self.game, 0)) * SIDE**2

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """Return the names of all games, sorted."""
        return tuple(PREFIX + game for game in CHANNELS)

    @classmethod
    def task_descriptions(cls) -> dict[str, str]:
        """Return the names of all games, with how they are written."""
        written = {PREFIX + game: game.replace("_", " ").title() for game in CHANNELS}
        return {task: f"MinAtar: {name} on 10 x 10 pixels (extra minatar)." for task, name in written.items()}

    def build(self, seed: int) -> EnvBase:
        """Return a :class:`~plasticity_rl.envs.minatar.MinAtarEnv`.

        Raises:
            UserError: When minatar is missing.
        """
        from plasticity_rl.envs.minatar import MinAtarEnv

        taken = {name: value for name, value in self.values.items() if name != "observation"}
        return MinAtarEnv(game=self.game, seed=seed, **taken)
