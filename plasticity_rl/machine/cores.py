"""How many threads torch computes with on a machine of one or two cores.

A second thread waits for the renderer and the system more than it computes when networks are small (1.3 to 5 times
slower, waiting busily); for a large update it pays (``docs/performance.md``). Both must be said before torch is
imported, by variables of the environment; how large the updates are is known only once the agent is there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from plasticity_rl.machine.health import available_cores

if TYPE_CHECKING:
    from plasticity_rl.agents.base import RLModule

CHOOSE = "PLASTICITY_RL_CHOOSES_THREADS"
"""Environment variable: set where the number of threads is not the user's choice."""
LARGE_BATCH_FLOPS = 4e9
"""Operations of a forward pass on a batch, from which on a second thread pays: full size has 24e9, quickstart 0.2e9."""


def start_with_one() -> None:
    """Before torch is imported, on up to two cores: one thread, and idle waiting. What the user has set counts."""
    if available_cores() <= 2 and "OMP_NUM_THREADS" not in os.environ:
        os.environ |= {"OMP_NUM_THREADS": "1", CHOOSE: "1"}
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def use_more_for_large_updates(agent: RLModule) -> None:
    """Once the agent is built: all cores if its updates are large, it trains on the CPU, and the user did not say."""
    if CHOOSE not in os.environ or agent.trainer.world_size > 1 or agent.trainer.strategy.root_device.type != "cpu":
        return
    import torch

    if flops_per_observation(agent) * agent.data.batch_size >= LARGE_BATCH_FLOPS:
        torch.set_num_threads(available_cores())


def flops_per_observation(agent: RLModule) -> int:
    """Return the floating-point operations of one forward pass of all networks on one observation."""
    import torch
    from tensordict import TensorDict
    from torch.utils.flop_counter import FlopCounterMode

    from plasticity_rl.nn.hooks import evaluation_mode

    observation = torch.zeros(1, *agent.data.obs_shape, device=agent.device)
    action = torch.zeros(1, agent.data.action_dim, device=agent.device)
    with evaluation_mode(agent), torch.no_grad(), FlopCounterMode(display=False) as counter:
        agent.forward_all(TensorDict({agent.observation_key: observation, "action": action}, batch_size=[1]))
    return counter.get_total_flops()
