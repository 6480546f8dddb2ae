"""SimBaV2: residual heads on the unit hypersphere."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.nn.utils import skip_init

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback import Mutation
from plasticity_rl.callback.architecture import with_twin
from plasticity_rl.callback.normalized_states import NormalizedStates
from plasticity_rl.callback.residual_heads import ResidualHeads
from plasticity_rl.errors import UserError, within
from plasticity_rl.nn.hypersphere import Nudge, OnSphere, Scale, Shift, SphericalResidual, project
from plasticity_rl.nn.layers import weight_layers
from plasticity_rl.nn.starts import mark_start
from plasticity_rl.nn.units import Reader
from plasticity_rl.nn.weight_transforms import is_thinned_out

ANY = "any"
"""Stands for the name of every weight, in what is loaded."""
EXPANSION = 4
"""Width of a block's hidden layer, in widths of the stream."""


class SimBaV2Blocks(NormalizedStates, ResidualHeads):
    """Build the heads of actor and critic as SimBaV2's: features and rows of weights are unit vectors.

    A head puts the constant ``shift`` behind its input and normalises that; then Linear, Scale and the norm; then
    ``num_blocks`` times ``x + a * (f(x) - x)`` back on the sphere, with ``f`` Linear, Scale, ReLU, Linear and norm, of
    four times the width inside, and a learned ``a`` for every dimension; then Linear, Scale and the output layer. All
    norms are Euclidean, linear layers but the last have no bias, and Scale multiplies every number by a learned one.
    After every step of an optimizer what each output of a linear layer reads, a row of its weight, is divided by its
    norm: an optimizer turns weights, and nothing lets them grow.

    States are normalised by running statistics as in ``SimBaBlocks``. Heads are those of DrQ-v2 and SAC; a critic of
    DQN is refused, which reads the hidden units of its encoder: a norm over them would make every unit depend on all.

    Units: as in ``SimBaBlocks`` the hidden layer of a block has units, the stream has none. What recycles a unit zeroes
    what reads it, and the rows that lost a weight are scaled up to norm 1 again, so an output may change a little.

    What multiplies all that a unit reads by one factor (``DASH``) does nothing to the weights of these layers, nor to
    those of their target: that is undone.

    Mutates: before training, the heads of ``modules`` and of their target, whose weights are drawn anew, and projected
        where others hold some of them back (``RandomPruning``); with states, adds a normalisation in front of what
        reads them, whose statistics change after every env step. Then, in every step of an optimizer, the weights of
        their linear layers. When another intervention let weights of a head or of its target jump, these are projected
        right before the update that follows, which is a jump as well: copies that other callbacks keep are scaled by
        the same factors. Between jumps the target is a moving average and no projection of it, as in the original.
    Logs: nothing of its own.
    Reference: Lee et al. 2025 (arXiv 2502.15280), section 4; sizes, scales and order from the published code.
    Differences from the original: the architecture alone. There critics put out distributions over returns in [-5, 5],
        of rewards that are scaled to fit. Here they put out the agent's own values, and since all vectors have norm 1,
        these grow only as fast as the last Scale and bias do: scale rewards, or watch ``q/q1`` against ``q/target``.
        No decay of the learning rate. One Scale for mean and standard deviation of a policy, which has one output
        layer, and SAC's own bounds. Statistics change after an observation was acted on. Trunks of DrQ-v2 stay in front
        of the heads, and images are not normalised.

    Args:
        modules: Modules by dotted name: ``actor``, ``critic``, or a head such as ``critic.Q1``; None for those that put
            out actions and values.
        num_blocks: Blocks of every head; None: 1 for actions, 2 for values.
        hidden_dim: Width of the stream; None: 128 for actions, 512 for values.
        shift: Constant behind the input, > 0.
        normalize_observations: Whether states are normalised; None: where the run observes states.

    Raises:
        UserError: When a number is out of range, a module has no head, a head reads hidden units of an encoder, or
            images are to be normalised.
    """

    cuda_graph = "eager"
    acts_last = True
    writes = frozenset({"architecture", "projection"})
    published_sizes: ClassVar[Mapping[str, tuple[int, int]]] = {"actions": (1, 128), "values": (2, 512)}
    incompatible_with: ClassVar[Mapping[str, str]] = {
        "WeightClipping": "one keeps the weights small, the other puts the rows of them back to norm 1"
    }
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["actor", "critic"], "hidden_dim": 8}

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        num_blocks: int | None = None,
        hidden_dim: int | None = None,
        shift: float = 3.0,
        normalize_observations: bool | None = None,
    ) -> None:
        super().__init__(
            modules=modules,
            num_blocks=num_blocks,
            hidden_dim=hidden_dim,
            normalize_observations=normalize_observations,
        )
        within("SimBaV2Blocks.shift", shift, "(0, inf)", "; published: 3")
        self.shift = shift
        self._weights: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        self._jumped: set[str] = set()  # names of weights

    @property
    def name(self) -> str:
        """``simba_v2_blocks``, SimBaV2 being one word."""
        return "simba_v2_blocks"

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return what it builds, what it normalises, and the layers whose scale it sets."""
        return super().claims(agent) | {f"normalise the weight of {path}" for path in self._layers(agent)}

    def _layers(self, agent: RLModule) -> dict[str, nn.Module]:
        return weight_layers({head: agent.module(head) for head in self.heads(agent)})

    def build(self, agent: RLModule) -> None:
        """Put the new heads in the places of the old ones, and the normalisation in front."""
        for top in (name for name in agent.module_names if name not in agent.heads()):
            self._refuse_units(agent, top, agent.output_readers(top))
        super().build(agent)

    def after_build(self, agent: RLModule) -> None:
        """Project rows of which others have taken weights, before anyone keeps a copy of the first ones."""
        for path, layer in self._layers(agent).items():
            if is_thinned_out(layer):
                for network in with_twin(agent, path):
                    project(network.get_parameter("weight"))

    def _refuse_units(self, agent: RLModule, encoder: str, readers: Sequence[Reader]) -> None:
        read = {id(reader.layer) for reader in readers}
        for head in self.heads(agent):
            if any(id(layer) in read for layer in agent.module(head).modules()):
                raise UserError(
                    f"SimBaV2Blocks.modules: {head!r} reads the hidden units of {encoder}, which the norm of its input "
                    "would mix; it is for heads behind states or a trunk, and SimBaBlocks is for this one too"
                )

    def layers(self, first: nn.Linear, last: nn.Linear, num_blocks: int, width: int) -> list[nn.Module]:
        """Return the layers of a head."""
        same: dict[str, Any] = {"device": first.weight.device, "dtype": first.weight.dtype}
        hidden = EXPANSION * width
        start = math.sqrt(2 / width)

        def linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
            layer = skip_init(nn.Linear, inputs, outputs, bias=bias, **same)
            assert isinstance(layer, nn.Linear)
            return mark_start(layer, "spherical")

        def scale(size: int, first: float, start: float) -> Scale:
            return Scale(size, first, start).to(**same)

        blocks = [
            SphericalResidual(
                linear(width, hidden),
                scale(hidden, start / math.sqrt(EXPANSION), start / math.sqrt(EXPANSION)),
                nn.ReLU(),
                Nudge(),
                linear(hidden, width),
                OnSphere(),
                step=scale(width, 1 / (num_blocks + 1), 1 / math.sqrt(width)),
            )
            for _ in range(num_blocks)
        ]
        embedding = [Shift(self.shift), linear(first.in_features + 1, width), scale(width, start, start), OnSphere()]
        output = [linear(width, width), scale(width, 1.0, 1.0), linear(width, last.out_features, bias=True)]
        return [*embedding, *blocks, *output]

    def mutates(self, agent: RLModule) -> Mutation:
        """The weights of the linear layers that learn, and of their target, and the statistics."""
        return Mutation(parameters=frozenset(self._projected(agent)), buffers=super().mutates(agent).buffers)

    def _projected(self, agent: RLModule) -> dict[str, Tensor]:
        learn = [path for path, layer in self._layers(agent).items() if layer.get_parameter("weight").requires_grad]
        ids = {id(layer.get_parameter("weight")) for path in learn for layer in with_twin(agent, path)}
        return {name: weight for name, weight in agent.named_parameters() if id(weight) in ids}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let every optimizer that steps on some of the weights project these."""
        super().on_fit_start(trainer, pl_module)
        agent = as_agent(pl_module)
        self._weights = self._projected(agent)
        if ANY in self._jumped:
            self._jumped = set(self._weights)
        self._remove_hooks()
        for name in agent.optimizer_names:
            wrapped = agent.optimizer_by_name(name)
            optimizer = getattr(wrapped, "optimizer", wrapped)
            stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
            own = [weight for weight in self._weights.values() if id(weight) in stepped]
            if own:
                self._handles.append(optimizer.register_step_post_hook(functools.partial(_project_after_step, own)))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave no hook behind."""
        super().teardown(trainer, pl_module, stage)
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def moves_weights(self, agent: RLModule) -> bool:
        """Return whether weights jumped since they were projected; a projection after a step belongs to the step."""
        return bool(self._jumped)

    def on_weights_jumped(self, agent: RLModule, jump: Jump) -> None:
        """Note what there is to project beside a step of an optimizer."""
        if jump.by != self.state_key:
            self._jumped |= jump.elements.keys() & self._weights.keys()

    def on_update_start(self, agent: RLModule) -> None:
        """Project what interventions made of the weights, before anyone measures them or computes with them."""
        if not self._jumped:
            return
        factors = {name: project(self._weights[name]) for name in sorted(self._jumped)}
        if agent.watch is not None:
            agent.watch.repeat(functools.partial(_scale_copy, factors), list(factors))
        self._jumped = set()

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the weights that jumped since they were projected."""
        return {"jumped": sorted(self._jumped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        jumped = state_dict["jumped"]  # of checkpoints of before: whether any did
        self._jumped = set(jumped) if isinstance(jumped, list) else {ANY} if jumped else set()


def _project_after_step(weights: Sequence[Tensor], *_: Any) -> None:
    for weight in weights:
        project(weight)


def _scale_copy(factors: Mapping[str, Tensor], copy: Mapping[str, Tensor]) -> None:
    for name in factors.keys() & copy.keys():
        copy[name].mul_(factors[name])
