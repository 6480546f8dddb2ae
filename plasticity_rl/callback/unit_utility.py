"""Which units of a layer are of least use, and how many of them are due to be replaced (continual backpropagation)."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from plasticity_rl.measures import debiased


class UnitUtility:
    """Utility and age of the units of one layer (Dohare et al. 2024, Nature 632, Eq. 1 and Algorithm 1).

    How many units are mature follows from how many were replaced when, so it is counted on the host: which ones they
    are stays on the device, and no GPU is waited for.

    Args:
        size: Number of units; all of them are new.
        replacement_rate: Fraction of the mature units that is due per update.
        maturity_threshold: A unit is mature when it is older than this, in updates.
        decay: Weight of the old averages per update, in [0, 1).
        copies: Outputs per unit: 1 of a ReLU, 2 of a CReLU.
        positions: Places at which each output is read with weights of its own: those of a flattened channel.

    Attributes:
        owed: Units that are due, with the fraction that does not yet make a whole one.
        mature: Number of mature units.
    """

    def __init__(
        self,
        size: int,
        *,
        replacement_rate: float,
        maturity_threshold: int,
        decay: float,
        copies: int = 1,
        positions: int = 1,
    ) -> None:
        self.size, self.replacement_rate = size, replacement_rate
        self.maturity_threshold, self.decay = maturity_threshold, decay
        self.updates = self.mature = 0
        self.owed = 0.0
        self._utility, self._mean = torch.zeros(size), torch.zeros(copies, size, positions)
        self._born = torch.zeros(size, dtype=torch.int64)
        self._young = deque([[0, size]])  # update after which units were new, and how many; oldest first

    def observe(self, magnitude: Tensor, mean: Tensor, outgoing: Tensor) -> None:
        """Take in one update.

        Args:
            magnitude: Mean absolute outputs of the layer on the batch, ``(copies * size,)``, copy by copy.
            mean: Mean outputs at every position, ``(copies * size * positions,)``, copy by copy and unit by unit.
            outgoing: Sum of the absolute weights with which every output is read, likewise.
        """
        self.updates += 1
        self._utility.lerp_((magnitude * outgoing).view(-1, self.size).sum(0), 1.0 - self.decay)
        self._mean.lerp_(mean.view_as(self._mean), 1.0 - self.decay)
        while self._young and self.updates - self._young[0][0] > self.maturity_threshold:
            self.mature += self._young.popleft()[1]
        self.owed += self.replacement_rate * self.mature

    @property
    def due(self) -> int:
        """Whole number of units that should be replaced now."""
        return int(self.owed)

    def age(self) -> Tensor:
        """Return how many updates every unit has seen, int64 ``(size,)``."""
        return self.updates - self._born

    def utility(self) -> Tensor:
        """Return the debiased utility of every unit, ``(size,)``."""
        return debiased(self._utility, self.decay, self.age())

    def mean_output(self) -> Tensor:
        """Return the debiased mean outputs of the layer, ``(copies * size * positions,)``."""
        return debiased(self._mean, self.decay, self.age()[:, None].expand_as(self._mean)).flatten()

    def least_useful(self, count: int) -> Tensor:
        """Return the indices ``(count,)`` of the mature units of least utility; ``count`` is at most ``mature``."""
        utility = self.utility().nan_to_num(nan=torch.finfo(torch.float32).max)
        return utility.masked_fill(self.age() <= self.maturity_threshold, torch.inf).topk(count, largest=False).indices

    def renew(self, units: Tensor) -> None:
        """Note that the units with these indices were replaced by new ones."""
        self._utility.index_fill_(0, units, 0.0)
        self._mean.index_fill_(1, units, 0.0)
        self._born.index_fill_(0, units, self.updates)
        self.owed -= len(units)
        self.mature -= len(units)
        self._young.append([self.updates, len(units)])

    def take_as_new(self, units: Tensor) -> None:
        """Note that another intervention replaced units (bool mask): they were not due. Waits for a GPU."""
        self._utility.masked_fill_(units, 0.0)
        self._mean.masked_fill_(units[:, None], 0.0)
        self._born.masked_fill_(units, self.updates)
        born, counts = self._born.unique(return_counts=True)  # in ascending order: oldest first
        pairs = [[b, n] for b, n in zip(born.tolist(), counts.tolist(), strict=True)]
        self._young = deque(pair for pair in pairs if self.updates - pair[0] <= self.maturity_threshold)
        self.mature = self.size - sum(count for _, count in self._young)
        self.owed = min(self.owed, float(self.mature))

    def renew_all(self) -> None:
        """Note that the whole layer is new."""
        self._utility.zero_()
        self._mean.zero_()
        self._born.fill_(self.updates)
        self.owed, self.mature, self._young = 0.0, 0, deque([[self.updates, self.size]])

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self._utility, self._mean = self._utility.to(device), self._mean.to(device)
        self._born = self._born.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain data."""
        return {
            "utility": self._utility,
            "mean": self._mean,
            "born": self._born,
            "young": [list(pair) for pair in self._young],
            "updates": self.updates,
            "mature": self.mature,
            "owed": self.owed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; where it had one mean for all positions, each has that one."""
        self._utility, self._born = state["utility"], state["born"]
        mean = state["mean"] if state["mean"].dim() == self._mean.dim() else state["mean"][..., None]
        self._mean = mean.expand_as(self._mean).clone()
        self._young = deque(list(pair) for pair in state["young"])
        self.updates, self.mature, self.owed = state["updates"], state["mature"], state["owed"]
