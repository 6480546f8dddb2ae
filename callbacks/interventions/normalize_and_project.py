"""Layer norms, and weights that keep their first norm."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback import Mutation
from plasticity_rl.callback.architecture import Architecture, layers_without_norm, put_norm
from plasticity_rl.errors import UserError
from plasticity_rl.nn.layers import hidden_weight_layers
from plasticity_rl.nn.weight_transforms import weight_in_use


class NormalizeAndProject(Architecture):
    """Put a layer norm behind every hidden layer, and scale its weights back to their first norm before every update.

    Behind a norm the scale of a layer's weights does not change what it computes, only how far a step of the optimizer
    turns it: growing weights are a learning rate that decays unseen. The projection removes that, so a learning rate
    that should decay has to do so openly. Weights and bias of a layer are scaled by one factor, so no output changes.

    Mutates: before training, adds norms called ``<layer>_norm`` to ``modules`` and to their target; then, at the start
        of every update, weights and biases of their hidden layers. Output layers, norms and the target's weights stay
        as they are (the target follows by its moving average). The projection after another intervention let weights
        jump is a jump as well: copies that other callbacks keep are scaled by the same factors.
    Logs: nothing of its own.
    Reference: Lyle et al. 2024 (arXiv 2407.01800), Algorithm 1.
    Differences from the original: output layers are not projected; gains and biases of the norms are neither projected
        nor decayed; no learning-rate schedule comes with it. A re-initialised layer keeps the norm it then has. A layer
        with a spectral norm is refused: it takes the scale from the weight, and not from the bias.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
    """

    reads = frozenset({"weights", "estimates"})
    writes = frozenset({"architecture", "projection"})
    cuda_graph = "stays"
    stage = "norms"
    incompatible_with: ClassVar[Mapping[str, str]] = {
        "WeightClipping": "one keeps the weights small, the other puts them back to their first norm"
    }
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["critic", "actor"]}

    def __init__(self, *, modules: Sequence[str] | None = None) -> None:
        super().__init__(modules=modules)
        self._norms: dict[str, Tensor] = {}
        self._jumped = False  # whether the next projection has more to do than the one step since the last

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the places that it puts a norm at, and the layers whose scale it sets.

        Of a layer with a spectral norm the projection would scale the bias alone, which is another function.
        """
        norms = frozenset(f"put a norm behind {path}" for path in layers_without_norm(agent, self.modules))
        return norms | {f"normalise the weight of {path}" for path in self._hidden(agent)}

    def _hidden(self, agent: RLModule) -> list[str]:
        try:
            return list(self._layers(agent))
        except UserError:  # it names what a third will build: checked again in ``setup``
            return []

    def build(self, agent: RLModule) -> None:
        """Add the norms."""
        for path in layers_without_norm(agent, self.modules):
            put_norm(agent, path)

    def _layers(self, agent: RLModule) -> dict[str, nn.Module]:
        activations = [layer for name in self.modules for layer in agent.activation_layers(name).values()]
        return hidden_weight_layers({name: agent.module(name) for name in self.modules}, activations)

    def mutates(self, agent: RLModule) -> Mutation:
        """Weights and biases of the hidden layers."""
        return Mutation(parameters=agent.parameter_names(self._layers(agent).values()))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note the first norms."""
        super().setup(trainer, pl_module, stage)
        self._norms = {path: _norm(layer) for path, layer in self._layers(as_agent(pl_module)).items()}
        self._jumped = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the weights to their device."""
        self._norms = {path: norm.to(as_agent(pl_module).device) for path, norm in self._norms.items()}

    @torch.no_grad()
    def on_update_start(self, agent: RLModule) -> None:
        """Project what the update before made of the weights."""
        factors: dict[str, Tensor] = {}
        for path, layer in self._layers(agent).items():
            norm = _norm(layer)
            factor = torch.where(norm > 0, self._norms[path] / norm, 1.0)  # a layer pruned to nothing stays nothing
            for name, parameter in layer.named_parameters(recurse=False):
                parameter.mul_(factor)
                factors[f"{path}.{name}"] = factor
        self._jumped = False
        if agent.watch is not None:
            agent.watch.repeat(functools.partial(_scale_copy, factors), list(factors))

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether weights jumped since the last projection, which else is the end of the step before."""
        return self._jumped

    def on_weights_jumped(self, agent: RLModule, jump: Jump) -> None:
        """Take the norms of fresh weights as the first ones; after any other jump the norms stay as they were."""
        self._jumped = self._jumped or jump.by != self.state_key
        for path, layer in self._layers(agent).items():
            if f"{path}.weight" in jump.renewed:
                self._norms[path].copy_(_norm(layer))

    def state_dict(self) -> dict[str, Any]:
        """Return the first norms, and whether weights jumped since the last projection."""
        return {"norms": dict(self._norms), "jumped": self._jumped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._norms = dict(state_dict["norms"])
        self._jumped = state_dict.get("jumped", True)  # older checkpoints do not say


def _norm(layer: nn.Module) -> Tensor:
    return weight_in_use(layer).detach().norm()


def _scale_copy(factors: Mapping[str, Tensor], copy: Mapping[str, Tensor]) -> None:
    for name, factor in factors.items():
        if name in copy:
            copy[name].mul_(factor)
