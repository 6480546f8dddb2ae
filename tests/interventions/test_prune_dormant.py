"""PruneDormant: what is found dormant once stays out, whatever else happens to the weights."""

from __future__ import annotations

import pytest
import torch
from bare import BareAgent, Jumps
from helpers import TINY_TRAINER, fit_with_maps, tiny_data
from tiny_agent import TinyAgent

from callbacks import L2Init, PruneDormant, ReDo, Reset
from plasticity_rl import UserError, make_trainer
from plasticity_rl.agents.jumps import Jump, live_tensors
from plasticity_rl.callback import RLCallback
from plasticity_rl.callback.dormant_unit_interventions import unit_activity
from plasticity_rl.run.video import EvalVideo


class Kill(RLCallback):
    """Makes one unit of each of three layers silent before the given update, and revives it three updates later."""

    layers = ("encoder.convnet.7", "actor.policy.1", "critic.Q1.3")

    def __init__(self, update: int, unit: int = 1) -> None:
        self.update, self.unit = update, unit

    def on_env_step(self, agent, step) -> None:
        bias = {self.update: -1e4, self.update + 4: 1.0}.get(agent.num_updates)
        if bias is not None:
            with torch.no_grad():
                for name in agent.module_names:
                    for layer in agent.units(name):
                        if layer.name in self.layers:
                            layer.makers[0].bias[self.unit] = bias


class Always(RLCallback):
    """Looks after every update whether the pruned units are out, everywhere."""

    def __init__(self, prune: PruneDormant) -> None:
        self.prune = prune
        self.seen: list[dict[str, int]] = []

    def on_update_end(self, agent, batch, metrics) -> None:
        pruned = self.prune.state_dict()["pruned"]
        self.seen.append({name: int(mask.sum()) for name, mask in pruned.items()})
        for layer in self.prune.layers(agent):
            units = pruned.get(layer.name)
            if units is None:
                continue
            for maker in (*layer.makers, *layer.twins):
                assert not maker.weight[units].any()
                assert not maker.bias[units].any()
            for reader in layer.readers:
                blocks = reader.layer.weight[:, : reader.inputs].unflatten(1, (layer.size, -1))
                assert not blocks[:, units].any()


def run(tmp_path, *others: RLCallback, **arguments):
    prune = PruneDormant(**{"every_n_updates": 2, "batch_size": 16, **arguments})
    always = Always(prune)
    agent = fit_with_maps(tmp_path, callbacks=[prune, always, *others])
    return agent, prune, always


@pytest.mark.parametrize(
    "others",
    [
        lambda: [],
        lambda: [L2Init(modules=["encoder", "critic"], coefficient=1.0)],
        lambda: [Reset(modules=["encoder", "actor", "critic"], every_n_frames=50)],
    ],
    ids=["alone", "with L2Init", "with Reset"],
)
def test_a_pruned_unit_never_comes_back(others, tmp_path):
    _, prune, always = run(tmp_path, Kill(5), *others())
    for name in Kill.layers:
        assert prune.state_dict()["pruned"][name][1]
        counts = [seen.get(name, 0) for seen in always.seen]
        assert counts == sorted(counts), "the set only grows"


def test_a_living_unit_stays_until_it_is_found_dormant(tmp_path):
    _, _, always = run(tmp_path, Kill(5))
    first = [number for number, seen in enumerate(always.seen, 1) if seen.get("encoder.convnet.7")][0]
    assert first == 7, "killed after update 5, found at the next check, which is before update 7"


def test_without_it_the_unit_comes_back(tmp_path):
    """Otherwise the test above would prove nothing."""
    agent = fit_with_maps(tmp_path, callbacks=[Kill(5)])
    (activity,) = [a for layer, a in unit_activity(agent, "encoder", 16) if layer.name == "encoder.convnet.7"]
    assert activity[1] > 0


def test_pruning_silent_units_changes_no_output_and_the_moments_of_no_other(tmp_path):
    agent = fit_with_maps(tmp_path)
    with torch.no_grad():
        agent.actor.policy[0].bias[3] = -1e4
        agent.encoder.convnet[6].bias[2] = -1e4
    batch = agent.probe_batch(32)

    def outputs() -> list[torch.Tensor]:
        with torch.no_grad():
            features = agent.encoder(batch["pixels"])
            return [agent.actor(features), *agent.critic(features, batch["action"])]

    before = outputs()
    optimizer = agent.optimizer_of(agent.actor.policy[2].weight)
    moment = optimizer.state[agent.actor.policy[2].weight]["exp_avg"]
    old = moment.clone()
    prune = PruneDormant(batch_size=32)
    text = prune.act(agent)
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(), strict=True))
    pruned = prune.state_dict()["pruned"]
    assert pruned["actor.policy.1"][3]
    assert pruned["encoder.convnet.7"][2]
    rows = pruned["actor.policy.3"][:, None] | pruned["actor.policy.1"][None]
    assert not moment[rows].any()
    assert torch.equal(moment[~rows], old[~rows])
    for name in agent.module_names:
        masks = [pruned[layer.name] for layer in agent.units(name)]
        share = sum(int(m.sum()) for m in masks) / sum(len(m) for m in masks)
        assert agent.latest[f"intervention/prune_dormant/pruned/{name}"] == share
        assert f"{share:.1%} of {name}" in text


def test_the_mask_survives_a_layer_that_diverges(tmp_path):
    agent = fit_with_maps(tmp_path)
    with torch.no_grad():
        agent.actor.policy[0].bias[3] = -1e4
    prune = PruneDormant(modules=["actor"], batch_size=8)
    prune.act(agent)
    before = prune.state_dict()["pruned"]["actor.policy.1"].clone()
    with torch.no_grad():
        agent.actor.policy[0].bias[4] = torch.nan
    prune.act(agent)
    after = prune.state_dict()["pruned"]["actor.policy.1"]
    assert before[3]
    assert torch.equal(before, after)


def test_second_agent(tmp_path):
    data = tiny_data(max_frames=120)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    prune = PruneDormant(modules=["torso", "policy", "value"], tau=0.4, every_n_updates=4, batch_size=8)
    film = EvalVideo(every_n_evals=0)
    make_trainer(tmp_path, callbacks=[prune, Always(prune), film], **TINY_TRAINER).fit(agent, data)
    pruned = prune.state_dict()["pruned"]
    assert pruned.keys() == {"torso.2", "policy.1", "value.1"}
    assert pruned["torso.2"].any()
    for reader in (agent.policy, agent.value, agent.old_value):
        assert not reader[0].weight[:, :16][:, pruned["torso.2"]].any()
    assert agent.value[0].weight[:, 16:].any(), "the action's columns are nobody's units"


def test_masks_are_saved_and_restored(tmp_path):
    _, prune, _ = run(tmp_path, tau=0.3)
    other = PruneDormant(every_n_updates=2, batch_size=16, tau=0.3)
    other.load_state_dict(prune.state_dict())
    one, two = prune.state_dict(), other.state_dict()
    assert one["seen"] == two["seen"] > 0
    assert any(mask.any() for mask in one["pruned"].values())
    assert all(torch.equal(mask, two["pruned"][name]) for name, mask in one["pruned"].items())


def test_weights_are_compared_only_when_it_is_due_or_another_let_them_jump():
    """Due at the start of updates 4, 7 and 10; the jump before update 6 is masked there, and every listener told."""
    prune, told = PruneDormant(tau=0.3, every_n_updates=3, batch_size=8), Jumps()
    agent = BareAgent(prune, told)
    watched_at, start = [], prune.on_update_start

    def look(agent) -> None:
        if agent.watch is not None:
            watched_at.append(agent.num_updates + 1)
        start(agent)

    prune.on_update_start = look
    for seed in range(11):
        if seed == 5:
            told.seen.clear()
            with torch.no_grad():
                for p in agent.parameters():
                    p.fill_(0.5)
            elements = {name: torch.ones_like(p, dtype=torch.bool) for name, p in agent.named_parameters()}
            agent.weights_jumped(Jump("another", live_tensors(agent), elements))
            assert prune.state_dict()["touched"]
            other = PruneDormant(tau=0.3, every_n_updates=3, batch_size=8)
            other.load_state_dict(prune.state_dict())
            assert other.moves_weights(agent), "as in a run that was not resumed"
        agent.step(seed)
        if seed == 5:
            assert [jump.by.partition("{")[0] for jump in told.seen] == ["another", "PruneDormant"]
            mask = prune.state_dict()["pruned"]["critic.Q1.3"]
            assert mask.any()
            assert torch.equal(told.seen[1].elements["critic.Q1.2.bias"], mask)
    assert watched_at == [4, 6, 7, 10]


def test_refusals(tmp_path):
    with pytest.raises(UserError, match=r"PruneDormant.tau=1.5 must be in \[0, 1\)"):
        PruneDormant(tau=1.5)
    with pytest.raises(UserError, match="PruneDormant cannot run beside ReDo: one prunes"):
        fit_with_maps(tmp_path, callbacks=[ReDo(), PruneDormant()])
