"""A frozen network with random weights in the place of the encoder: the control of FrozenEncoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from plasticity_rl.callback.frozen_encoder import FrozenEncoderIntervention
from plasticity_rl.nn.pretrained import Layer, PretrainedName, random_network


class RandomFrozenEncoder(FrozenEncoderIntervention):
    """Replace the encoder by a network with random weights that never move: what ``FrozenEncoder`` gains by ImageNet.

    All else is as in ``FrozenEncoder``: the frames, the differences, the trainable layer on top, the fresh readers, and
    what is refused beside it. Convolutions are drawn as at the start of the original's training (normal, variance
    ``2 / fan_out``), from a generator of this callback's own.

    Mutates: nothing after the start. With ``batch_norm: train`` the running statistics of the frozen network move.
    Logs: nothing.
    Reference: control of Ma et al. 2024 (arXiv 2310.07418), Fig. 4, ours.
    Differences from the original: none, it is ours. With ``batch_norm: eval`` the running statistics are those of a
        fresh network (mean 0, variance 1), so batch norm does nothing and the maps grow with depth (at 6, activations
        of EfficientNet-Lite0 stop); the LayerNorm on top takes the scale out.

    Args:
        architecture: ``resnet18``, ``resnet34``, ``resnet50`` or ``efficientnet_lite0``.
        layer: Stage after which the network is cut, ``layer1`` to ``layer4``.
        feature_dim: Width of the trainable Linear and LayerNorm on top.
        normalize: ``published``: pixels in [-0.5, 0.5]; ``imagenet``: as for the trained network.
        batch_norm: ``eval``: fixed statistics, always; ``train``: statistics of the batch in updates, which move the
            running ones that acting and probes use; on one process only.
        encoder: Name of the agent's encoder.
    """

    cuda_graph = "stays"
    needs_pixels = True
    example_arguments: ClassVar[Mapping[str, Any]] = {"layer": "layer1", "feature_dim": 16}

    def __init__(
        self,
        *,
        architecture: PretrainedName = "resnet18",
        layer: Layer = "layer2",
        feature_dim: int = 1024,
        normalize: Literal["published", "imagenet"] = "published",
        batch_norm: Literal["eval", "train"] = "eval",
        encoder: str = "encoder",
    ) -> None:
        super().__init__(
            encoder=encoder,
            architecture=architecture,
            layer=layer,
            feature_dim=feature_dim,
            normalize=normalize,
            batch_norm=batch_norm,
        )

    def network(self, generator: torch.Generator) -> nn.Module:
        """Return the network with random weights."""
        return random_network(self.architecture, self.layer, generator)
