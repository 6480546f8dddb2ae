"""A callback that ends one rank of a run with an error."""

from __future__ import annotations

import os
import signal

from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback


class FailOnRank(RLCallback):
    """Raises an error on one rank, or kills it.

    Args:
        rank: Which.
        frame: Env frame from which on.
        kill: End the process by SIGKILL instead.
    """

    def __init__(self, rank: int = 1, frame: int = 60, kill: bool = False) -> None:
        self.rank, self.frame, self.kill = rank, frame, kill

    def on_env_step(self, agent, step) -> None:
        if agent.global_rank == self.rank and agent.env_frames >= self.frame:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError("the sun went down")
