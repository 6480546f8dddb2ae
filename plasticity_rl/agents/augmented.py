"""The base of agents whose updates may see augmented images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.augment.chain import AugmentationChain
from plasticity_rl.errors import UserError


class AugmentsImages(RLModule):
    """An agent with augmentations and the switch for them; it sets ``augmentations`` and ``augment`` when it is made.

    Attributes:
        augmentations: What is done to images while ``augment`` is true.
    """

    augmentations: AugmentationChain
    _augment = False

    @property
    def augment(self) -> bool:
        """Whether updates see augmented images."""
        return self._augment

    @augment.setter
    def augment(self, value: bool) -> None:
        if value and self.observation_key != "pixels":
            raise UserError("augment=True: states are not augmented, only images; use --model.augment false")
        self._augment = value

    def observations_of(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return the observations ``(B, *obs_shape)`` of a batch and those n steps later, augmented if they are to be.

        Both are augmented by themselves, in this order, with the agent's generators.
        """
        observation, following = batch[self.observation_key], batch["next", self.observation_key]
        if not self.augment:
            return observation, following
        return self.augmentations(observation, self.rng), self.augmentations(following, self.rng)

    def parts_of_update(self) -> Sequence[Any]:
        """Return the augmentations."""
        return self.augmentations.stages

    def settings(self) -> dict[str, float]:
        """Return replay ratio and augmentation flag, by log tag."""
        return {**super().settings(), "schedule/augment": float(self.augment)}
