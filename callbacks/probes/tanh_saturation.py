"""Share of tanh outputs that are saturated, in the trunks and in the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
from tensordict import TensorDictBase
from torch import nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.charts import ONE, Layout
from plasticity_rl.callback.layer_inputs import means_by_layer
from plasticity_rl.callback.module_probes import ModuleProbe, or_nan
from plasticity_rl.errors import UserError, within
from plasticity_rl.measures import saturated_share


class TanhSaturation(ModuleProbe):
    """Share of tanh outputs whose magnitude is above ``threshold``: of tanh layers, and of the policy's actions.

    What lies before a saturated tanh gets next to no gradient: at most ``1 - threshold^2`` of what arrives, a tenth at
    the default. Actions are the policy's mean (``tanh`` of it where the policy is squashed), without noise. On a batch
    of the replay without augmentation, after the update's step; a share weighs all transitions and outputs alike.

    Mutates: nothing.
    Logs: ``tanh_saturation/<module>/<layer>`` for every tanh layer, and ``policy_saturation/<module>`` for the module
        that puts out actions, in [0, 1]; NaN while outputs are not finite.
    Reference: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks",
        section 3, saturation of tanh layers.
    Differences from the original: the threshold is this project's.

    Args:
        every_n_updates: Period in gradient updates.
        modules: Modules by dotted name, each with a tanh layer or the one that puts out actions; None for all of them.
        threshold: In (0, 1).
        batch_size: Transitions in the probe batch.

    Raises:
        UserError: When ``threshold`` is out of range.
    """

    reads = frozenset({"outputs"})
    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 3, "batch_size": 20}

    def __init__(
        self,
        *,
        every_n_updates: int = 1000,
        modules: Sequence[str] | None = None,
        threshold: float = 0.95,
        batch_size: int = 256,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, modules=modules)
        self.batch_size = self.enough(batch_size)
        within("TanhSaturation.threshold", threshold, "(0, 1)", "; default 0.95")
        self.threshold = threshold

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the modules that have a tanh, or put out actions."""
        found = [name for name in agent.networks() if name == agent.policy_module or _tanh_layers(agent, name)]
        if not found:
            raise UserError(
                f"TanhSaturation: nothing can saturate in a {type(agent).__name__}, which has no tanh layer and no "
                "module that puts out actions in [-1, 1]; leave it out"
            )
        return found

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse modules in which nothing can saturate."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        for name in self.modules:
            if name != agent.policy_module and not _tanh_layers(agent, name):
                raise UserError(f"TanhSaturation.modules: {name!r} has no tanh layer and puts out no actions")

    def tags(self) -> frozenset[str]:
        """Return what each module may write."""
        kinds = ("tanh_saturation/{}/*", "policy_saturation/{}")
        return frozenset(kind.format(name) for kind in kinds for name in self.modules)

    def charts(self) -> Layout:
        """Return a chart of trunks and policy."""
        tags = [f"tanh_saturation/{ONE}/{ONE}", f"policy_saturation/{ONE}"]
        return {"Linear units, and units without gradient": {"Saturated tanh outputs": tags}}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return the shares."""
        layers = {f"{name}/{path}": layer for name in self.modules for path, layer in _tanh_layers(agent, name).items()}
        share = lambda values: or_nan(saturated_share, values, self.threshold)  # noqa: E731
        policy = [agent.policy_module] if agent.policy_module in self.modules else []
        seen = means_by_layer(agent, layers, self.batch_size, share, policy)
        kind = dict.fromkeys(policy, "policy_saturation")
        return {f"{kind.get(key, 'tanh_saturation')}/{key}": value for key, (_, value) in seen.items()}


def _tanh_layers(agent: RLModule, name: str) -> dict[str, nn.Module]:
    return {path or "output": m for path, m in agent.submodules(name).items() if isinstance(m, nn.Tanh)}
