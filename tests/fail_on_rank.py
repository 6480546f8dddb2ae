"""A callback that ends one rank of a run with an error."""

from __future__ import annotations

from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback


class FailOnRank(RLCallback):
    """Raises an error on one rank.

    Args:
        rank: Which.
        frame: Env frame from which on.
    """

    def __init__(self, rank: int = 1, frame: int = 60) -> None:
        self.rank, self.frame = rank, frame

    def on_env_step(self, agent, step) -> None:
        if agent.global_rank == self.rank and agent.env_frames >= self.frame:
            raise UserError("the sun went down")
