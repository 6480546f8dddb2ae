"""Replace the least useful units, a few at a time, for as long as training lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback import Mutation
from plasticity_rl.callback.unit_interventions import (
    FreshUnits,
    RecordingUnitIntervention,
    detach_readers,
    feed_on_average,
    mask_of,
    put_units,
)
from plasticity_rl.callback.unit_utility import UnitUtility
from plasticity_rl.errors import at_least, within
from plasticity_rl.measures import outgoing_magnitude
from plasticity_rl.nn.units import UnitLayer
from plasticity_rl.nn.weight_transforms import weight_in_use


class ContinualBackprop(RecordingUnitIntervention):
    """After every update replace the fraction ``replacement_rate`` of the mature hidden units, those of least utility.

    A unit's utility is the moving average ``u <- decay * u + (1 - decay) * |h| * sum_k |w_k|`` of its mean absolute
    output on the training batch (and over space) times the sum of its absolute outgoing weights, over the layers of the
    online networks that read it. A unit may be replaced when it is older than ``maturity_threshold`` updates. What a
    layer is due adds up until it is a whole unit. A replaced unit gets incoming weights as at initialisation, bias 0
    and outgoing weights 0; what it fed on average to the layers that read it goes into their biases. That
    is taken at each position of a channel that is read flattened, and over space, which is approximate, of one that a
    convolution reads. In noisy layers the scale of the noise goes with each weight, as at initialisation or zero; the
    utility is of the means.

    Mutates: incoming weights, biases and outgoing weights of the replaced units, and their optimizer moments (to zero;
        Adam's step counts stay, as there is one per tensor); biases of the layers that read them. In the target critic
        the incoming weights become those of the online critic, outgoing weights and biases are edited alike; so are
        copies of weights that other callbacks keep, each bias by the copy's own weights.
    Logs: every ``log_every_n_updates``: ``intervention/continual_backprop/replaced/<module>`` (units so far), and if
        there were any since, ``intervention/continual_backprop`` (1) and a line of text.
    Reference: Dohare et al. 2024 (Nature 632, 768), Eq. 1 and Algorithm 1; decay 0.99 throughout. On Ant with PPO they
        use replacement rate 1e-4 and maturity threshold 1e4; with smaller tasks 1e-6 to 1e-4 and 100.
    Differences from the original: averages are debiased and the mean output is moved into the next bias, as in the
        authors' code, where however the mean is set to zero before it is read, so that nothing is moved; for
        convolutional networks it has no such line. Their Adam has a step count per weight. Units of a convolution are
        channels; of one that is read flattened their code multiplies activity and weights at each position, here both
        are taken over space first.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        replacement_rate: Fraction of the mature units of a layer that is replaced per update, in [0, 1]; 0 does
            nothing.
        maturity_threshold: Age in updates up to which a unit is not replaced, >= 0.
        decay: Weight of the old averages per update, in [0, 1).
        log_every_n_updates: Period of the log in gradient updates.

    Raises:
        UserError: When a number is out of its range.
    """

    reads = frozenset({"units", "weights", "unit records"})
    writes = frozenset({"jump", "fresh units", "optimizer"})
    cuda_graph = "eager"
    example_arguments: ClassVar[Mapping[str, Any]] = {
        "replacement_rate": 0.05,
        "maturity_threshold": 3,
        "decay": 0.9,
        "log_every_n_updates": 5,
    }
    inert_arguments: ClassVar[Mapping[str, Any]] = {"replacement_rate": 0.0}
    incompatible_with: ClassVar[Mapping[str, str]] = {
        "PruneDormant": "one removes units for good, the other renews them"
    }

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        replacement_rate: float = 1e-4,
        maturity_threshold: int = 10_000,
        decay: float = 0.99,
        log_every_n_updates: int = 1000,
    ) -> None:
        super().__init__(modules=modules)
        within("ContinualBackprop.replacement_rate", replacement_rate, "[0, 1]")
        within("ContinualBackprop.decay", decay, "[0, 1)", ": at 1 the utility never changes")
        at_least("ContinualBackprop.maturity_threshold", maturity_threshold, 0)
        at_least("ContinualBackprop.log_every_n_updates", log_every_n_updates, 1)
        self.replacement_rate, self.maturity_threshold = replacement_rate, maturity_threshold
        self.decay, self.log_every_n_updates = decay, log_every_n_updates
        self._utilities: dict[str, UnitUtility] = {}
        self._fresh: dict[str, FreshUnits] = {}
        self._replaced: dict[str, int] = {}
        self._logged = 0

    def tags(self) -> frozenset[str]:
        """Return one tag for each module."""
        return frozenset(f"intervention/{self.name}/replaced/{name}" for name in self.modules)

    def mutates(self, agent: RLModule) -> Mutation:
        """Makers and readers of the units with their twins, and the biases of the readers."""
        own = super().mutates(agent)
        readers = {id(reader.layer) for layer in self.layers(agent) for reader in layer.readers}
        biases = {
            f"{name}.bias"
            for name, layer in agent.named_modules()
            if id(layer) in readers and getattr(layer, "bias", None) is not None
        }
        return Mutation(parameters=own.parameters | biases, optimizer_slots=own.optimizer_slots)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the records: every unit is new."""
        super().setup(trainer, pl_module, stage)
        layers, name = self.layers(as_agent(pl_module)), f"intervention/{self.state_key}"
        self._utilities = {layer.name: self._new_utility(layer) for layer in layers}
        self._fresh = {layer.name: FreshUnits(layer, name) for layer in layers}
        self._replaced, self._logged = dict.fromkeys(self.modules, 0), 0

    def _new_utility(self, layer: UnitLayer) -> UnitUtility:
        return UnitUtility(
            layer.size,
            copies=layer.copies,
            positions=layer.positions,
            replacement_rate=self.replacement_rate,
            maturity_threshold=self.maturity_threshold,
            decay=self.decay,
        )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the weights to their device."""
        super().on_fit_start(trainer, pl_module)
        for name, layer in self.unit_layers(as_agent(pl_module)).items():
            self._utilities[name].to(layer.readers[0].weight.device)

    def read(self, output: Tensor) -> Tensor:
        """Return the mean absolute value of every output, over space as well, and then its mean at every position."""
        outputs = output.float().transpose(0, 1)
        magnitude = outputs.flatten(1).abs().mean(1)
        return torch.cat([magnitude, outputs.mean(1).flatten()])[None]

    @torch.no_grad()
    def record(self, agent: RLModule, seen: dict[str, Tensor]) -> None:
        """Move the averages by one update, with the weights as this update left them."""
        layers = self.unit_layers(agent)
        for name, (read,) in seen.items():
            outputs = layers[name].copies * layers[name].size
            magnitude, mean = read[:outputs], read[outputs:].view(outputs, -1)
            if layers[name].positions == 1:
                mean = mean.mean(1)
            outgoing = [
                outgoing_magnitude(weight_in_use(r.layer), outputs, r.inputs) for r in self.online_readers(agent)[name]
            ]
            self._utilities[name].observe(magnitude, mean.flatten(), torch.stack(outgoing).sum(0))

    def on_update_start(self, agent: RLModule) -> None:
        """Replace what is due, log now and then, and watch the update that starts."""
        if self.replacement_rate == 0:
            return
        self._replace(agent)
        if agent.num_updates % self.log_every_n_updates == 0:
            self._log(agent)
        self._activations.start(agent)

    @torch.no_grad()
    def _replace(self, agent: RLModule) -> None:
        layers = self.unit_layers(agent)
        due = {name: utility.least_useful(utility.due) for name, utility in self._utilities.items() if utility.due}
        # First what the old units meant to their readers, then the new units, then nobody reads them.
        for name, units in due.items():
            mask = mask_of(units, layers[name].size)
            feed_on_average(agent, layers[name], mask, self._utilities[name].mean_output())
        for name, units in due.items():
            put_units(agent, layers[name], units, self._fresh[name].take(agent, len(units)))
        for name, units in due.items():
            detach_readers(agent, layers[name], mask_of(units, layers[name].size))
            self._utilities[name].renew(units)
            self._replaced[self.module_of(name)] += len(units)

    def _log(self, agent: RLModule) -> None:
        prefix, total = f"intervention/{self.name}", sum(self._replaced.values())
        agent.log_scalars({f"{prefix}/replaced/{name}": float(count) for name, count in self._replaced.items()})
        if total > self._logged:
            parts = ", ".join(f"{count} units of {name}" for name, count in self._replaced.items())
            agent.log_event(self.name, f"replaced so far: {parts} at frame {agent.env_frames}")
        self._logged = total

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether a unit is due."""
        return any(utility.due for utility in self._utilities.values())

    def on_weights_jumped(self, agent: RLModule, jump: Jump) -> None:
        """Take the units of a layer that was reset for new ones, and those that another intervention replaced."""
        whole = self.renewed_layers(agent, jump)
        for name, utility in self._utilities.items():
            if name in whole:
                utility.renew_all()
            elif name in jump.units and jump.by != self.state_key:
                utility.take_as_new(jump.units[name])

    def state_dict(self) -> dict[str, Any]:
        """Return utilities and ages, and how much was drawn, replaced and logged so far."""
        return {
            "utilities": {name: utility.state_dict() for name, utility in self._utilities.items()},
            "taken": {name: fresh.taken for name, fresh in self._fresh.items()},
            "replaced": dict(self._replaced),
            "logged": self._logged,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name, utility in state_dict["utilities"].items():
            self._utilities[name].load_state_dict(utility)
            self._fresh[name].taken = state_dict["taken"][name]
        self._replaced, self._logged = dict(state_dict["replaced"]), state_dict["logged"]
