"""The options of a TorchRL environment of one's own, ``torchrl:<module>.<name>``; it is imported when one is built."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from plasticity_rl.envs.options import StackedFrames
from plasticity_rl.errors import UserError, at_least, describe_error
from plasticity_rl.files.own_files import where_they_are_looked_for

if TYPE_CHECKING:
    from torchrl.envs import EnvBase

PREFIX = "torchrl:"


@dataclass(frozen=True, kw_only=True)
class TorchRLOptions(StackedFrames):
    """A TorchRL environment by the path of its class, or of a function that returns one: ``torchrl:my_envs.Line``.

    Called with ``seed``, ``observation`` and ``action_repeat`` as far as it takes them, else seeded afterwards. What it
    lacks of a :class:`~plasticity_rl.envs.dmc_options.DMControlOptions` environment is added where that is safe: a
    vector called ``observation`` becomes ``state``, float64 becomes float32, actions are scaled to [-1, 1], and without
    a ``discount`` there is one, 0 after a termination. The rest is refused by name.

    Args:
        task: ``torchrl:`` and the path.
        observation: ``pixels``, uint8 (3, height, width), or ``state``, float32 (n,).
        action_repeat: Env frames that the environment itself makes of one env step: counted, not repeated here.
        frame_stack: Images per observation.

    Raises:
        UserError: For an option out of range, or a path that leads to no environment.
    """

    title: ClassVar[str] = "TorchRL"
    examples: ClassVar[str] = "torchrl:my_envs.Line"

    frame_stack: int = 3

    def __post_init__(self) -> None:
        """Refuse numbers that are not allowed."""
        super().__post_init__()
        at_least("frame_stack", self.frame_stack, 1)

    @classmethod
    def task_names(cls) -> tuple[str, ...]:
        """Return none: they are the user's."""
        return ()

    @classmethod
    def check_task(cls, task: str) -> None:
        """Do nothing for the path of something that can be called.

        Raises:
            UserError: For any other.
        """
        _factory(task)

    def build(self, seed: int) -> EnvBase:
        """Return the environment, with what it lacks over it.

        Raises:
            UserError: When what is called returns no environment.
        """
        from torchrl.envs import CatFrames, EnvBase

        from plasticity_rl.envs.fitted import fitted

        factory = _factory(self.task)
        given = {"seed": seed, "observation": self.observation, "action_repeat": self.action_repeat}
        taken = {name: value for name, value in given.items() if name in _parameters(factory)}
        env = factory(**taken)
        if not isinstance(env, EnvBase):
            raise UserError(
                f"task={self.task} returned a {type(env).__name__}, not a TorchRL environment: give the path of a "
                "class that derives from torchrl.envs.EnvBase, or of a function that returns one"
            )
        if "seed" not in taken:
            env.set_seed(seed)
        env = fitted(env, self.observation)
        if self.observation == "pixels":
            env.append_transform(CatFrames(self.frame_stack, dim=-3, in_keys=["pixels"]))
        return env


def _factory(task: str) -> Callable[..., Any]:
    module, _, name = task.removeprefix(PREFIX).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # also what the module raises
        raise UserError(
            f"task={task} is not found ({describe_error(error)}); write torchrl:<module>.<class or function>."
            f"{where_they_are_looked_for(module)}"
        ) from error
    if not callable(found):
        raise UserError(f"task={task} leads to a {type(found).__name__}, not to a class or function")
    return found


def _parameters(factory: Callable[..., Any]) -> list[str]:
    named: Any = factory
    if isinstance(factory, type):
        named = named.__init__  # TorchRL's classes are called through a function of their metaclass
    try:
        return list(inspect.signature(named).parameters)
    except (TypeError, ValueError):  # of C
        return []
