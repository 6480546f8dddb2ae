"""Re-initialise modules during training and keep the replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback import Mutation, ScheduledIntervention
from plasticity_rl.callback.soft_reset import clear_optimizer_state
from plasticity_rl.errors import UserError, at_least
from plasticity_rl.nn.layers import layers_from_output
from plasticity_rl.surgery import copy_parameters, reinitialize


class Reset(ScheduledIntervention):
    """Give modules, or their last layers, fresh weights periodically or at listed frames; keep the replay.

    The default is the DrQ setting: actor and critic (trunks included) are reset, the convolutional encoder and its
    optimizer state are kept. With ``last_layers: 1`` only the output layers are (those of all value heads: both of a
    critic with two, value and advantage of dueling streams), with 2 the layers before them too, and so on back to the
    trunk, which follows the longest of the heads; the norm behind a layer goes with it.

    Mutates: all weights, biases and norm parameters of ``modules``, or of their last layers; the optimizer moments and
        step counts of these (to zero); their twins in the target network, which become copies of the fresh weights.
        Nothing else.
    Logs: ``intervention/reset`` (1 at the frame of a reset) and a line of text.
    Reference: Nikishin et al. 2022 (arXiv 2205.07802): 10 resets over a run for DrQ; Ma et al. 2024 (arXiv 2310.07418)
        use 5 on Quadruped Run. So ``every_n_frames`` is about ``max_frames / 10``. For SPR Nikishin et al. reset the
        final layer alone. With ``every_n_updates`` the more resets the higher the replay ratio: SR-SAC (D'Oro et al.
        2023, all of SAC every 2 560 000 updates in the authors' code) and BBF (Schwarzer et al. 2023, arXiv 2305.19452,
        the heads every 40 000).
    Differences from the original: online and target network are re-initialised in place rather than rebuilt, from a
        generator of this callback's own. A reset due at frame N acts after the evaluation at frame N. The original
        starts all of SAC again, its temperature too; here that is kept unless ``temperature`` is among ``modules``.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for those that put out actions and values.
        last_layers: How many linear or convolutional layers of each module, counted from its output, or None for all.
        every_n_frames: Period in env frames, or None.
        at_frames: Env frames of single resets.
        every_n_updates: Period in gradient updates instead, or None; it scales with the replay ratio.
        until_update: Last update after which a reset of that period may be due, so that the run ends recovered; None:
            there is none.
        at_task_switches: Reset whenever the run goes on to another task (``ContinualTasks``), before its first update;
            needs no schedule. With all networks in ``modules`` that is the baseline of Abbas et al. 2023 (arXiv
            2303.07507), an agent that is new in every task.

    Raises:
        UserError: When there is neither schedule nor ``at_task_switches``, or a schedule on two clocks, and when
            ``last_layers`` is below 1 or more than a module has.
    """

    cuda_graph = "stays"
    later_arguments: ClassVar[Mapping[str, Any]] = {
        "at_task_switches": False,
        "every_n_updates": None,
        "until_update": None,
    }
    reads = frozenset()
    writes = frozenset({"jump", "fresh weights", "optimizer"})
    family = "reset"
    waits_for_evaluation = True
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["actor", "critic"], "at_frames": [0]}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["critic"], "at_frames": [10**12]}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        last_layers: int | None = None,
        every_n_frames: int | None = None,
        at_frames: Sequence[int] = (),
        every_n_updates: int | None = None,
        until_update: int | None = None,
        at_task_switches: bool = False,
    ) -> None:
        self.at_task_switches = self.hears = at_task_switches
        super().__init__(
            every_n_frames=every_n_frames,
            at_frames=at_frames,
            every_n_updates=every_n_updates,
            until_update=until_update,
        )
        if last_layers is not None:
            at_least("Reset.last_layers", last_layers, 1, ", or null for whole modules")
        self.modules, self.last_layers = self.named_or_open(modules, ("actor", "critic")), last_layers

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that put out actions and values."""
        return agent.heads()

    def on_task_switch(self, agent: RLModule, task: str) -> None:
        """Reset before the next update."""
        self.announce()

    def _parts(self, agent: RLModule) -> dict[str, nn.Module]:
        """Return what is reset by its dotted name: whole modules, or single layers."""
        parts: dict[str, nn.Module] = {}
        for name in self.modules:
            module = agent.module(name)
            if self.last_layers is None:
                parts[name] = module
                continue
            heads = [head for head in agent.value_heads if head.startswith(f"{name}.")]
            steps = layers_from_output(module, name, heads)
            if self.last_layers > len(steps):
                raise UserError(
                    f"Reset.last_layers={self.last_layers} is more than the {len(steps)} layers of {name!r}; "
                    "lower it, or leave it out to reset whole modules"
                )
            parts |= {path: layer for step in steps[: self.last_layers][::-1] for path, layer in step.items()}
        return parts

    def mutates(self, agent: RLModule) -> Mutation:
        """Parameters and optimizer slots of what is reset, parameters of its targets."""
        parts = self._parts(agent)
        own = agent.parameter_names(parts.values())
        targets = [target for name in parts if (target := agent.target_of(name)) is not None]
        return Mutation(parameters=own | agent.parameter_names(targets), optimizer_slots=own)

    def act(self, agent: RLModule) -> str:
        """Reset every module, or layer, in turn."""
        generator = agent.rng.get(f"intervention/{self.state_key}")
        parts = self._parts(agent)
        for name, part in parts.items():
            reinitialize(part, agent.init_layer, generator)
            clear_optimizer_state(agent, part.parameters())
            target = agent.target_of(name)
            if target is not None:
                copy_parameters(part, target)
        agent.reinitialized([p for part in parts.values() for p in part.parameters()])
        return f"reset {', '.join(parts)} at frame {agent.env_frames}"
