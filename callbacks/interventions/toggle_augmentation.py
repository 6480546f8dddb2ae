"""Switch data augmentation on or off during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback import Mutation, ScheduledIntervention


class ToggleAugmentation(ScheduledIntervention):
    """Turn augmentation (by default the random shift) on or off at an env frame; one callback per switch.

    Mutates: the flag ``agent.augment``. No weight, no optimizer state, no random number.
    Logs: ``intervention/toggle_augmentation`` (1 at the frame of the switch) and a line of text.
    Reference: Ma et al. 2024 (arXiv 2310.07418), section 4 and Figure 6: after an early recovery augmentation can be
        turned off without harm; turned on after plasticity was lost it does not bring it back.

    Args:
        at_frame: Env frame of the switch; it acts at the first update after this frame. 0 is the first update.
        on: Whether updates see augmented images from then on.
    """

    reads = frozenset()
    writes = frozenset({"settings"})
    cuda_graph = "recaptures"
    family = "augmentation"
    needs_pixels = True
    example_arguments: ClassVar[Mapping[str, Any]] = {"at_frame": 0, "on": False}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"at_frame": 10**12, "on": False}

    def __init__(self, *, at_frame: int, on: bool) -> None:
        super().__init__(at_frames=[at_frame])
        self.at_frame, self.on = at_frame, on

    @property
    def order(self) -> tuple[int, ...]:
        """Earlier switches first: of two that fall due at one update the later one stays."""
        return (*super().order, self.at_frame)

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one of them may switch at a frame."""
        return frozenset({f"switch augmentation at frame {self.at_frame}"})

    def mutates(self, agent: RLModule) -> Mutation:
        """The augmentation flag."""
        return Mutation(attributes=frozenset({"augment"}))

    def act(self, agent: RLModule) -> str:
        """Set the flag."""
        agent.augment = self.on
        return f"augmentation {'on' if self.on else 'off'} at frame {agent.env_frames}"
