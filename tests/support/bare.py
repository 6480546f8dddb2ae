"""A DrQ-v2 without Trainer, environment and replay, for what callbacks do to each other in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from built import some_batch
from tensordict import TensorDictBase
from torch import nn

from callbacks import FractionActiveUnits, InFeR, SharpnessAware, ShrinkAndPerturb, SimBaV2Blocks
from plasticity_rl import DrQV2
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback import RLCallback
from plasticity_rl.surgery.injection import InjectableHead


class BareAgent(DrQV2):
    """Small: 4 channels with maps of 3 x 3 at the end, 7 features, 12 hidden units. What is logged stays in ``latest``.

    Args:
        callbacks: Build their part of it, are set up, and get its hooks.
        seed: Of weights and batches.
        lr: Learning rate.
    """

    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(reduce=lambda value, reduce_op: value), world_size=1, callbacks=[], loggers=[]
    )

    def __init__(self, *callbacks: RLCallback, seed: int = 0, lr: float = 1e-3, augment: bool = False) -> None:
        torch.manual_seed(seed)
        super().__init__(
            (9, 20, 20), 2, seed=seed, lr=lr, feature_dim=7, hidden_dim=12, num_channels=4, augment=augment
        )
        self.data = SimpleNamespace(
            replay=SimpleNamespace(peek=lambda size, generator: some_batch(self, size, seed=5), num_transitions=10**6),
            obs_shape=(9, 20, 20),
            eval_every_n_frames=10**9,
            max_frames=10**9,
            num_envs_of_all_ranks=1,
            discount=0.99,
        )
        self.build(callbacks)
        self.use(callbacks)

    data: Any = None

    def use(self, callbacks: Sequence[RLCallback]) -> None:
        """Set callbacks up and dispatch to them from now on."""
        self._loss_terms = {}
        for callback in callbacks:
            callback.setup(self.trainer, self, "fit")
        self.attach(callbacks)
        for callback in callbacks:
            callback.on_fit_start(self.trainer, self)

    def log_scalars(self, scalars: Mapping[str, Any]) -> None:
        self.latest.update({tag: float(value) for tag, value in scalars.items()})

    def log_event(self, name: str, text: str) -> None:
        self.last_events[name] = self.num_updates

    def step(self, seed: int = 0) -> TensorDictBase:
        """Do one update with all hooks on a batch under ``seed``."""
        self.env_frames += 4
        self.dispatch("on_update_start")
        batch = some_batch(self, seed=seed)
        self.dispatch("on_batch", batch)
        metrics = self.update(batch)
        self.num_updates += 1
        self.end_update(batch, metrics)
        return metrics

    def terms(self, loss: str = "critic") -> dict[str, torch.Tensor]:
        """Return the terms that callbacks add to a loss, with gradient."""
        batch = some_batch(self, seed=9)
        features = self.encoder(batch["pixels"])
        seen = {"pixels": batch["pixels"], "next_pixels": batch["next", "pixels"], "features": features}
        return self.loss_terms(loss, batch, **seen)

    def injectable_heads(self) -> list[InjectableHead]:
        """Return the heads of the critic that plasticity is injected into, those of the target too."""
        found = [self.critic.Q1, self.critic.Q2, self.critic_target.Q1, self.critic_target.Q2]
        return [head for head in found if isinstance(head, InjectableHead)]

    def inject(self) -> None:
        """Inject plasticity into the critic."""
        for head in self.injectable_heads():
            head.inject()


class Opaque(nn.Module):
    """Computes what a network computes, and holds neither layers nor weights that could be found and measured."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = (network,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network[0](x)


def hide_what_does_not_count(agent: BareAgent) -> None:
    """Replace the subtracted halves by opaque functions, and take away the pairs that wait."""
    for head in agent.injectable_heads():
        del head.injected[head.num_injections :]
        for pair in head.injected:
            pair["removed"] = Opaque(pair["removed"])


class Jumps(RLCallback):
    """Keeps what the agent told of weights that jumped."""

    def __init__(self) -> None:
        self.seen: list[Jump] = []

    def on_weights_jumped(self, agent, jump) -> None:
        self.seen.append(jump)


def seen_beside(looking: Sequence[RLCallback], order: int) -> tuple[float, ...]:
    """Return what reads the training batch finds in three updates: FAU, InFeR's term and losses.

    Args:
        looking: Callbacks beside it.
        order: 1, or -1 for the other way round.
    """
    seen = FractionActiveUnits(every_n_updates=1), InFeR(coefficient=1.0)
    agent = BareAgent(*[*seen, *looking][::order])
    metrics = [agent.step(seed) for seed in range(3)]
    return agent.latest["fau/encoder"], agent.latest["fau/critic"], *map(float, metrics[-1].values())


def around_a_projection(probe: RLCallback, tag: str, order: int) -> tuple[list[float], bool]:
    """Return what a probe of every update logs while nothing learns, and whether weights moved all the same.

    All that moves them is a perturbation, and what puts rows back to norm 1 behind it.

    Args:
        probe: The probe.
        tag: What it logs.
        order: Of the callbacks: 1 or -1.
    """
    others = [
        SimBaV2Blocks(modules=["critic"], hidden_dim=8),
        ShrinkAndPerturb(modules=["critic"], at_frames=[8], shrink=0.8),
        SharpnessAware(rho=0.1),
    ]
    agent = BareAgent(*[probe, *others][::order], lr=1e-30)
    weight = agent.critic.Q1.get_submodule("1").weight
    before, logged = weight.detach().clone(), []
    for seed in range(3):
        agent.step(seed)
        logged.append(float(agent.latest[tag]))
    return logged, not torch.allclose(weight, before, atol=1e-3)
