"""The base of what only watches: it measures at the end of an update and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import RLCallback
from plasticity_rl.callback.scheduled import Scheduled
from plasticity_rl.errors import UserError


class Probe(Scheduled, RLCallback):
    """Measures something at the end of an update and changes nothing.

    Args:
        every_n_updates: Period in gradient updates.
    """

    is_described = True
    writes = frozenset()
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 1}

    def __init__(self, *, every_n_updates: int = 100) -> None:
        self.every_n_updates = every_n_updates
        self.events = self.period_in_updates(every_n_updates)
        self._due = False

    @property
    def watches_update(self) -> bool:
        """Whether it looks at an update and not only at what the update leaves behind.

        Of a checkpoint, such a probe is measured around one more update, every other on the weights as they are.
        """
        return type(self).begin is not Probe.begin

    def begin(self, agent: RLModule) -> None:
        """Called before an update that is to be measured, for example to install hooks."""

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Called after it; remove the hooks, and return scalars by tag."""
        raise NotImplementedError

    def measured(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return what :meth:`measure` does; UserError when that is not scalars by tag."""
        found = self.measure(agent, batch, metrics)
        returned = f"{type(self).__name__}.measure returned"
        if not isinstance(found, Mapping):
            raise UserError(f'{returned} {_kind(found)}, but must return scalars by tag, such as {{"my_tag": 1.0}}')
        for tag, value in found.items():
            if not isinstance(tag, str) or not _is_scalar(value):
                raise UserError(
                    f"{returned} {_kind(value)} as {tag!r}, but must return a scalar for every tag, which is text: a "
                    "number or a tensor of one element, such as x.mean()"
                )
        return found

    def lacks(self) -> Mapping[str, str]:
        """Return ``measure`` where the class does not define it."""
        example = 'it is called with (agent, batch, metrics) and returns scalars by tag, such as {"my_tag": 1.0}'
        return {"measure": example} if type(self).measure is Probe.measure else {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count: no period counts as just completed that was over before a probe joined a run."""
        self.events.begin(as_agent(pl_module).num_updates + 1)

    def is_due(self, agent: RLModule, hook: str) -> bool:
        """Return whether the update that now starts is to be measured, or the one that now ends is."""
        if hook == "on_update_start":
            return not self.events.idle(agent.num_updates + 2)
        return hook != "on_update_end" or self._due

    def on_update_start(self, agent: RLModule) -> None:
        """Begin when the update that now starts completes a period."""
        self._due = self.events.fire(agent.num_updates + 2)
        if self._due:
            self.begin(agent)

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Measure and log."""
        if self._due:
            self._due = False  # the next update may begin without a call
            agent.log_scalars(self.measured(agent, batch, metrics))


def _is_scalar(value: Any) -> bool:
    """Return whether a value can be logged, without a look at what a tensor holds: a GPU would be waited for."""
    if isinstance(value, Tensor):
        return value.numel() == 1
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str)


def _kind(value: Any) -> str:
    """Return the type of a value, and the shape of what has one."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
