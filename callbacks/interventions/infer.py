"""Keep features able to tell observations apart as they could at the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback import Regularizer
from plasticity_rl.callback.shadow import Twin, network_tensors, running_statistics
from plasticity_rl.callback.unit_activity import TrainingActivations
from plasticity_rl.errors import UserError, at_least, at_most, within
from plasticity_rl.losses import feature_regression
from plasticity_rl.nn.layers import LEARNS
from plasticity_rl.nn.precision import widen
from plasticity_rl.rng import derive_seed


class AuxiliaryHeads(nn.ModuleDict):
    """One linear layer for each module, under its name with ``_`` for ``.``."""

    def head(self, name: str) -> nn.Module:
        """Return the head of a module."""
        return self[name.replace(".", "_")]


class InFeR(Regularizer):
    """Add ``coefficient * E_x sum_i (g_i(x; theta) - scale * g_i(x; theta_0))^2`` over ``num_heads`` linear heads g_i.

    The heads read the penultimate features of a module: the output of its last hidden activation that learns,
    flattened; after an injection of plasticity that of the added head. The targets come from the initial network (of an
    added head from its own first weights) with the initial heads, on the same augmented observations. So the features
    must go on spanning what random features spanned at the start. With ``scale`` 100 the targets are a hundred times
    the first outputs, and the first term ``coefficient * 99^2`` times their squares, which outweighs a TD loss of small
    rewards: there lower ``scale``, whose square counts, or ``coefficient``. Where states are normalised by running
    statistics (``SimBaBlocks``), both networks read them by those of the moment: only weights are initial.

    Mutates: before training, adds the heads to the agent's extra modules, trained by the optimizer of the module; adds
        a term to the loss named ``loss``. The initial network and heads are kept in this callback's state, and stay
        what they are when a module is reset. With coefficient 0 there are neither heads nor term.
    Logs: ``intervention/infer/<modules>/loss``, the term as added;
        ``intervention/infer/loss``, the sum over all of this name.
    Reference: Lyle et al. 2022 (arXiv 2204.09560), Eq. 5; 10 heads, scale (beta) 100, coefficient (alpha) 0.1, on
        Double DQN and Rainbow.
    Differences from the original: the critic has two Q-functions, each with heads on its own features. The heads are
        initialised as the agent initialises a linear layer.

    Args:
        coefficient: Weight of the term, >= 0.
        num_heads: Linear heads per module.
        scale: Factor of the initial outputs in the targets.
        modules: Modules by dotted name, each with one last hidden layer: heads of the critic, or ``encoder``.
        loss: Loss that the term is added to: ``critic`` (which also trains the encoder) or ``actor``.

    Raises:
        UserError: When a number is out of its range.
    """

    reads = frozenset({"features", "origin"})
    cuda_graph = "eager"
    published_modules = ("critic.Q1", "critic.Q2")
    example_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.1}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"coefficient": 0.0}

    def __init__(
        self,
        *,
        coefficient: float = 0.1,
        num_heads: int = 10,
        scale: float = 100.0,
        modules: Sequence[str] | None = None,
        loss: str | None = None,
    ) -> None:
        super().__init__(coefficient=coefficient, modules=modules, loss=loss)
        at_least("InFeR.num_heads", num_heads, 1)
        within("InFeR.scale", scale, "(0, inf]", "; published: 100")
        at_most("InFeR.num_heads", num_heads, 100_000, "their weights would outgrow the network; published: 10")
        self.num_heads, self.scale = num_heads, scale
        self._features = TrainingActivations(self.modules, lambda output: output, with_gradient=True)
        self._initial: dict[str, Tensor] = {}
        self._initial_heads: dict[str, Tensor] = {}
        self._twin: Twin | None = None

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the value heads."""
        return list(agent.value_heads) or [agent.value_module]

    def resolve(self, agent: RLModule) -> None:
        """Take the value heads of this agent where no modules were named."""
        super().resolve(agent)
        self._features.modules = self.modules

    @property
    def name(self) -> str:
        """``infer``, one word as in the paper."""
        return "infer"

    @property
    def extra(self) -> str:
        """Name of the heads among the agent's extra modules."""
        return "infer_" + "_".join(self.modules).replace(".", "_")

    @property
    def builds(self) -> bool:
        """Whether there are heads to add."""
        return self.coefficient > 0

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the features that it reads."""
        names = self.modules if self.coefficient > 0 else ()
        return frozenset(f"regress the features of {name} on what they were" for name in names)

    def build(self, agent: RLModule) -> None:
        """Add the heads, from numbers that no one else draws."""
        generator = torch.Generator().manual_seed(derive_seed(agent.rng.seed, f"intervention/{self.state_key}"))
        heads = AuxiliaryHeads()
        for name in self.modules:
            layers = agent.units(name)
            if not layers:
                raise UserError(f"InFeR.modules: {name!r} has no hidden layer; name one that has, e.g. critic.Q1")
            head = skip_init(nn.Linear, layers[-1].readers[0].inputs, self.num_heads)
            nn.init.zeros_(head.bias)
            agent.init_layer(head, generator)
            heads[name.replace(".", "_")] = head
        agent.add_extra(self.extra, heads, self._optimizer(agent))

    def _optimizer(self, agent: RLModule) -> str:
        if self.loss not in agent.loss_optimizers:
            raise UserError(f"no loss {self.loss!r} in {type(agent).__name__}; there are {list(agent.loss_optimizers)}")
        names, top = agent.loss_optimizers[self.loss], self.modules[0].split(".")[0]
        return top if top in names else names[-1]

    def _heads(self, agent: RLModule) -> AuxiliaryHeads:
        heads = agent.extras[self.extra]
        assert isinstance(heads, AuxiliaryHeads)
        return heads

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep copies of the initial networks and heads, before any update."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        if self.coefficient > 0:
            self._initial = {name: value.detach().clone() for name, value in network_tensors(agent).items()}
            self._initial_heads = {key: p.detach().clone() for key, p in self._heads(agent).named_parameters()}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the term, and let the initial network follow to the agent's device."""
        super().on_fit_start(trainer, pl_module)
        agent = as_agent(pl_module)
        if self.coefficient > 0:
            device = next(self._heads(agent).parameters()).device
            self._initial = {name: value.to(device) for name, value in self._initial.items()}
            self._initial_heads = {key: value.to(device) for key, value in self._initial_heads.items()}
            # The statistics are the agent's own tensors, which move: initial weights read what the live ones read.
            self._twin = Twin(agent, {**self._initial, **running_statistics(agent)})

    def on_update_start(self, agent: RLModule) -> None:
        """Watch the features that the loss computes anyway."""
        if self.coefficient > 0:
            self._features.start(agent)

    def on_update_end(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> None:
        """Leave no hook, whatever the update did."""
        self._features.stop()

    def penalty(self, agent: RLModule, batch: TensorDictBase) -> Tensor:
        """Return ``E_x sum_i (g_i(x; theta) - scale * g_i(x; theta_0))^2``, summed over the modules."""
        assert self._twin is not None
        self._twin.follow()  # an injected head takes part in the initial network as well
        heads, given = self._heads(agent), batch.copy()
        given[agent.observation_key] = batch["augmented", agent.observation_key]
        reads = {name: list(agent.activation_layers(name, LEARNS))[-1] for name in self.modules}
        seen = {name: read[reads[name]] for name, read in self._features.stop().items() if reads[name] in read}
        if not seen:  # nobody watched the update
            seen = self._twin.activations(given, reads, network_tensors(agent))
        with torch.no_grad():
            first = self._twin.activations(given, reads)
        total = []
        for name in reads:
            key = name.replace(".", "_")
            weight, bias = self._initial_heads[f"{key}.weight"], self._initial_heads[f"{key}.bias"]
            target = self.scale * F.linear(first[name].flatten(1), weight, bias)
            total.append(feature_regression(heads.head(name)(widen(seen[name]).flatten(1)), target))
        return torch.stack(total).sum()

    def state_dict(self) -> dict[str, Any]:
        """Return the initial networks and heads."""
        return {"initial": dict(self._initial), "initial_heads": dict(self._initial_heads)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._initial, self._initial_heads = dict(state_dict["initial"]), dict(state_dict["initial_heads"])
