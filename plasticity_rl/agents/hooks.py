"""What an agent knows of callbacks: the hooks that it calls, and what it asks before it is trained.

On top of Lightning's hooks they get ours, dispatched by the agent: ``on_env_step``, ``on_episode_end``,
``on_update_start``, ``on_batch``, ``on_update_end``, ``on_target_copy``, ``on_task_switch``, ``on_evaluation``,
``on_weights_jumped`` and ``on_env_failure``.
"""

from __future__ import annotations

import enum
import functools
import inspect
import re
import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from weakref import WeakKeyDictionary

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.data.evaluation import Episode
from plasticity_rl.errors import UserError

Agent: TypeAlias = Any
"""An :class:`plasticity_rl.RLModule`, which is built on this file; subclasses name it."""
LAST = sys.maxsize
"""``order`` of callbacks that only watch."""


@dataclass(frozen=True)
class Mutation:
    """What an intervention's event may change; everything else is bit-identical before and after (a law test).

    Attributes:
        parameters: Names in ``agent.named_parameters()`` whose values may change.
        optimizer_slots: Names of the parameters whose optimizer state may change.
        attributes: Names of agent attributes that may change, e.g. ``{"augment"}``.
        trainable: Names of the parameters that may be frozen or released (``requires_grad``).
        buffers: Names in ``agent.named_buffers()`` whose values may change, e.g. the mask of a pruned layer.
        replay: Whether the state of the replay may change, its records or the priorities of its windows.
    """

    parameters: frozenset[str] = field(default_factory=frozenset)
    optimizer_slots: frozenset[str] = field(default_factory=frozenset)
    attributes: frozenset[str] = field(default_factory=frozenset)
    trainable: frozenset[str] = field(default_factory=frozenset)
    buffers: frozenset[str] = field(default_factory=frozenset)
    replay: bool = False


class RLCallback(pl.Callback):
    """Base of interventions and probes, of which it knows neither. Subclass ``Intervention`` or ``Probe`` instead.

    Constructor arguments are plain data (they come from YAML) and are stored under their own names: they make up the
    ``state_key``, so two instances with different arguments coexist.

    One object may take part in the training of several agents, one after the other, as in a loop over seeds: with each
    new agent an intervention or probe starts anew (:meth:`join`).
    """

    example_arguments: ClassVar[Mapping[str, Any]] = {}
    """Arguments with which it acts within a few updates: how the law tests build it."""
    reads: ClassVar[frozenset[str] | None] = None
    """Which of ``callback.declarations.READS`` its value or effect depends on; has to be declared."""
    writes: ClassVar[frozenset[str] | None] = None
    """Which of ``callback.declarations.WRITES`` it changes; to be declared as well: the tests of pairs need both."""
    cuda_graph: ClassVar[str | None] = None
    """What it means for captured updates, one of ``agents.graph_rules.GRAPH_RULES``: every class declares its own.

    None: nothing is known, and no update is captured beside it.
    """
    needs_pixels: ClassVar[bool] = False
    """Whether it works on images, so that an agent with state observations must refuse it."""
    intervenes: ClassVar[bool] = False
    """Whether it changes something about learning, and may so conflict with another that does."""
    is_described: ClassVar[bool] = False
    """Whether it is part of what a run is about, so that checkpoints list it (interventions and probes)."""
    acts_last: ClassVar[bool] = False
    """Whether its ``on_update_start`` follows those of all others that intervene, and comes before what only watches.

    For what puts right what they did to weights (a projection): it is no part of the update that is measured.
    """
    fills_replay: bool = False
    """Whether it puts transitions into the replay before the seed phase, which then may be shorter than a batch."""

    headline_words: ClassVar[str] = ""
    """What the name of its :meth:`headline` stands for, said once at the end of a run."""

    later_arguments: ClassVar[Mapping[str, Any]] = {}
    """Arguments that came when runs of the class existed, each with the value at which nothing is as if it were new.

    At that value an argument is no part of ``state_key``, by which checkpoints and random numbers go.
    """

    _left_open: frozenset[str] = frozenset()
    _resolved: bool = False
    _key: str | None = None

    if not TYPE_CHECKING:  # to which every attribute would be one

        def __getattr__(self, name: str) -> Any:
            """Called for what is not there: a class of the user's own may have forgotten the constructor below."""
            cls = type(self).__name__
            raise AttributeError(
                f"{cls!r} object has no attribute {name!r}: if a class above sets it, the constructor of "
                f"{cls} has to call super().__init__(...)",
                name=name,
                obj=self,
            )

    def leave_open(self, **arguments: Any) -> None:
        """Note which of these constructor arguments are None: the agent fills them in, see :meth:`default_for`."""
        self._left_open |= {name for name, value in arguments.items() if value is None}

    def open_arguments(self) -> frozenset[str]:
        """Return the names of the arguments that were left to the agent."""
        return self._left_open

    def default_for(self, argument: str, agent: Agent) -> Any:
        """Return the value of an argument that was left open, e.g. the modules of this agent that it looks at."""
        raise NotImplementedError(f"{type(self).__name__} gives no default of {argument!r}")

    def resolve(self, agent: Agent) -> None:
        """Fill in what was left open, in the order of the constructor; before anything reads the arguments.

        From then on the callback is as if it had been given these values: also its ``state_key``.
        """
        for name in (name for name in constructor_parameters(type(self)) if name in self._left_open):
            setattr(self, name, self.default_for(name, agent))
        self._resolved, self._key = True, None

    def join(self, agent: Agent) -> None:
        """Be resolved for ``agent``; first start anew, if that is untrained and another one was trained with this.

        What a checkpoint holds of it is loaded afterwards. Whatever is no constructor argument is forgotten.
        """
        trainer = agent._trainer
        fits = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        before = _TRAINED.get(self)
        is_used = before is not None and before() is not agent
        if is_used and self.is_described and agent.env_frames == 0 and (fits or trainer is None):
            self.start_anew()
        if fits:
            _TRAINED[self] = weakref.ref(agent)
        self.resolve(agent)

    def start_anew(self) -> None:
        """Be as a new object with the same arguments, those left open to the agent among them."""
        given = self.arguments() | dict.fromkeys(self.open_arguments())
        vars(self).clear()
        type(self).__init__(self, **given)
        _TRAINED.pop(self, None)

    def tags(self) -> frozenset[str]:
        """Return the tags that this instance writes, and no other may write too; in a pattern ``*`` is one segment.

        To be called once :meth:`resolve` was. What several instances mean to share (the mark of an event) is left out.
        """
        return frozenset()

    def headline(self) -> tuple[str, str] | None:
        """Return the name of the one number that sums a module up, and its tag with ``{}`` for the module; mostly None.

        The progress bar shows that of the module that puts out values, the tab HParams the last one of every module.
        """
        return None

    def notes(self, agent: Agent) -> list[str]:
        """Return what the user should know about this instance at the start of a run, a line each: mostly nothing."""
        return []

    @property
    def name(self) -> str:
        """Snake-case class name, used in tags."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def arguments(self) -> dict[str, Any]:
        """Return the constructor arguments by name; None for what was left open and the agent has not filled in yet.

        Raises:
            UserError: When one of them is not kept under its name.
        """
        unknown = frozenset() if self._resolved else self._left_open
        return {name: None if name in unknown else self._kept(name) for name in constructor_parameters(type(self))}

    def _kept(self, argument: str) -> Any:
        try:
            return getattr(self, argument)
        except AttributeError as error:
            raise UserError(
                f"{type(self).__name__} does not keep its argument {argument!r}: a callback stores every argument of "
                f"its constructor as it was given, self.{argument} = {argument}, for checkpoints go by them; what is "
                "meant for the class below may be handed on by **kwargs"
            ) from error

    @property
    def state_key(self) -> str:
        """Key of this instance's state in a checkpoint: class and arguments, which are fixed once it is resolved."""
        if self._key is None or not self._resolved:
            self._key = self.key_of(self.arguments())
        return self._key

    def key_of(self, arguments: Mapping[str, Any]) -> str:
        """Return the ``state_key`` of an instance of this class with these arguments."""
        later = self.later_arguments
        said = {name: value for name, value in arguments.items() if name not in later or value != later[name]}
        return self._generate_state_key(**said)

    # ---- what an agent asks before it is trained; neutral here, said by interventions

    @property
    def order(self) -> tuple[int, ...]:
        """Place among the callbacks of a run; equal ones follow by name and state key."""
        return (LAST,)

    def build(self, agent: Agent) -> None:
        """Change the agent's modules, or add some, before optimizers exist; called once per agent, in fixed order.

        Every parameter that the run will ever have must exist afterwards. Random numbers must come from generators of
        one's own.
        """

    def after_build(self, agent: Agent) -> None:
        """Put right what others that build made of one's own part; called on all that build, once all have.

        Nobody has looked at the first weights before that; weights of a checkpoint are loaded over them afterwards.
        """

    @property
    def only_from_the_start(self) -> bool:
        """Whether it cannot join a run that has begun."""
        return self.builds or self.fills_replay

    @property
    def builds(self) -> bool:
        """Whether ``build`` does anything."""
        return type(self).build is not RLCallback.build

    def conflict_with(self, agent: Agent, other: Any) -> str | None:
        """Return why ``other``, which intervenes as well, cannot run beside this one on the agent as constructed."""
        return None

    def lacks(self) -> Mapping[str, str]:
        """Return the methods that the class still has to define, by name, each with what it may look like."""
        return {}

    def mutates(self, agent: Agent) -> Mutation:
        """Return what its events may change."""
        return Mutation()

    def moves_weights(self, agent: Agent) -> bool:
        """Return whether the hook that now starts may let weights jump, so that the agent has to watch.

        True costs a copy of what ``mutates`` declares. False for what belongs to the step of every update, such as a
        projection: to follow it is what averages are for.
        """
        return False

    def is_due(self, agent: Agent, hook: str) -> bool:
        """Return whether it has anything to do in ``hook`` now; where it has not, it is not called.

        Asked before every call of the hooks that the class which answers has itself, or inherits from above; not of
        those that a class below has replaced, which are always called. Neutral: always due.
        """
        return True

    # ---- hooks that an agent calls while it is trained

    def on_env_step(self, agent: Agent, step: TensorDictBase) -> None:
        """Called after each env step was written to the replay; ``step`` has batch shape ``[num_envs]``."""

    def on_episode_end(self, agent: Agent, episode_return: float, env_steps: int) -> None:
        """Called for every training episode that ended in this env step."""

    def on_update_start(self, agent: Agent) -> None:
        """Called before the batch of a gradient update is sampled."""

    def on_batch(self, agent: Agent, batch: TensorDictBase) -> None:
        """Called with the batch of a gradient update, right before it. Do not write into it."""

    def on_update_end(self, agent: Agent, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Called after a gradient update (critic, actor and target)."""

    def on_target_copy(self, agent: Agent) -> None:
        """Called after target networks were copied at once, at the end of an update; see ``agent.copies_target``."""

    def on_task_switch(self, agent: Agent, task: str) -> None:
        """Called when the run has gone on to ``task``, before its first env step."""

    def on_evaluation(self, agent: Agent, episodes: Sequence[Episode]) -> None:
        """Called after every evaluation (also the one at frame 0), with its episodes."""

    def on_env_failure(self, agent: Agent, failure: str) -> None:
        """Called before a run ends because an environment failed; raise instead what was wrong before that."""

    def copies(self) -> Sequence[Mapping[str, Tensor]]:
        """Return the copies of weights that it keeps as "the network a while ago", by the parameters' names.

        Averages and networks of an earlier update, which would pull weights that jumped back to where they were: they
        jump too. Not what has to stay (initial weights that distances are measured from).
        """
        return ()

    def on_weights_jumped(self, agent: Agent, jump: Any) -> None:
        """Called on every callback after weights changed at once and not by learning: lets its ``copies`` jump too.

        Of its own doing a callback hears only where others listen as well: it must not depend on that.
        """
        for copy in self.copies():
            jump.write_into(copy)


_TRAINED: WeakKeyDictionary[RLCallback, weakref.ref[Any]] = WeakKeyDictionary()
"""The agent that a callback was last trained with; not in the callback, which may be copied and pickled."""


def constructor_parameters(callback: type) -> Mapping[str, inspect.Parameter]:
    """Return the arguments that a class takes by name, with those that its ``**kwargs`` hands on to the one below."""
    return _constructor_parameters(callback)


@functools.cache  # Lightning asks for the ``state_key`` at every call of every hook
def _constructor_parameters(callback: type) -> Mapping[str, inspect.Parameter]:
    found: dict[str, inspect.Parameter] = {}
    for cls in callback.__mro__[:-1]:
        if "__init__" not in vars(cls):
            continue
        _, *own = inspect.signature(vars(cls)["__init__"]).parameters.values()
        found |= {p.name: p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in found}
        if not any(p.kind is p.VAR_KEYWORD for p in own):
            break
    return found


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """Return all callbacks of a Trainer, which has them without declaring them."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def fill_replay(callbacks: Iterable[pl.Callback]) -> bool:
    """Return whether one of the callbacks fills the replay, so that the seed phase may be short or missing."""
    return any(isinstance(callback, RLCallback) and callback.fills_replay for callback in callbacks)


def in_order(callbacks: Iterable[pl.Callback]) -> list[RLCallback]:
    """Return the interventions by family, stage, name and state key, then the others by name and state key."""
    ours = [callback for callback in callbacks if isinstance(callback, RLCallback)]
    return sorted(ours, key=lambda callback: (callback.order, callback.name, callback.state_key))


def class_path(cls: type) -> str:
    """Return the path by which YAML names a class: ``callbacks.ReDo`` where its package exports it."""
    package = cls.__module__.partition(".")[0]
    exported = getattr(sys.modules.get(package), cls.__name__, None)
    return f"{package}.{cls.__name__}" if exported is cls else f"{cls.__module__}.{cls.__qualname__}"


def intervenes(callback: pl.Callback) -> bool:
    """Return whether a callback changes something about learning."""
    return isinstance(callback, RLCallback) and callback.intervenes


def describe(callbacks: Iterable[pl.Callback]) -> list[dict[str, Any]]:
    """Return class and arguments of every intervention and probe, as plain data, in the order in which they act."""
    ours = [callback for callback in in_order(callbacks) if callback.is_described]
    return [{"class": class_path(type(one)), "arguments": plain(one.arguments())} for one in ours]


def plain(value: Any) -> Any:
    """Return ``value`` as dicts, lists, numbers and text: what a checkpoint may hold and YAML can say."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return plain(value.value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):  # of NumPy's float64, which is a float, only the float
            return kind(value)
    return None if value is None else str(value)


def headlines(callbacks: Iterable[pl.Callback]) -> dict[str, str]:
    """Return what the callbacks that have one sum a module up by: name -> tag with ``{}`` for the module."""
    found = (callback.headline() for callback in callbacks if isinstance(callback, RLCallback))
    return dict(headline for headline in found if headline is not None)
