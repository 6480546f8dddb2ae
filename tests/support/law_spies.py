"""What the laws of interventions are checked with: everything before and after each act, compared."""

from __future__ import annotations

from typing import Any

import torch
from run_state import (
    fingerprint,
    hooks_of,
    optimizer_settings,
    optimizer_state,
    parameter_identities,
    replay_state,
    simple_attributes,
)

from plasticity_rl import Intervention, RLModule
from plasticity_rl.callback import Mutation, RLCallback
from plasticity_rl.rng import global_rng_state


def all_of(agent: RLModule) -> dict[str, Any]:
    """What an event could touch."""
    return fingerprint(
        {
            "parameters": dict(agent.named_parameters()),
            "slots": optimizer_state(agent),
            "attributes": {**simple_attributes(agent), "replay": replay_state(agent)},
            "buffers": dict(agent.named_buffers()),
            "modes": {name: module.training for name, module in agent.named_modules()},
            "trainable": {name: p.requires_grad for name, p in agent.named_parameters()},
            "optimizer settings": optimizer_settings(agent),
            "hooks": hooks_of(agent),
            "run generators": {k: v for k, v in agent.rng.state_dict().items() if not k.startswith("intervention/")},
            "global generators": global_rng_state(),
            "identities": parameter_identities(agent),
        }
    )


class ActLate(RLCallback):
    """Keeps an intervention asleep until the networks have changed, then compares before and after each of its acts.

    Args:
        intervention: Its ``on_update_start`` is wrapped.
        from_update: First update before which it may act.
    """

    def __init__(self, intervention: Intervention, from_update: int = 10) -> None:
        self.intervention, self.from_update = intervention, from_update
        self.act = intervention.on_update_start
        intervention.on_update_start = self.watch_act
        self.acts: list[dict[str, set[str]]] = []
        self.mutation = Mutation()
        self.fresh: dict[str, torch.Tensor] = {}
        self.stale: set[str] = set()
        self.after_update: dict[str, dict[str, Any]] | None = None

    def watch_act(self, agent: RLModule) -> None:
        if agent.num_updates < self.from_update:
            return
        self.mutation = self.intervention.mutates(agent)
        before = all_of(agent)
        self.values = {name: p.detach().clone() for name, p in agent.named_parameters()}
        self.act(agent)
        after = all_of(agent)
        changed = {part: _changed(before[part], after[part]) for part in before}
        if any(changed.values()):
            self.acts.append(changed)

    def on_weights_jumped(self, agent, jump) -> None:
        ids = {id(jump.live[name]) for name in jump.renewed}
        for name, parameter in agent.named_parameters():
            if id(parameter) in ids:
                self.fresh[name] = parameter.detach().clone()
                if torch.equal(parameter, self.values[name]):
                    self.stale.add(name)

    def on_update_end(self, agent, batch, metrics) -> None:
        if self.acts and self.after_update is None:
            slots = optimizer_state(agent)
            self.after_update = {
                name: {
                    "changed": not torch.equal(parameter, self.fresh[name]),
                    "step": float(slots[name]["step"]) if "step" in slots.get(name, {}) else None,
                }
                for name, parameter in agent.named_parameters()
                if name in self.fresh
            }


def _changed(before: Any, after: Any) -> set[str]:
    if not isinstance(before, dict):
        return {"changed"} if before != after else set()
    return {key for key in {**before, **after} if before.get(key, "absent") != after.get(key, "absent")}


def assert_touched_what_was_declared(spy: ActLate) -> None:
    """Laws 3 and 4: every act touched what it declared, and nothing else."""
    for changed in spy.acts:
        assert changed.pop("parameters") <= spy.mutation.parameters
        assert changed.pop("slots") <= spy.mutation.optimizer_slots
        assert changed.pop("attributes") <= spy.mutation.attributes | ({"replay"} if spy.mutation.replay else set())
        assert changed.pop("trainable") <= spy.mutation.trainable
        assert changed.pop("buffers") <= spy.mutation.buffers
        changed.pop("hooks", None)  # a measurement may hook one update; that none is left is asserted elsewhere
        assert changed == {part: set() for part in changed}


def assert_what_is_fresh_learns(spy: ActLate, agent: RLModule) -> None:
    """Law 3: what was re-initialised changed, is in an optimizer that starts anew with it, and was updated after it."""
    assert spy.fresh.keys() <= spy.mutation.parameters
    if spy.intervention.family == "reset":
        assert spy.fresh, "a reset must tell the others through agent.reinitialized()"
    assert spy.stale == set(), "declared as re-initialised, but left as they were"
    slots = spy.mutation.optimizer_slots
    for name, seen in (spy.after_update or {}).items():
        assert seen["changed"], f"{name} was not updated after its re-initialisation"
        assert seen["step"] == 1 or name not in slots, f"{name} kept the step count of its optimizer"
    trained = {id(p) for o in agent.trainer.optimizers for group in o.param_groups for p in group["params"]}
    held = {name for name, p in agent.named_parameters() if id(p) in trained}
    assert spy.fresh.keys() & slots <= held
