"""Re-initialise modules during training and keep the replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from plasticity_rl.callback import Mutation, ScheduledIntervention
from plasticity_rl.rl_module import RLModule
from plasticity_rl.surgery import clear_state, copy_parameters, reinitialize


class Reset(ScheduledIntervention):
    """Give whole modules fresh weights every ``every_n_frames`` or at listed frames; the replay is kept.

    The default is the DrQ setting: actor and critic (trunks included) are reset, the convolutional encoder and its
    optimizer state are kept.

    Mutates: all weights, biases and norm parameters of ``modules``; their optimizer moments and step counts (to zero);
        the target network of a reset module, which becomes a copy of the fresh weights. Nothing else.
    Logs: ``intervention/reset`` (1 at the frame of a reset) and a line of text.
    Reference: Nikishin et al. 2022 (arXiv 2205.07802): 10 resets over a run for DrQ; Ma et al. 2024 (arXiv 2310.07418)
        use 5 on Quadruped Run. So ``every_n_frames`` is about ``max_frames / 10``.
    Differences from the original: online and target network are re-initialised in place rather than rebuilt, from a
        generator of this callback's own. A reset due at frame N acts after the evaluation at frame N.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``.
        every_n_frames: Period in env frames, or None.
        at_frames: Env frames of single resets.
    """

    family = "reset"
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["actor", "critic"], "at_frames": [0]}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["critic"], "at_frames": [10**12]}

    def __init__(
        self,
        *,
        modules: Sequence[str] = ("actor", "critic"),
        every_n_frames: int | None = None,
        at_frames: Sequence[int] = (),
    ) -> None:
        super().__init__(every_n_frames=every_n_frames, at_frames=at_frames)
        self.modules = list(modules)

    def mutates(self, agent: RLModule) -> Mutation:
        """Parameters and optimizer slots of the modules, parameters of their targets."""
        own = agent.parameter_names(agent.module(name) for name in self.modules)
        targets = [target for name in self.modules if (target := agent.target_of(name)) is not None]
        return Mutation(parameters=own | agent.parameter_names(targets), optimizer_slots=own)

    def act(self, agent: RLModule) -> str:
        """Reset every module in turn."""
        generator = agent.rng.get(f"intervention/{self.state_key}")
        for name in self.modules:
            module = agent.module(name)
            reinitialize(module, agent.init_layer, generator)
            for parameter in module.parameters():
                optimizer = agent.optimizer_of(parameter)
                if optimizer is not None:
                    clear_state(optimizer, [parameter])
            target = agent.target_of(name)
            if target is not None:
                copy_parameters(module, target)
            agent.reinitialized(list(module.parameters()))
        return f"reset {', '.join(self.modules)} at frame {agent.env_frames}"
