"""How much work the networks of an agent are."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch.utils.flop_counter import FlopCounterMode

from plasticity_rl.agents.protocol import AgentProtocol
from plasticity_rl.nn.hooks import evaluation_mode


@torch.no_grad()
def flops_per_observation(agent: AgentProtocol) -> int:
    """Return the floating-point operations of one forward pass of all networks on one observation."""
    observation = torch.zeros(1, *agent.data.obs_shape, device=agent.device)
    action = torch.zeros(1, agent.data.action_dim, device=agent.device)
    with evaluation_mode(agent), FlopCounterMode(display=False) as counter:
        agent.forward_all(TensorDict({agent.observation_key: observation, "action": action}, batch_size=[1]))
    return counter.get_total_flops()
