"""The words in which callbacks declare themselves: family, stage, and what they read and write of each other."""

from __future__ import annotations

FAMILIES = (
    "experience",
    "augmentation",
    "replay_ratio",
    "architecture",
    "optimizer",
    "regularizer",
    "soft_reset",
    "reset",
    "surgery",
)
"""Families of interventions in the order in which they act when several are due at the same update."""


BUILD_STAGES = ("modules", "heads", "widths", "activations", "norms", "masks", "weights")
"""Stages in which interventions of family architecture build: a norm is as wide as the layer has become, and a mask
that moves keeps within one that is fixed."""

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
    "steps": "how optimizers step, all along",
    "experience": "what is collected or sampled",
    "settings": "an attribute of the agent",
}
"""What callbacks write, for ``RLCallback.writes``."""
