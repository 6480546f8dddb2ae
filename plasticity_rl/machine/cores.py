"""How many threads torch computes with on a machine of one or two cores.

A second thread waits for the renderer and the system more than it computes when networks are small (1.3 to 5 times
slower, waiting busily); for a large update it pays (``docs/performance.md``). Both must be said before torch is
imported, by variables of the environment; how large the updates are is known only once the agent is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from plasticity_rl.machine.health import available_cores

CHOOSE = "PLASTICITY_RL_CHOOSES_THREADS"
"""Environment variable: set where the number of threads is not the user's choice."""
LARGE_BATCH_FLOPS = 4e9
"""Operations of a forward pass on a batch, from which on a second thread pays: full size has 24e9, quickstart 0.2e9."""


def start_with_one() -> None:
    """Before torch is imported, on up to two cores: one thread, and idle waiting. What the user has set counts."""
    if available_cores() <= 2 and "OMP_NUM_THREADS" not in os.environ:
        os.environ |= {"OMP_NUM_THREADS": "1", CHOOSE: "1"}
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def use_more_for_large_updates(flops_per_batch: Callable[[], float]) -> None:
    """Once the networks are built, on the CPU: all cores if updates are large, and the user did not say how many.

    Args:
        flops_per_batch: Counts the operations of a forward pass on a batch; asked where it decides.
    """
    if CHOOSE in os.environ and flops_per_batch() >= LARGE_BATCH_FLOPS:
        import torch

        torch.set_num_threads(available_cores())
