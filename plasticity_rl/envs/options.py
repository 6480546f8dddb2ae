"""What an environment backend tells the rest of the package: its options, as one frozen object that makes environments.

A backend is a frozen dataclass that derives from :class:`EnvironmentOptions`, and one line in ``backends.py``. Its
fields are the options ``--data.<name>`` with their defaults, and its docstring is their help. Nothing repeats them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from plasticity_rl.envs.extras import Extra
from plasticity_rl.envs.image_sizes import as_height_and_width
from plasticity_rl.errors import UserError, at_least, one_of, refuse_unknown, suggestion

if TYPE_CHECKING:
    from torchrl.envs import EnvBase
    from typing_extensions import Self

Observation = Literal["pixels", "state"]
"""What an environment shows, and the key it is found under."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentOptions(ABC):
    """The options that every backend has, and what the data module asks of a backend.

    Messages begin with the name of the option: the data module puts ``data.`` in front.

    Attributes:
        task: Name of the task.
        observation: ``pixels`` (uint8) or ``state`` (float32), and the key of the observation.
        action_repeat: Env frames per env step.
        title: What the tasks of this backend are called.
        examples: Some of them, for a message.
        extra: The package that makes them, where it is no dependency.
    """

    title: ClassVar[str]
    examples: ClassVar[str]
    extra: ClassVar[Extra | None] = None

    task: str = field(kw_only=False)
    observation: Observation = "pixels"
    action_repeat: int = 1

    def __post_init__(self) -> None:
        """Refuse what can be refused without the simulator; a backend adds its own checks."""
        one_of("observation", self.observation, ("pixels", "state"))
        at_least("action_repeat", self.action_repeat, 1)

    @classmethod
    def of(cls, task: str, **options: Any) -> Self:
        """Return the options by name.

        Raises:
            UserError: For an option that this backend does not have, or one out of range.
        """
        refuse_unknown(options, cls.names())
        return cls(task, **options)

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the options."""
        return [field.name for field in fields(cls)]

    @property
    def values(self) -> dict[str, Any]:
        """The options by name, in the order of the fields: they identify the environment of a checkpoint."""
        return {name: getattr(self, name) for name in self.names()}

    @property
    def experience(self) -> dict[str, Any]:
        """The options by name that decide what a transition means."""
        return self.values

    @property
    def stacked_frames(self) -> int:
        """Frames in one observation."""
        return 1

    @property
    def least_observation_bytes(self) -> int:
        """Bytes of one observation as far as the options tell, without building the environment."""
        return 0

    @classmethod
    def draws_to_show(cls, observation: Observation) -> bool:
        """Return whether a step that shows this draws with OpenGL."""
        return False

    @property
    def draws(self) -> bool:
        """Whether a step draws with OpenGL."""
        return self.draws_to_show(self.observation)

    @classmethod
    @abstractmethod
    def task_names(cls) -> tuple[str, ...]:
        """Return the names of all tasks, sorted."""

    @classmethod
    def task_descriptions(cls) -> dict[str, str]:
        """Return the names of all tasks, each with a text that may begin with a sentence about it.

        Asked for before anything heavy is imported.

        Raises:
            UserError: When what it reads them from is not installed.
        """
        return dict.fromkeys(cls.task_names(), "")

    @classmethod
    def check_task(cls, task: str) -> None:
        """Do nothing for a known task.

        Raises:
            UserError: For any other name, with the nearest known ones.
        """
        cls.refuse_unknown_task(task, cls.task_names())

    @classmethod
    def check_task_early(cls, task: str) -> None:
        """Do nothing where :meth:`check_task` may pass, as far as that is known before anything slow is imported.

        Raises:
            UserError: For a name that there is not, or when the package that makes the environment is missing.
        """
        if names := sorted(cls.task_descriptions()):
            cls.refuse_unknown_task(task, names)
        if cls.extra is not None:
            cls.extra.require(task)

    @classmethod
    def refuse_unknown_task(cls, task: str, names: Sequence[str]) -> None:
        """Raise UserError, with the nearest of ``names``, for a task that is not among them."""
        if task not in names:
            raise UserError(
                f"task={task!r} is not a{'n' * (cls.title[0] in 'AEIO')} {cls.title} task.{suggestion(task, names)} "
                f"There are {len(names)}, such as {cls.examples}; plasticity_rl.envs.task_names() lists them."
            )

    @abstractmethod
    def build(self, seed: int) -> EnvBase:
        """Return one environment, frame stack included, that has ``task_name`` and ``action_repeat``."""

    def make(self, *, seed: int, num_envs: int = 1) -> EnvBase:
        """Build the task as a TorchRL environment.

        Args:
            seed: Seed of the task's own generator, 0 to 2**32 - 1. Environment i of several gets ``seed + i``.
            num_envs: Environments stepped one after the other in this process, at least 1. More than 1 gives all keys
                a leading dimension ``num_envs``.

        Returns:
            What :meth:`build` returns; for several, a :class:`~plasticity_rl.envs.several.SeveralEnvs` of them.

        Raises:
            UserError: For an unknown task, an option out of range, or when the simulator does not start.
        """
        at_least("num_envs", num_envs, 1)
        if not 0 <= seed <= 2**32 - num_envs:
            raise UserError(f"seed={seed} must be a whole number from 0 to {2**32 - num_envs} (2**32 - num_envs)")
        self.check_task(self.task)
        if num_envs == 1:
            return self.build(seed)
        from plasticity_rl.envs.several import SeveralEnvs

        return SeveralEnvs(self.build, [seed + i for i in range(num_envs)], self.task, self.action_repeat)


class StackedFrames(EnvironmentOptions):
    """What backends share that show stacked images or a single state; no dataclass, so that it adds no option."""

    frame_stack: int

    @property
    def stacked_frames(self) -> int:
        """``frame_stack`` images, or one state."""
        return self.frame_stack if self.observation == "pixels" else 1


class StackedImages(StackedFrames):
    """The same where the size of the images is an option: RGB, one byte a value.

    Attributes:
        of_images: Options that mean nothing to states.
    """

    image_size: int | tuple[int, int]
    of_images: ClassVar[tuple[str, ...]] = ("frame_stack", "image_size")

    @property
    def experience(self) -> dict[str, Any]:
        """Options of images mean nothing to states."""
        without = () if self.observation == "pixels" else self.of_images
        return {name: value for name, value in self.values.items() if name not in without}

    @property
    def least_observation_bytes(self) -> int:
        """Bytes of a stack of images; of a state only the environment knows its length."""
        height, width = as_height_and_width(self.image_size)
        return 3 * self.frame_stack * height * width if self.observation == "pixels" else 0
