"""How many transitions the ranks of a layer's features are taken of, and the features of that many.

A rank cannot exceed the number of inputs, and of fewer inputs than units it says little about the units: with 700 of
1024 units dead, 256 inputs still span nearly 256 dimensions.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.probing import record_pass
from plasticity_rl.nn.frozen_network import FrozenNetwork
from plasticity_rl.nn.layers import LEARNS
from plasticity_rl.rng import derive_seed

LEAST = 256
"""Transitions of the batch that probes share; of feature maps, which are wider than any batch, no more are taken."""
PER_UNIT = 4
"""Transitions for every unit of a wider layer."""
MOST = 16_384
"""Transitions at most, enough for 4096 units: features and their decomposition must fit into memory."""


def automatic_batch_size(shape: torch.Size, capacity: int) -> int:
    """Return how many transitions the features of a layer are taken of where the user leaves it open.

    ``max(256, 4 * units)``, at most 16384 and not more than a full replay holds; 256 for feature maps.

    Args:
        shape: Of the layer's output, ``(B, units)`` or ``(B, channels, height, width)``.
        capacity: Transitions in a full replay. Not those of the moment: ranks of other batches cannot be compared.
    """
    if len(shape) > 2:
        return LEAST
    return max(LEAST, min(PER_UNIT * shape[1], MOST, capacity))


def last_features(agent: RLModule, name: str, batch_size: int | None) -> Tensor:
    """Return what a module's last hidden layer that learns puts out on the probe batch. Do not write into it.

    One row for each transition: a frozen encoder sees the frames of an observation one by one, and the outputs of all
    of them are one row, or a rank could exceed the number of transitions.

    Args:
        agent: Attached to a Trainer and a replay.
        name: Module by dotted name.
        batch_size: Transitions, drawn with replacement; or None for :func:`automatic_batch_size`. If those are more
            than 256, each is taken at most once, and all of them, with a warning, where the replay holds fewer; 256
            are drawn with replacement.
    """
    transitions = LEAST if batch_size is None else batch_size
    outputs = agent.probe_activations(name, transitions)
    path = [path for path in agent.activation_layers(name, LEARNS) if path in outputs][-1]
    features = outputs[path]
    if isinstance(agent.module(name.partition(".")[0]), FrozenNetwork):
        features = features.unflatten(0, (transitions, -1)).flatten(1, 2)  # from (B * frames, channels, ...)
    if batch_size is not None:
        return features
    size = automatic_batch_size(features.shape, agent.data.capacity)
    if size == LEAST:
        return features
    layer = agent.activation_layers(name)[path]
    return agent.once_per_update(("wide pass", size), lambda: _wide_pass(agent, size))[layer]


def _wide_pass(agent: RLModule, batch_size: int) -> dict[torch.nn.Module, Tensor]:
    """Return the outputs of all layers of units on many transitions of the replay, each at most once.

    Drawn with replacement, few transitions would span fewer dimensions than they number, and a rank would be theirs.
    They are seen in parts: neither the images nor the feature maps of convolutions would fit into memory at once.
    """
    generator = torch.Generator().manual_seed(derive_seed(agent.rng.seed, f"probe/wide/{agent.num_updates}"))
    found: dict[torch.nn.Module, list[Tensor]] = {}
    held = 0
    for part in agent.data.replay.peek_distinct(batch_size, generator, LEAST):
        held += len(part)
        recorded = record_pass(agent, part.to(agent.device)).activations
        for layer, output in recorded.items():
            if output.ndim == 2:
                found.setdefault(layer, []).append(output)
    if held < batch_size:
        agent.warn_once("few transitions for ranks", too_few(held, batch_size))
    return {layer: torch.cat(outputs) for layer, outputs in found.items()}


def too_few(held: int, asked: int) -> str:
    """Say that ranks are taken of fewer transitions than the layer's width asks for."""
    return (
        f"ranks of wide layers are taken of the {held} transitions that the replay holds, where {asked} are asked for "
        "(four for every unit): they come out lower than of a fuller replay, and cannot be compared with those"
    )


def feature_shape(agent: RLModule, name: str) -> torch.Size:
    """Return the shape ``(1, ...)`` of what a module's last hidden layer puts out for one observation."""
    pixels = agent.observation_key == "pixels"
    observation = torch.zeros(1, *agent.data.obs_shape, dtype=torch.uint8 if pixels else torch.float32)
    action = torch.zeros(1, agent.data.action_dim)
    batch = TensorDict({agent.observation_key: observation, "action": action}, batch_size=1).to(agent.device)
    recorded = record_pass(agent, batch).activations
    return [recorded[layer] for layer in agent.activation_layers(name, LEARNS).values() if layer in recorded][-1].shape
