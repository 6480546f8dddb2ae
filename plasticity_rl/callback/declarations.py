"""What callbacks declare: family, stage, what an event may change, and what they read and write of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plasticity_rl.errors import UserError

if TYPE_CHECKING:
    from plasticity_rl.agents.base import RLModule
    from plasticity_rl.callback.bases import Intervention

FAMILIES = (
    "experience",
    "augmentation",
    "replay_ratio",
    "architecture",
    "regularizer",
    "soft_reset",
    "reset",
    "surgery",
)
"""Families of interventions in the order in which they act when several are due at the same update."""


BUILD_STAGES = ("modules", "widths", "activations", "norms", "weights")
"""Stages in which interventions of family architecture build: a norm is as wide as the layer has become."""

READS = {
    "units": "activity of the hidden units of modules",
    "features": "output of the last hidden layer that learns",
    "weights": "weights, as the layers compute with them",
    "origin": "weights of an earlier moment that stay what they were",
    "copy": "networks of a while ago, which jump where weights jump (``copies``)",
    "unit records": "what was seen of each unit so far",
    "estimates": "singular vectors or norms that follow the weights",
    "outputs": "outputs of modules",
    "gradients": "gradients by what learns",
    "own loss": "a loss of the agent without the terms of callbacks",
}
"""What callbacks read, for ``RLCallback.reads``."""
WRITES = {
    "head": "which layers compute a head and learn (injection of plasticity)",
    "mask": "which weights count (pruning)",
    "scale": "the scale that weights are used at (spectral norm)",
    "jump": "weights, at once",
    "fresh weights": "whole layers, anew (a jump)",
    "fresh units": "single units, anew (a jump)",
    "projection": "weights, a little at every update",
    "updates": "weights, by updates of the agent's own",
    "architecture": "layers, before training",
    "activations": "hidden activations, before training",
    "loss": "a loss of the agent",
    "optimizer": "state of optimizers",
    "experience": "what is collected or sampled",
    "settings": "an attribute of the agent",
}
"""What callbacks write, for ``RLCallback.writes``."""


@dataclass(frozen=True)
class Mutation:
    """What an intervention's event may change; everything else is bit-identical before and after (a law test).

    Attributes:
        parameters: Names in ``agent.named_parameters()`` whose values may change.
        optimizer_slots: Names of the parameters whose optimizer state may change.
        attributes: Names of agent attributes that may change, e.g. ``{"augment"}``.
        trainable: Names of the parameters that may be frozen or released (``requires_grad``).
    """

    parameters: frozenset[str] = field(default_factory=frozenset)
    optimizer_slots: frozenset[str] = field(default_factory=frozenset)
    attributes: frozenset[str] = field(default_factory=frozenset)
    trainable: frozenset[str] = field(default_factory=frozenset)


def acts_on_pinned(intervention: Intervention, agent: RLModule, pinned: Mapping[str, Mapping[str, str]]) -> str | None:
    """Return why an intervention cannot act on hidden units of ``agent`` with some activations, or None.

    Args:
        intervention: Its ``acts_on`` and ``watched_modules`` are looked at.
        agent: As constructed, or as built.
        pinned: Dotted name of an activation -> what it pins, as ``HiddenActivation.pinned``.
    """
    quantity = intervention.acts_on
    for name in intervention.watched_modules() if quantity and pinned else ():
        try:
            layers = agent.activation_layers(name)
        except UserError:  # a third will build it: checked again in ``setup``
            continue
        for path in (f"{name}.{sub}" for sub in layers):
            if quantity in pinned.get(path, {}):
                reason = pinned[path][quantity]
                return f"it acts on the {quantity} of {path}, but there {reason}; let it watch other modules"
    return None
