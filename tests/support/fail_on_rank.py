"""A callback that ends one rank of a run with an error, or sends it a signal."""

from __future__ import annotations

import os

from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback


class FailOnRank(RLCallback):
    """Raises an error on one rank, or sends it a signal, once.

    Args:
        rank: Which.
        frame: Env frame from which on.
        signum: Signal to send to its process instead; 0 for the error.
    """

    def __init__(self, rank: int = 1, frame: int = 60, signum: int = 0) -> None:
        self.rank, self.frame, self.signum, self.done = rank, frame, signum, False

    def on_env_step(self, agent, step) -> None:
        if agent.global_rank == self.rank and agent.env_frames >= self.frame and not self.done:
            if not self.signum:
                raise UserError("the sun went down")
            self.done = True
            os.kill(os.getpid(), self.signum)
