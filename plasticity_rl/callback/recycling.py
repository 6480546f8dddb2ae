"""What interventions that recycle hidden units share: fresh weights in, silence out, whoever chose the units."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.unit_interventions import UnitIntervention, clear_makers, detach_readers, note_renewed
from plasticity_rl.nn.units import UnitLayer
from plasticity_rl.surgery import copy_units, redraw_units

Found = Mapping[str, Mapping[str, tuple[UnitLayer, Tensor]]]
"""Module -> name of the unit layer -> the layer, and which of its units are meant, a bool mask ``(n,)``."""


class RecyclesUnits(UnitIntervention):
    """Gives hidden units incoming weights as at initialisation, bias 0, and outgoing weights 0 in all that read them.

    In the target network the incoming weights become the online ones, the outgoing ones 0. Their optimizer moments
    become 0; step counts stay. What to recycle the subclass says.
    """

    def tags(self) -> frozenset[str]:
        """Return one tag for each module."""
        return frozenset(f"intervention/{self.name}/recycled/{name}" for name in self.modules)

    def recycle(self, agent: RLModule, found: Found) -> str:
        """Recycle the units, log how many, and return one line that says so.

        To be called once all modules were looked at: what one of them gets does not depend on the others.
        """
        counts = {name: sum(int(units.sum()) for _, units in layers.values()) for name, layers in found.items()}
        chosen = {name: pair for layers in found.values() for name, pair in layers.items() if bool(pair[1].any())}
        generator = agent.rng.get(f"intervention/{self.state_key}")
        for layer, units in chosen.values():
            redraw(agent, layer, units, generator)
        # After all fresh weights: a recycled unit reads no other recycled unit.
        for layer, units in chosen.values():
            detach_readers(agent, layer, units)
        agent.log_scalars({f"intervention/{self.name}/recycled/{name}": float(n) for name, n in counts.items()})
        return f"recycled {', '.join(f'{n} units of {name}' for name, n in counts.items())} at frame {agent.env_frames}"


def redraw(agent: RLModule, layer: UnitLayer, units: Tensor, generator: torch.Generator) -> None:
    """Draw the incoming weights of ``units`` anew, in the online network and the same ones in the target."""
    note_renewed(agent, layer, units)
    for maker in layer.makers:
        redraw_units(maker, units, agent.init_layer, generator)
    for maker, twin in zip(layer.makers, layer.twins, strict=bool(layer.twins)):
        copy_units(maker, twin, units)
    clear_makers(agent, layer, units)
