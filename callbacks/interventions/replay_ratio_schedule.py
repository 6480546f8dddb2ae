"""Change the replay ratio at given frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback import Mutation, ScheduledIntervention
from plasticity_rl.errors import UserError
from plasticity_rl.schedules import exact_ratio


class ReplayRatioSchedule(ScheduledIntervention):
    """Set the replay ratio to ``replay_ratios[i]`` from env frame ``at_frames[i]`` on: piecewise constant.

    Before the first of the frames the agent's own ``replay_ratio`` holds. Any rational is exact.

    Mutates: ``agent.replay_ratio``. No weight, no random number.
    Logs: ``intervention/replay_ratio_schedule`` (1 at the frame of a change) and a line of text.
    Reference: Ma et al. 2024 (arXiv 2310.07418), section 5: a high replay ratio harms early and helps late.

    Args:
        at_frames: Env frames in ascending order; a change acts at the first update after its frame.
        replay_ratios: As many replay ratios, gradient updates per env step, each > 0.
    """

    reads = frozenset()
    writes = frozenset({"settings"})
    cuda_graph = "stays"
    family = "replay_ratio"
    example_arguments: ClassVar[Mapping[str, Any]] = {"at_frames": [0, 60], "replay_ratios": [1.0, 0.25]}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"at_frames": [10**12], "replay_ratios": [2.0]}

    def __init__(self, *, at_frames: Sequence[int], replay_ratios: Sequence[float]) -> None:
        super().__init__(at_frames=at_frames)
        self.replay_ratios = list(replay_ratios)
        if len(self.replay_ratios) != len(self.at_frames) or self.at_frames != sorted(set(self.at_frames)):
            raise UserError(
                f"ReplayRatioSchedule: at_frames={self.at_frames} must ascend and be as many as "
                f"replay_ratios={self.replay_ratios}"
            )
        for ratio in self.replay_ratios:
            exact_ratio(ratio, option="ReplayRatioSchedule.replay_ratios: replay_ratio")  # not in the middle of the run

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one intervention may set the replay ratio."""
        return frozenset({"set the replay ratio"})

    def mutates(self, agent: RLModule) -> Mutation:
        """The replay ratio."""
        return Mutation(attributes=frozenset({"replay_ratio"}))

    def act(self, agent: RLModule) -> str:
        """Set the ratio of the last frame that was passed."""
        agent.replay_ratio = self.replay_ratios[self.events.seen - 1]
        return f"replay ratio {agent.replay_ratio:g} at frame {agent.env_frames}"
