"""What interventions share that put a frozen network in the place of an agent's encoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import nn

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import callbacks_of
from plasticity_rl.callback.architecture import Architecture, place_generator, put
from plasticity_rl.callback.intervention import Intervention
from plasticity_rl.errors import UserError, at_least, at_most, one_of
from plasticity_rl.nn.frozen_network import FrozenNetwork
from plasticity_rl.nn.hooks import evaluation_mode
from plasticity_rl.nn.pretrained import Layer, PretrainedName, normalization
from plasticity_rl.surgery import reinitialize, resized, size_of

MAX_FEATURE_DIM = 65_536
"""Four billion weights at 84x84 pixels, where a ResNet's second layer gives 61952 numbers for three frames."""


class FrozenEncoderIntervention(Architecture):
    """Replaces the encoder by a frozen network with a trainable Linear and LayerNorm on top, before training starts.

    A target network of the encoder shares the frozen network and has the rest of its own.

    The layers that read the encoder are drawn anew, as wide as its new output.

    Args:
        encoder: Name of the agent's encoder.
        architecture: ``resnet18``, ``resnet34``, ``resnet50`` or ``efficientnet_lite0``.
        layer: Stage after which the network is cut: ``layer1`` to ``layer4``.
        feature_dim: Width of the trainable Linear and LayerNorm on top.
        normalize: ``published`` or ``imagenet``.
        batch_norm: ``eval`` or ``train``.

    Raises:
        UserError: When a value is none of those.
    """

    reads = frozenset()
    writes = frozenset({"architecture"})

    def __init__(
        self,
        *,
        encoder: str,
        architecture: PretrainedName,
        layer: Layer,
        feature_dim: int,
        normalize: Literal["published", "imagenet"],
        batch_norm: Literal["eval", "train"],
    ) -> None:
        super().__init__(modules=[encoder])
        self.encoder, self.architecture, self.layer, self.feature_dim = encoder, architecture, layer, feature_dim
        self.normalize, self.batch_norm = normalize, batch_norm
        self._refuse("architecture", get_args(PretrainedName))
        self._refuse("layer", get_args(Layer))
        self._refuse("normalize", ("published", "imagenet"))
        self._refuse("batch_norm", ("eval", "train"))
        at_least(f"{type(self).__name__}.feature_dim", feature_dim, 1, " (published: 1024)")
        reason = "the layer on top of the frozen network would have billions of weights; published: 1024"
        at_most(f"{type(self).__name__}.feature_dim", feature_dim, MAX_FEATURE_DIM, reason)

    def _refuse(self, option: str, choices: Sequence[str]) -> None:
        value = getattr(self, option)
        one_of(f"{type(self).__name__}.{option}", value, choices)

    def network(self, generator: torch.Generator) -> nn.Module:
        """Return the network that is frozen: images ``(batch, 3, h, w)`` to maps ``(batch, channels, h', w')``."""
        raise NotImplementedError

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Only one intervention may replace the encoder."""
        return frozenset({f"replace {self.encoder}"})

    def conflict_with(self, agent: RLModule, other: Intervention) -> str | None:
        """Refuse what would overwrite frozen weights or change layers among them."""
        reason = super().conflict_with(agent, other)
        if reason is not None:
            return reason
        named = {name.split(".")[0] for name in getattr(other, "modules", ())}
        if other.family == "architecture" and self.encoder in named:
            return f"the layers of {self.encoder!r} are replaced and frozen; leave it out of the other's modules"
        return self._overwrites(agent, other, agent.module(self.encoder))

    def _overwrites(self, agent: RLModule, other: Intervention, frozen: nn.Module) -> str | None:
        if other.family == "experience":  # it writes by updates of the agent's own, which leave frozen weights alone
            return None
        try:
            written = other.mutates(agent).parameters
        except UserError:  # it names what exists only after ``build``: checked again in ``setup``
            return None
        if not written & agent.parameter_names([frozen]):
            return None
        return (
            f"it would overwrite frozen weights of {self.encoder!r}; give it other modules, such as "
            f"'{self.encoder}.projection', the part that is trained"
        )

    def build(self, agent: RLModule) -> None:
        """Replace the encoder, and draw the layers that read it anew."""
        agent.module(self.encoder)
        readers = agent.output_readers(self.encoder)
        if not readers:
            raise UserError(f"{type(self).__name__}: {type(agent).__name__} does not say what reads {self.encoder!r}")
        self._refuse_other_frames(agent)
        centred = hands_on_centred_pixels(agent, self.encoder, agent.data.obs_shape)
        network = self.network(place_generator(agent, f"{self.encoder}.network"))
        with torch.random.fork_rng(devices=[]):  # new layers draw from the default generator
            mean, std = normalization(self.architecture)
            encoder = FrozenNetwork(
                network, agent.data.obs_shape, self.feature_dim, self.normalize, centred=centred, mean=mean, std=std
            )
        reinitialize(encoder.projection, agent.init_layer, place_generator(agent, f"{self.encoder}.projection"))
        replace_top(agent, self.encoder, encoder)
        paths = {id(m): path for path, m in agent.named_modules() if path.split(".")[0] in agent.module_names}
        for reader in readers:
            if id(reader.layer) in paths:  # the target's readers are the twins of these
                outputs, inputs = size_of(reader.layer)
                layer = resized(reader.layer, outputs, inputs - reader.inputs + self.feature_dim)
                put(agent, paths[id(reader.layer)], layer)

    def _refuse_other_frames(self, agent: RLModule) -> None:
        """Raise UserError, before any weights are fetched, for frames that are not RGB."""
        channels = agent.data.obs_shape[0] // agent.data.stacked_frames
        if channels % 3:
            raise UserError(
                f"{type(self).__name__} reads RGB frames, and those of {agent.data.task} have {channels} "
                f"channel{'s' * (channels > 1)}: leave it out, or use a task in colours"
            )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what would write to frozen weights, before anything is trained."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        if self.batch_norm == "train" and trainer.world_size > 1:
            raise UserError(
                f"{type(self).__name__}.batch_norm='train' moves statistics that {trainer.world_size} processes would "
                f"not share; use batch_norm='eval' or one process"
            )
        network = agent.module(self.encoder).get_submodule("network")
        for other in callbacks_of(trainer):
            if isinstance(other, Intervention) and (reason := self._overwrites(agent, other, network)):
                raise UserError(f"{type(self).__name__} cannot run beside {type(other).__name__}: {reason}")

    def on_update_start(self, agent: RLModule) -> None:
        """Use and move batch statistics from here to the end of the update, if wanted: acting never does."""
        if self.batch_norm == "train":
            self._frozen(agent).batch_statistics(True)

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Go back to running statistics, before any probe measures."""
        if self.batch_norm == "train":
            self._frozen(agent).batch_statistics(False)

    def _frozen(self, agent: RLModule) -> FrozenNetwork:
        encoder = agent.module(self.encoder)
        assert isinstance(encoder, FrozenNetwork)
        return encoder


def replace_top(agent: RLModule, name: str, module: FrozenNetwork) -> None:
    """Put an encoder in the place of a top-level module, and its twin, which shares what is frozen, into the target."""
    twin = agent.target_of(name)
    paths = [path for path, m in agent.named_modules() if m is twin]
    setattr(agent, name, module)
    for path in paths:
        parent, _, attribute = path.rpartition(".")
        copied = copy.deepcopy(module, {id(module.network): module.network})
        setattr(agent.get_submodule(parent), attribute, copied.requires_grad_(False))


@torch.no_grad()
def hands_on_centred_pixels(agent: RLModule, encoder: str, obs_shape: Sequence[int]) -> bool:
    """Return whether an agent gives its encoder ``pixels / 255 - 0.5``, and not pixels from 0 to 255.

    Raises:
        UserError: When it gives something else, or encodes observations without this module.
    """
    seen: list[torch.Tensor] = []
    handle = agent.module(encoder).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with handle, evaluation_mode(agent):
        agent.encode(torch.full((1, *obs_shape), 255, dtype=torch.uint8))
    white = float(seen[0].max()) if seen else None
    if white not in (0.5, 255.0):
        raise UserError(
            f"a frozen encoder in the place of {encoder!r} needs pixels from 0 to 255, or pixels / 255 - 0.5, but "
            f"{type(agent).__name__} gives it {'none' if white is None else f'{white:g} for white'}"
        )
    return white == 0.5
