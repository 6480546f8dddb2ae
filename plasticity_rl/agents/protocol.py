"""What each agent gives by itself: how it acts, learns, and runs on a batch; the rest of an agent is in ``base.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tensordict import TensorDictBase
from torch import Generator, Tensor

from plasticity_rl.agents.access import ModuleAccess

if TYPE_CHECKING:
    from plasticity_rl.data.module import RLDataModule


class AgentProtocol(ModuleAccess):
    """The methods that an agent implements; with those of :class:`ModuleAccess` all that it says about itself."""

    action_dim: int
    """Number of action dimensions; 1 where actions are discrete."""
    num_actions: int = 0
    """Number of discrete actions that it chooses among, by index (int64 ``(batch, 1)``); 0: continuous ones."""
    sets_priorities: bool = False
    """Whether ``update`` hands the losses of its batch to ``data.replay.update_priorities``, and weighs them by the
    ``weight`` of the batch."""
    augment: bool = False
    """Whether updates see augmented images."""
    precisions: tuple[str, ...] = ("32-true",)
    """Values of ``trainer.precision`` that it trains in."""
    observation_key: str = "pixels"
    """Key of observations in batches and environment steps: ``pixels`` or ``state``."""

    cuda_graph: bool = False
    """Whether the loop's updates are captured and replayed, see ``graphs.py``."""
    numbers: Mapping[str, Tensor] | None = None
    """What :meth:`number` reads instead of numbers, while an update runs on static tensors."""

    @property
    def copies_target(self) -> bool:
        """Whether target networks are copied at once now and then (``on_target_copy``), instead of following."""
        return False

    @property
    def data(self) -> RLDataModule:
        """The attached data module: env, collector and replay."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def choose(self, observations: Tensor, generator: Generator | None) -> Tensor:
        """Return actions ``(batch, action_dim)`` in [-1, 1] by the present policy, without gradient.

        Args:
            observations: ``(batch, *obs_shape)``, on the agent's device.
            generator: Source of the noise of exploration, on the same device; None for none.
        """
        raise NotImplementedError

    def begin_evaluation_episode(self, episode: int) -> None:
        """Prepare for an evaluation episode, by its number: agents that draw in evaluation seed a generator here."""

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """Do one gradient update on ``batch`` and return detached metrics by log tag; counts nothing."""
        raise NotImplementedError

    def update_core(self, batch: TensorDictBase) -> TensorDictBase:
        """Do the part of an update that can be captured: all of it, unless the agent says otherwise.

        It depends on tensors that stay where they are, on :meth:`number`, and on plain attributes of the agent, its
        modules and :meth:`parts_of_update`. What it returns goes to :meth:`finish_update`.
        """
        return self.update(batch)

    def finish_update(self, batch: TensorDictBase, core: TensorDictBase) -> TensorDictBase:
        """Do the rest, what Python decides at every update, and return the detached metrics."""
        return core

    def numbers_of_update(self) -> dict[str, float]:
        """Return the numbers of an update that move by themselves, by name; learning rates are looked after."""
        return {}

    def number(self, name: str) -> float | Tensor:
        """Return one of :meth:`numbers_of_update`: as a tensor ``()`` inside an update on static tensors."""
        return self.numbers_of_update()[name] if self.numbers is None else self.numbers[name]

    def parts_of_update(self) -> Sequence[Any]:
        """Return what an update consists of that is no module of the agent, e.g. augmentations."""
        return ()

    def encode(self, observations: Tensor) -> Tensor:
        """Return the features ``(batch, n)`` of observations ``(batch, *obs_shape)``."""
        raise NotImplementedError

    def forward_all(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Run every module once, as in its own loss, on the observations and actions of ``batch``, without noise.

        Returns:
            Output ``(B, n)`` by the name of the top-level module; several heads side by side.
        """
        raise NotImplementedError

    def forward(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Do :meth:`forward_all`: with ``torch.func.functional_call`` also with other weights than the agent's."""
        return self.forward_all(batch)

    def loss_on(self, loss: str, batch: TensorDictBase, generator: Generator) -> Tensor:
        """Return a loss on ``batch`` as it is, with gradient: not augmented, without the terms that callbacks added.

        Args:
            loss: One of ``loss_optimizers``.
            batch: ``[B]``, B >= 1, with the keys of a training batch.
            generator: Source of the loss's noise, on the agent's device.
        """
        raise NotImplementedError

    def td_targets(self, batch: TensorDictBase, generator: Generator) -> Tensor:
        """Return the targets ``(B, 1)`` of the values, without gradient; arguments as of :meth:`loss_on`."""
        raise NotImplementedError

    def value_bonus(self, observations: Tensor, generator: Generator) -> Tensor | None:
        """Return what the values count at an observation beside the reward ``(B,)``, or None for nothing.

        That is the weighted entropy of the policy in agents whose values are soft.

        Args:
            observations: ``(B, *obs_shape)``.
            generator: Source of noise, on the agent's device.
        """
        return None
