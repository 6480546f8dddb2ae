"""Start sparse, grow the weights with the largest gradient, prune those of dormant units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.callback.architecture import with_twin
from plasticity_rl.callback.dormant_unit_interventions import dormant, unit_activity
from plasticity_rl.callback.gradient_probes import modules_by_loss, probe_generator, refuse_without
from plasticity_rl.callback.scheduled_masks import ScheduledMasks, allowed_by_others, clear_pruned
from plasticity_rl.distributed.ranks import over_ranks
from plasticity_rl.errors import UserError, at_least, one_of, within
from plasticity_rl.nn.hooks import evaluation_mode
from plasticity_rl.nn.layers import weight_layers
from plasticity_rl.nn.weight_transforms import MovingMask, add_transform, prune_again
from plasticity_rl.surgery import cosine_growth, exchanged_mask, largest_mask

PRUNED = ("dormant", "magnitude")


class NeuroplasticExpansion(ScheduledMasks):
    """Begin with few of the weights, let those with the largest gradient join, and drop some that do nothing.

    Before training every layer keeps its largest weights only. After every ``every_n_updates`` updates weights that are
    not in use join, those with the largest gradient of the loss that trains their module, at the value 0; up to
    ``prune_ratio`` times as many are pruned, the smallest of those that lead into dormant units. Together the number in
    use goes from that of ``initial_sparsity`` at ``start_frame`` to that of ``final_sparsity`` at ``end_frame``, at a
    rate that a cosine anneals; then all stays. What is not in use is zero, without gradient and optimizer moments, also
    after a reset or where a unit is recycled. Weights that ``RandomPruning`` holds back do not join.

    Mutates: before training, the weights of ``modules`` and of their target that are not in use (to zero; biases and
        norms are left alone); at an event, the masks, and pruned weights and their optimizer moments (to zero; step
        counts stay), the same ones in the target. Probes and penalties see the weights in use. With both sparsities 0
        nothing at all.
    Logs: at events ``intervention/neuroplastic_expansion`` (1),
        ``intervention/neuroplastic_expansion/sparsity/<module>`` (share of the module's weights that is not in use),
        ``intervention/neuroplastic_expansion/grown/<module>`` and
        ``intervention/neuroplastic_expansion/pruned/<module>`` (weights at this event) and a line of text.
    Reference: Liu et al. 2025 (arXiv 2410.07994) and its code (torressliu/neuroplastic-expansion), for TD3: sparsity
        0.8 to 0.25, 0.4 pruned for each that joins, Erdős-Rényi densities, largest weights first. Its training scripts
        have periods of 100 and of 10 000 updates.
    Differences from the original: read in the code, not in the paper. Its experience review (a batch of the oldest 30 %
        of the replay, half of the time, while few of the critic's units are active) is left out: it is about sampling
        and not about weights. The rate is annealed, such that the final sparsity is reached at ``end_frame``; there
        0.008 of the room that a layer had at first joins at every event, for its TD3 does not hand on the option of a
        cosine, and growth ends where the final sparsity is reached, after about 190 events by its defaults. The
        gradient is that of a batch of the replay of its own, without augmentation and without the terms of
        regularizers, not that of the training batch, whose step is skipped there. Its scores of units never match a
        layer's name, so that it prunes by magnitude: ``prune: magnitude``; ``dormant`` is what the paper is about. What
        was just pruned does not join at once. It exchanges weights by magnitude after growth has ended, for which there
        is ``GradualPruning`` at best. Moments of pruned weights are cleared.

    Args:
        modules: Modules by dotted name: ``encoder``, ``actor``, ``critic``, or a part such as ``critic.Q1``;
            None for all networks of the agent.
        initial_sparsity: Share of all weights of the modules that is not in use at first, in [0, 1).
        final_sparsity: The same in the end, in [0, ``initial_sparsity``].
        start_frame: Env frame at which growth begins, >= 0.
        end_frame: Env frame from which ``final_sparsity`` is reached, >= ``start_frame``.
        every_n_updates: Period in gradient updates.
        prune: What may be pruned: ``dormant``, weights that lead into dormant units; ``magnitude``, all in use.
        prune_ratio: Weights that are pruned at most, for each that joins, in [0, 1).
        tau: A unit is dormant when its mean absolute output is at most ``tau`` times the mean of its layer, in [0, 1).
        distribution: ``erdos_renyi`` keeps more of small layers, ``uniform`` the same share of every layer.
        batch_size: Transitions that gradient and activity are averaged over.

    Raises:
        UserError: When an argument is out of range, or the agent has no losses to look at.
    """

    cuda_graph = "stays"
    reads = frozenset({"weights", "gradients", "units"})
    writes = frozenset({"mask", "jump", "optimizer"})
    mask_kind = MovingMask
    acts_on = "dormancy"
    example_arguments: ClassVar[Mapping[str, Any]] = {
        "modules": ["actor", "critic"],
        "initial_sparsity": 0.6,
        "final_sparsity": 0.2,
        "end_frame": 100,
        "every_n_updates": 3,
        "tau": 0.5,
        "batch_size": 8,
    }
    inert_arguments: ClassVar[Mapping[str, Any]] = {  # type: ignore[assignment]
        "initial_sparsity": 0.0,
        "final_sparsity": 0.0,
    }

    def __init__(
        self,
        *,
        modules: Sequence[str] | None = None,
        initial_sparsity: float = 0.8,
        final_sparsity: float = 0.25,
        start_frame: int = 0,
        end_frame: int = 1_000_000,
        every_n_updates: int = 1000,
        prune: Literal["dormant", "magnitude"] = "dormant",
        prune_ratio: float = 0.4,
        tau: float = 0.0,
        distribution: Literal["erdos_renyi", "uniform"] = "erdos_renyi",
        batch_size: int = 256,
    ) -> None:
        super().__init__(
            modules=modules,
            start_frame=start_frame,
            end_frame=end_frame,
            every_n_updates=every_n_updates,
            distribution=distribution,
        )
        option = type(self).__name__
        within(f"{option}.initial_sparsity", initial_sparsity, "[0, 1)", ": the share of weights that is not in use")
        within(f"{option}.final_sparsity", final_sparsity, "[0, 1)", ": the share that is not in use in the end")
        if final_sparsity > initial_sparsity:
            raise UserError(
                f"{option}.final_sparsity={final_sparsity:g} must be at most initial_sparsity={initial_sparsity:g}: "
                "networks grow; to prune them take GradualPruning"
            )
        one_of(f"{option}.prune", prune, PRUNED)
        within(f"{option}.prune_ratio", prune_ratio, "[0, 1)", ": of as many as join nothing would be left")
        within(f"{option}.tau", tau, "[0, 1)", ": at 1 an average unit is dormant")
        at_least(f"{option}.batch_size", batch_size, 1)
        self.initial_sparsity, self.final_sparsity = initial_sparsity, final_sparsity
        self.prune, self.prune_ratio, self.tau, self.batch_size = prune, prune_ratio, tau, batch_size

    # ---- where

    def masks_anything(self) -> bool:
        """Return whether anything is not in use at first."""
        return self.initial_sparsity > 0

    def way(self, progress: float) -> float:
        """Return the part of all growth that is due by now."""
        return cosine_growth(progress)

    @property
    def looks_at_units(self) -> bool:
        """Whether dormant units decide about anything."""
        return self.prune == "dormant" and self.prune_ratio > 0 and self.final_sparsity < self.initial_sparsity

    def watched_modules(self) -> Sequence[str]:
        """Return the modules whose dormant units it looks at."""
        return self.modules if self.looks_at_units else []

    @torch.no_grad()
    def build(self, agent: RLModule) -> None:
        """Keep the largest weights of every layer, and the same ones of its twin."""
        weights = {path: agent.module(path).get_parameter("weight") for path in self.paths(agent)}
        for path, sparsity in self.sparsities(weights, self.initial_sparsity).items():
            layer, weight = agent.module(path), weights[path]
            kept = weight.numel() - round(sparsity * weight.numel())
            mask = largest_mask(weight, kept, allowed_by_others(layer, ()))
            for one in with_twin(agent, path):
                own = one.get_parameter("weight")
                add_transform(one, MovingMask(mask.to(own.device, copy=True)))
                own.mul_(mask.to(own.device))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse wrong names, and agents without losses or units to look at."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        refuse_without(agent, "loss_on", self)
        for name in self.watched_modules():
            agent.units(name)

    # ---- what happens at an event

    def act(self, agent: RLModule) -> str:
        """Look at all layers first, then exchange and add weights up to how many are to be in use now."""
        self._reached = self.due(agent)
        paths = self.paths(agent)
        for layer in (layer for path in paths for layer in with_twin(agent, path)):
            prune_again(layer)  # an optimizer with noise moves what is not in use too, and what joins begins at zero
        gradients, silent = self._gradients(agent, paths), self._dormant_rows(agent)
        weights = {path: agent.module(path).get_parameter("weight") for path in paths}
        first = self.sparsities(weights, self.initial_sparsity)
        last = self.sparsities(weights, self.final_sparsity)
        grown, pruned, unused = dict[str, int](), dict[str, int](), dict[str, int]()
        for path, weight in weights.items():
            sparsity = first[path] + (last[path] - first[path]) * self._reached
            in_use = weight.numel() - round(sparsity * weight.numel())
            grown[path], pruned[path] = self._exchange(agent, path, in_use, gradients[path], silent.get(id(weight)))
            unused[path] = int((~self._mask(agent, path)).sum())
        return self._log(agent, unused, grown, pruned, {path: weight.numel() for path, weight in weights.items()})

    def _exchange(
        self, agent: RLModule, path: str, in_use: int, gradient: Tensor, silent: Tensor | None
    ) -> tuple[int, int]:
        layer = agent.module(path)
        allowed = allowed_by_others(layer, self.own_masks(layer))
        mask = self._mask(agent, path) & allowed
        weight = layer.get_parameter("weight")
        candidates = mask
        if self.prune == "dormant":
            rows = torch.zeros(len(weight), dtype=torch.bool, device=mask.device) if silent is None else silent
            candidates = mask & rows.view(-1, *[1] * (weight.dim() - 1))
        net = max(in_use - int(mask.sum()), 0)
        kept, pruned, grown = exchanged_mask(
            mask,
            size=weight.detach(),
            gradient=gradient,
            candidates=candidates,
            net=net,
            # Those that join make up for these too: at most ``ratio * (net + n)`` of them.
            prune_at_most=math.floor(net * self.prune_ratio / (1.0 - self.prune_ratio)),
            allowed=allowed,
        )
        for one in with_twin(agent, path):
            for own in self.own_masks(one):
                assert isinstance(own, MovingMask)
                own.move(kept.to(own.mask.device))
        clear_pruned(agent, path, ~kept)
        return int(grown.sum()), int(pruned.sum())

    def _mask(self, agent: RLModule, path: str) -> Tensor:
        (mask,) = self.own_masks(agent.module(path))
        return mask.mask

    def _gradients(self, agent: RLModule, paths: Sequence[str]) -> dict[str, Tensor]:
        """Return the gradient by every weight, those that are not in use included, the same on all ranks.

        These are zero: with masks that hold nothing back the loss is the same, and only the gradient is whole.
        """
        found = {path: torch.zeros_like(agent.module(path).get_parameter("weight")) for path in paths}
        batch = agent.probe_batch(self.batch_size)
        noise = probe_generator(agent, f"intervention/{self.state_key}")
        with self._whole_masks(agent, paths):
            for loss, names in modules_by_loss(agent, self.modules).items():
                layers = weight_layers({name: agent.module(name) for name in names})
                own = [path for path in layers if agent.module(path).get_parameter("weight").requires_grad]
                parameters = [agent.module(path).get_parameter("weight") for path in own]
                with evaluation_mode(agent), torch.enable_grad():
                    value = agent.loss_on(loss, batch, noise)
                    parts = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
                found |= dict(zip(own, parts, strict=True))
        return {path: over_ranks(agent, found[path]) for path in paths}

    @contextmanager
    def _whole_masks(self, agent: RLModule, paths: Sequence[str]) -> Iterator[None]:
        masks = {path: self._mask(agent, path) for path in paths}
        before = {path: mask.clone() for path, mask in masks.items()}
        try:
            for mask in masks.values():
                mask.fill_(True)
            yield
        finally:
            for path, mask in masks.items():
                mask.copy_(before[path])

    def _dormant_rows(self, agent: RLModule) -> dict[int, Tensor]:
        """Return which rows of a weight lead into dormant units, by its id; of other weights nothing."""
        found: dict[int, Tensor] = {}
        for name in self.watched_modules():
            for layer, activity in unit_activity(agent, name, self.batch_size):
                weight = layer.makers[0].get_parameter("weight")
                found[id(weight)] = dormant(activity, self.tau).to(weight.device)
        return found

    # ---- what is said of it

    def _log(
        self,
        agent: RLModule,
        unused: Mapping[str, int],
        grown: Mapping[str, int],
        pruned: Mapping[str, int],
        sizes: Mapping[str, int],
    ) -> str:
        whole = self.of_modules(sizes)
        shares = {name: number / max(whole[name], 1) for name, number in self.of_modules(unused).items()}
        quantities: dict[str, Mapping[str, float]] = {
            "sparsity": shares,
            "grown": self.of_modules(grown),
            "pruned": self.of_modules(pruned),
        }
        agent.log_scalars(
            {
                f"intervention/{self.name}/{quantity}/{name}": value
                for quantity, values in quantities.items()
                for name, value in values.items()
            }
        )
        parts = ", ".join(f"{1 - share:.1%} of {name}" for name, share in shares.items())
        return (
            f"in use now: {parts}; {sum(grown.values())} joined, {sum(pruned.values())} pruned, "
            f"at frame {agent.env_frames}"
        )

    def tags(self) -> frozenset[str]:
        """Return three tags for each module."""
        names = self.modules if self.masks_anything() else []
        return frozenset(
            f"intervention/{self.name}/{quantity}/{name}"
            for quantity in ("sparsity", "grown", "pruned")
            for name in names
        )
