"""A second environment backend, as one would be added: a module like this one, and a line in ``BACKENDS``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tiny_env import make_tiny_env
from torchrl.envs import EnvBase

from plasticity_rl.envs.options import EnvironmentOptions
from plasticity_rl.errors import within

LINE = {"line": "line_backend.LineOptions"}


@dataclass(frozen=True, kw_only=True)
class LineOptions(EnvironmentOptions):
    """A square on a line.

    Args:
        task: Name of the task, ``line:near`` or ``line:ends``.
        observation: What is seen.
        action_repeat: Moves of a decision.
        sticky: Probability that an action is repeated (of no effect here).
    """

    title: ClassVar[str] = "line"
    examples: ClassVar[str] = "line:near"

    task: str = field(default="line:near", kw_only=False)
    action_repeat: int = 4
    sticky: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        within("sticky", self.sticky, "[0, 1]", "; published: 0.25")

    @property
    def stacked_frames(self) -> int:
        return 3 if self.observation == "pixels" else 1

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        return ("line:ends", "line:near")

    def build(self, seed: int) -> EnvBase:
        task = {"line:near": "tiny", "line:ends": "tiny_away"}[self.task]
        return make_tiny_env(task, seed=seed, action_repeat=self.action_repeat, observation=self.observation)
