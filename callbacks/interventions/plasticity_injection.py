"""Fresh weights that learn beside frozen old ones, without a change of the output."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl

from plasticity_rl.agents.base import RLModule, as_agent
from plasticity_rl.agents.hooks import callbacks_of
from plasticity_rl.callback import Intervention, Mutation, ScheduledIntervention
from plasticity_rl.callback.architecture import place_generator, with_twin
from plasticity_rl.callback.heads import heads_of
from plasticity_rl.errors import UserError
from plasticity_rl.surgery.injection import make_injectable


class PlasticityInjection(ScheduledIntervention):
    """Freeze the heads of actor or critic and add to each ``h1(x) - h2(x)``, h1 = h2 fresh, of which h1 alone learns.

    A diagnosis: if return rises after it, the head had lost its plasticity. The output does not change at the
    injection, nor does the number of trainable weights, and the gradient reaches trunk and encoder through all heads.
    A head is an ``nn.Sequential`` that ends in a linear layer: ``actor.policy`` before its tanh, ``critic.Q1`` and
    ``critic.Q2``; the trunks before them go on learning.

    Probes: h2 and what waits are measured nowhere. A number that describes the module (active, dormant and linearized
    units, the norm of its weights) goes on being that of the old head, and h1 has its own, ``<module>/added``; a number
    about learning (ranks, gradients, regularizers, triggers) is that of h1.

    Mutates: before training, adds the pairs h1, h2 to the heads and to their target, where they wait unused; at an
        injection, which weights of the heads are trainable. No value, no optimizer state: h1 starts without moments.
    Logs: ``intervention/plasticity_injection`` (1 at the frame of an injection) and a line of text.
    Reference: Nikishin et al. 2023 (arXiv 2305.15555), Eq. 2; on actor or critic of DrQ-v2, after 1,000,000 frames, as
        in Ma et al. 2024 (arXiv 2310.07418), Appendix B.4.
    Differences from the original: the fresh weights are drawn before training rather than at the injection; each head
        has its own.

    Args:
        modules: Modules by dotted name whose heads are meant: ``actor``, ``critic``, or a head such as
            ``critic.Q1``; None for the module of the values.
        at_frames: Env frames of the injections; several freeze the head injected before. None of them, no injection.
    """

    reads = frozenset()
    writes = frozenset({"head"})
    cuda_graph = "recaptures"
    family = "surgery"
    example_arguments: ClassVar[Mapping[str, Any]] = {"modules": ["actor", "critic"], "at_frames": [50]}
    inert_arguments: ClassVar[Mapping[str, Any]] = {"at_frames": []}

    def __init__(self, *, modules: Sequence[str] | None = None, at_frames: Sequence[int] = (1_000_000,)) -> None:
        self.modules = self.named_or_open(modules, ("critic",))
        if not self.modules:
            raise UserError("PlasticityInjection.modules is empty; name at least one module")
        # A control arm without injections is the same YAML with an empty list.
        super().__init__(every_n_frames=None if at_frames else 2**60, at_frames=at_frames)

    def default_modules(self, agent: RLModule) -> list[str]:
        """Return the module of the values."""
        return [agent.value_module]

    def heads(self, agent: RLModule) -> list[str]:
        """Return the dotted names of the heads.

        Raises:
            UserError: When a module has none.
        """
        return heads_of(agent, self.modules, "PlasticityInjection.modules")

    def mutates(self, agent: RLModule) -> Mutation:
        """What is frozen and released."""
        return Mutation(trainable=agent.parameter_names(agent.module(path) for path in self.heads(agent)))

    def claims(self, agent: RLModule) -> frozenset[str]:
        """Return the heads that it injects into."""
        return frozenset(f"inject into {path}" for path in self.heads(agent)) if self.at_frames else frozenset()

    def conflict_with(self, agent: RLModule, other: Intervention) -> str | None:
        """Refuse whatever would move a frozen head, or what is added to it and waits."""
        moves: frozenset[str] = frozenset()
        if other.family != "experience":  # those move weights by updates, which leave frozen heads alone
            with contextlib.suppress(UserError):  # it names what a third will build: no head, checked in its setup
                moves = other.mutates(agent).parameters
        moved = sorted(self.mutates(agent).trainable & moves) if self.at_frames else []
        if moved:
            return f"it would move {moved[0]}, which the injection freezes; give one of them other modules"
        return super().conflict_with(agent, other)

    def build(self, agent: RLModule) -> None:
        """Allocate the pairs."""
        for path in self.heads(agent) if self.at_frames else ():
            head, *twin = with_twin(agent, path)
            generator = place_generator(agent, f"plasticity_injection/{path}")
            make_injectable(head, twin[0] if twin else None, len(set(self.at_frames)), agent.init_layer, generator)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse it once more, of parts that have names since they were built: blocks, norms, and what is added."""
        super().setup(trainer, pl_module, stage)
        agent = as_agent(pl_module)
        for other in callbacks_of(trainer):
            if isinstance(other, Intervention) and other is not self and (why := self.conflict_with(agent, other)):
                raise UserError(f"PlasticityInjection cannot run beside {type(other).__name__}: {why}")

    def act(self, agent: RLModule) -> str:
        """Inject into all heads."""
        heads = self.heads(agent)
        for path in heads:
            for head in with_twin(agent, path):
                head.inject()  # type: ignore[operator]
        return f"injected plasticity into {', '.join(heads)} at frame {agent.env_frames}"
