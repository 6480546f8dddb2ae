"""What callbacks add to the losses of an agent, and what the losses are without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor

from plasticity_rl.agents.jumps import TellsOfJumps
from plasticity_rl.errors import UserError
from plasticity_rl.nn.precision import full_precision, widen

LossTerm = Callable[[TensorDictBase], Tensor]
"""Scalar with gradient that a callback adds to a loss; see :meth:`RLModule.add_loss_term`."""
Losses = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""Detached scalars by the name of the loss, twice."""


class TakesLossTerms(TellsOfJumps):
    """The part of the agent protocol by which callbacks add to losses."""

    def __init__(self) -> None:
        super().__init__()
        self._loss_terms: dict[str, dict[str, LossTerm]] = {}
        self._own_losses: dict[str, Tensor] = {}
        self._added: dict[str, Tensor] = {}

    def add_loss_term(self, loss: str, name: str, term: LossTerm) -> None:
        """Add ``term(batch)``, a scalar, to the loss called ``loss`` at every update; logged under ``<name>/loss``.

        Call it from ``on_fit_start`` or later: ``setup`` drops the terms of an earlier Trainer.

        Args:
            loss: One of ``loss_optimizers``.
            name: Prefix of the tag.
            term: Function of the batch as sampled, with what the loss made of it: ``("augmented", "pixels")``,
                ``("augmented", "next", "pixels")`` (``state`` instead of ``pixels`` where the agent observes that), and
                ``features`` (the encoder's output, with gradient where the loss trains the encoder, else detached).
        """
        if loss not in self.loss_optimizers:
            raise UserError(f"no loss {loss!r} in {type(self).__name__}; there are {list(self.loss_optimizers)}")
        terms = self._loss_terms.setdefault(loss, {})
        if name in terms:
            raise UserError(f"the {loss} loss already has a term called {name!r}")
        terms[name] = term

    def loss_terms(self, loss: str, batch: TensorDictBase, **seen: Tensor) -> dict[str, Tensor]:
        """Evaluate the terms that callbacks added to ``loss``.

        Args:
            loss: Name of the loss.
            batch: Batch as sampled.
            **seen: Observations as the loss used them, ``pixels`` and ``next_pixels`` (or ``state`` and
                ``next_state``), and ``features``.
        """
        terms = self._loss_terms.get(loss)
        if not terms:
            return {}
        inputs = batch.copy()
        inputs["features"] = widen(seen["features"])
        inputs["augmented", self.observation_key] = seen[self.observation_key]
        inputs["augmented", "next", self.observation_key] = seen[f"next_{self.observation_key}"]
        with full_precision(self.device):
            values = {name: term(inputs) for name, term in sorted(terms.items())}
        self._added[loss] = torch.stack([value.detach() for value in values.values()]).sum()
        return values

    def with_terms(self, loss: str, value: Tensor, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the agent's own loss plus the terms of callbacks, and keep the former for :meth:`own_loss`."""
        self._own_losses[loss] = value.detach()
        return sum(terms.values(), value)

    def terms_of_losses(self) -> Mapping[str, Mapping[str, LossTerm]]:
        """Return the terms that callbacks added, by loss and name."""
        return self._loss_terms

    def kept_losses(self) -> Losses:
        """Return what an update has left for :meth:`own_loss`: losses without terms, and sums of terms."""
        return dict(self._own_losses), dict(self._added)

    def keep_losses(self, losses: Losses) -> None:
        """Go on with what :meth:`kept_losses` returned, as after the update that left it."""
        self._own_losses, self._added = dict(losses[0]), dict(losses[1])

    def own_loss(self, loss: str, total: Tensor) -> Tensor:
        """Return the last value of a loss without the terms that callbacks added to it, a detached scalar.

        Args:
            loss: One of ``loss_optimizers``.
            total: Its value with them, for agents that do not use :meth:`with_terms`.
        """
        if loss in self._own_losses:
            return self._own_losses[loss]
        return total.detach() - self._added.get(loss, torch.zeros_like(total))
