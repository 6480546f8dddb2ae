"""How well the network can still be trained, against a fresh one: the plasticity probe."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from plasticity_rl.agents.base import RLModule
from plasticity_rl.callback.charts import ONE, Layout
from plasticity_rl.callback.gradient_probes import OutputProbe, trained_parameters
from plasticity_rl.callback.module_probes import or_nan
from plasticity_rl.errors import UserError, at_least, at_most
from plasticity_rl.measures import loss_after_training, random_targets
from plasticity_rl.measures.checks import refuse_not_finite
from plasticity_rl.nn.hooks import evaluation_mode
from plasticity_rl.nn.layers import LEARNS
from plasticity_rl.nn.weight_transforms import SpectralNormalization
from plasticity_rl.rng import derive_seed
from plasticity_rl.surgery import reinitialize


class RandomTargetFit(OutputProbe):
    """Train a throw-away copy on random targets for a fixed budget, and a fresh network on targets of the same kind.

    The target of an output f at x is ``f(x; w) + sin(1e5 f(x; w_0))`` with fresh weights w_0, and w those that training
    starts from: what has to be learned is the sine, whatever the outputs are. Loss is the mean squared error over the
    variance of the sines: 0 is a perfect fit, about 1 the start, and more where the steps were too large. The gap, loss
    minus fresh loss, is above 0 where plasticity was lost, or where the last weights are large (see Scale). On a batch
    of the replay without augmentation, after the update's step; the copies start with an empty Adam, and the agent is
    not touched.

    Mutates: nothing.
    Logs: ``random_target_fit/<output>/<modules>/loss``, ``random_target_fit/<output>/<modules>/fresh_loss``, both >= 0,
        and ``random_target_fit/<output>/<modules>/gap``; NaN while outputs are not finite or all modules are frozen.
        Modules are joined by ``+``.
    Reference: Lyle et al. 2023 (arXiv 2303.01486), plasticity; published with 2000 steps and 10 target functions.
    Budget: where training goes on until both networks fit, nothing tells them apart. With the defaults a fresh network
        comes to about half of its first loss of 1: half is reached after 14 to 21 steps, with DrQ-v2 of
        ``configs/quickstart.yaml`` as at full size (100 steps at 1e-3 leave 0.06 and less). ``fresh_loss`` says
        whether that holds for a network of another size.
    Scale: by definition the sines go from -1 to 1 whatever the network puts out, and a step of Adam moves a weight by
        the learning rate whatever its size. So last weights that are c times larger move the outputs about c times as
        far a step: too far with the default, better with less. Measured with the last layers of a fresh critic of
        ``configs/quickstart.yaml`` times c, which costs no plasticity (18 steps, mean of three target functions; two
        fresh networks differ by up to 0.2)::

            learning rate   fresh_loss   loss at c = 1     3    10    30
            3e-4                  0.70            0.53  0.68  1.01  3.35
            3e-5                  0.94            0.93  0.82  0.64  0.58

        A gap whose sign turns at a tenth of the learning rate is one of scale. Read the norm of the last layer
        (``WeightNorm``) beside it.
    Differences from the original: every input has its own output for an offset, instead of the mean output of all, from
        which the spread of learned values would have to be unlearned first; the loss is divided by the variance of the
        sines, the fresh network is drawn anew at every measurement instead of being the initial one, and all steps see
        one batch.

    Args:
        every_n_updates: Period in gradient updates.
        output: Top-level module whose output is fitted; None for that of the values.
        modules: Modules by dotted name that are trained, in the copy of the agent as in the fresh network; all others
            stay as the agent has them. None for those that the output's loss trains. With ``[critic]`` alone the
            encoder's features are taken as they are.
        num_steps: Steps of Adam on the whole batch.
        num_targets: Target functions to average over.
        learning_rate: Of Adam.
        batch_size: Transitions to fit.

    Raises:
        UserError: When a number is not positive.
    """

    cuda_graph = "stays"
    example_arguments: ClassVar[Mapping[str, Any]] = {"every_n_updates": 7, "num_steps": 2, "batch_size": 4}
    least_batch_size = 2

    def __init__(
        self,
        *,
        every_n_updates: int = 50_000,
        output: str | None = None,
        modules: Sequence[str] | None = None,
        num_steps: int = 18,
        num_targets: int = 1,
        learning_rate: float = 3e-4,
        batch_size: int = 128,
    ) -> None:
        super().__init__(every_n_updates=every_n_updates, output=output, modules=modules, batch_size=batch_size)
        for name, value in {"num_steps": num_steps, "num_targets": num_targets}.items():
            at_least(f"RandomTargetFit.{name}", value, 1)
            at_most(f"RandomTargetFit.{name}", value, 1_000_000, "the run waits for all of it; default 18 and 1")
        if not 0 < learning_rate < math.inf:
            raise UserError(f"RandomTargetFit.learning_rate={learning_rate} must be > 0")
        self.num_steps, self.num_targets, self.learning_rate = num_steps, num_targets, learning_rate

    def tags(self) -> frozenset[str]:
        """Return what :meth:`measure` writes."""
        return frozenset(
            f"random_target_fit/{self.output}/{self.joined_modules}/{name}" for name in ("loss", "fresh_loss", "gap")
        )

    def charts(self) -> Layout:
        """Return a chart of both losses."""
        title = "Loss on random targets, of a copy and of a fresh network"
        return {"Learning dynamics": {title: [f"random_target_fit/{ONE}/{ONE}/(fresh_)?loss"]}}

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return both losses and their difference."""
        loss = or_nan(self._losses, agent)
        current, fresh = loss if isinstance(loss, tuple) else (math.nan, math.nan)
        tag = f"random_target_fit/{self.output}/{self.joined_modules}"
        return {f"{tag}/loss": current, f"{tag}/fresh_loss": fresh, f"{tag}/gap": current - fresh}

    @torch.no_grad()
    def _losses(self, agent: RLModule) -> tuple[float, float] | None:
        weights = trained_parameters(agent, self.modules)
        if not weights:
            return None
        batch = agent.probe_batch(self.batch_size)
        # On the CPU, where fresh weights are drawn on every device.
        seed = derive_seed(agent.rng.seed, f"probe/random_target_fit/{agent.num_updates}")
        generator = torch.Generator().manual_seed(seed)

        def forward(estimates: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Tensor:
            held = {**estimates, **values}
            return torch.func.functional_call(agent, held, (batch,))[self.output].flatten(1)

        totals = [0.0, 0.0]
        with evaluation_mode(agent):
            for _ in range(self.num_targets):
                random = forward(*self._fresh(agent, weights, generator))
                starts: list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
                starts = [({}, weights), self._fresh(agent, weights, generator)]
                for index, (estimates, start) in enumerate(starts):
                    loss = self._loss(functools.partial(forward, estimates), start, random)
                    totals[index] += float(loss) / self.num_targets
        return totals[0], totals[1]

    def _loss(
        self, forward: Callable[[Mapping[str, Tensor]], Tensor], start: Mapping[str, Tensor], random: Tensor
    ) -> Tensor:
        """Return the loss that training from ``start`` reaches, of what is added to the outputs at the start."""
        own = forward(start)
        refuse_not_finite(own, "outputs")
        targets = random_targets(random, torch.zeros_like(own[0]))
        return loss_after_training(
            lambda weights: forward(weights) - own,
            start,
            targets,
            num_steps=self.num_steps,
            learning_rate=self.learning_rate,
        )

    def _fresh(
        self, agent: RLModule, weights: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return estimates of spectral norms for fresh weights, and fresh values for ``weights`` as at construction."""
        fresh: dict[str, Tensor] = {}
        estimates: dict[str, Tensor] = {}
        for name in self.modules:
            module = copy.deepcopy(agent.module(name))
            reinitialize(module, agent.init_layer, generator, LEARNS)
            fresh |= {f"{name}.{key}": p.detach() for key, p in module.named_parameters()}
            estimates |= _restarted_estimates(module, name, weights.keys())
        return estimates, {name: fresh[name] for name in weights}


def _restarted_estimates(module: nn.Module, name: str, renewed: Collection[str]) -> dict[str, Tensor]:
    """Let the estimates of spectral norms in a module catch up with weights that were renewed, and return them by name.

    With those of the agent's own weights the norm of other ones would come out too small.
    """
    found: dict[str, Tensor] = {}
    for path, layer in module.named_modules(prefix=name):
        if f"{path}.weight" in renewed:
            for place, transform in layer.named_modules(prefix=path):
                if isinstance(transform, SpectralNormalization):
                    transform.restart(layer.get_parameter("weight"))
                    found[f"{place}.left"] = transform.left
    return found
