"""ReDo: who is dormant, what is drawn, who no longer reads it, and what the optimizer remembers."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import fit_with_maps, tiny_data
from tiny_agent import TinyAgent
from torch import Tensor

from callbacks import ReDo
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.callback.dormant_unit_interventions import unit_activity
from plasticity_rl.run.video import EvalVideo

DEAD = {"encoder.convnet.1": 2, "encoder.convnet.7": 1, "actor.policy.3": 5, "critic.Q1.1": 0, "critic.Q2.3": 7}


class Events(RLCallback):
    """Notes the updates before which an intervention acted."""

    def __init__(self, intervention) -> None:
        self.intervention, self.act = intervention, intervention.act
        intervention.act = self.note
        self.updates: list[int] = []

    def note(self, agent) -> str:
        self.updates.append(agent.num_updates)
        return self.act(agent)


@pytest.fixture
def agent(tmp_path):
    """A trained agent with one dead unit in each of the layers of ``DEAD``, and every other unit alive."""
    agent = fit_with_maps(tmp_path)
    with torch.no_grad():
        for name in agent.module_names:
            for layer in agent.units(name):
                layer.makers[0].bias.add_(0.5)
                if layer.name in DEAD:
                    layer.makers[0].bias[DEAD[layer.name]] = -1e4
    return agent


def outputs(agent) -> list[Tensor]:
    batch = agent.probe_batch(64)
    with torch.no_grad():
        features = agent.encoder(batch["pixels"])
        return [agent.actor(features), *agent.critic(features, batch["action"])]


def weights(agent) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in agent.named_parameters()}


def slots(agent) -> dict[str, dict[str, Tensor]]:
    state = {id(p): o.state[p] for o in agent.trainer.optimizers for group in o.param_groups for p in group["params"]}
    return {name: copy.deepcopy(state[id(p)]) for name, p in agent.named_parameters() if id(p) in state}


def silent(agent) -> dict[str, set[int]]:
    """Units that are zero on the probe batch, by layer."""
    found = {}
    for name in agent.module_names:
        for layer, activity in unit_activity(agent, name, 64):
            found[layer.name] = set((activity == 0).nonzero().flatten().tolist())
    return found


def touched(agent, dead: dict[str, set[int]]) -> dict[str, Tensor]:
    """Where weights of the dead units are, by parameter: a slow loop over what the network is known to be."""
    where = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in agent.named_parameters()}
    image = int((agent.encoder.repr_dim / agent.encoder.convnet[6].out_channels) ** 0.5)
    assert image == 3, "with maps of one pixel, channels and places could not be mixed up"
    for layer, units in dead.items():
        path, _, index = layer.rpartition(".")
        both = [path, path.replace("critic.", "critic_target.")] if path.startswith("critic") else [path]
        for unit in units:
            for net in both:
                where[f"{net}.{int(index) - 1}.weight"][unit] = True
                where[f"{net}.{int(index) - 1}.bias"][unit] = True
                if layer != "encoder.convnet.7":
                    where[f"{net}.{int(index) + 1}.weight"][:, unit] = True
            if layer == "encoder.convnet.7":
                for row in range(image):
                    for column in range(image):
                        one = torch.zeros(1, agent.encoder.convnet[6].out_channels, image, image)
                        one[0, unit, row, column] = 1
                        for trunk in ("actor.trunk.0", "critic.trunk.0", "critic_target.trunk.0"):
                            where[f"{trunk}.weight"][:, int(one.flatten(1).argmax())] = True
    return where


def test_silent_units_are_recycled_without_a_change_of_any_output(agent):
    dead = silent(agent)
    assert all(unit in dead[layer] for layer, unit in DEAD.items())
    before, old, old_slots = outputs(agent), weights(agent), slots(agent)
    text = ReDo(tau=0.0).act(agent)
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(agent), strict=True))
    count = {name: sum(len(dead[layer.name]) for layer in agent.units(name)) for name in agent.module_names}
    assert {name: agent.latest[f"intervention/redo/recycled/{name}"] for name in count} == count
    assert text.startswith(f"recycled {count['encoder']} units of encoder, {count['actor']} units of actor")

    where, new, new_slots = touched(agent, dead), weights(agent), slots(agent)
    for name, mask in where.items():
        assert torch.equal(new[name][~mask], old[name][~mask]), name
        if name.endswith("bias"):
            assert not new[name][mask].any()
    for name, slot in new_slots.items():
        assert float(slot["step"]) == float(old_slots[name]["step"]) > 0
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not slot[moment][where[name]].any(), name
            assert torch.equal(slot[moment][~where[name]], old_slots[name][moment][~where[name]]), name
    assert all(mask.any() for name, mask in where.items() if "trunk.0.weight" in name)
    for trunk in (agent.actor.trunk, agent.critic.trunk, agent.critic_target.trunk):
        name = next(n for n, p in agent.named_parameters() if p is trunk[0].weight)
        assert not trunk[0].weight[where[name]].any()
        assert torch.count_nonzero(trunk[0].weight[~where[name]]) > 0.9 * (~where[name]).sum()
    assert silent(agent)["encoder.convnet.7"] == set(), "the recycled channel is alive"


def test_fresh_rows_are_drawn_like_the_layers_and_copied_into_the_target(agent):
    redo = ReDo(modules=["critic.Q1"], tau=0.0)
    dead = silent(agent)["critic.Q1.1"]
    assert 0 in dead
    redo.act(agent)
    fresh = copy.deepcopy(agent.critic.Q1[0])
    generator = type(agent.rng)(agent.rng.seed).get(f"intervention/{redo.state_key}")
    agent.init_layer(fresh, generator)
    for unit in dead:
        assert torch.equal(agent.critic.Q1[0].weight[unit], fresh.weight[unit])
        assert torch.equal(agent.critic_target.Q1[0].weight[unit], fresh.weight[unit])
        for critic in (agent.critic, agent.critic_target):
            assert critic.Q1[0].bias[unit] == 0
            assert not critic.Q1[2].weight[:, unit].any()


def test_a_recycled_unit_does_not_read_another_one(agent):
    with torch.no_grad():
        agent.actor.policy[0].bias[3] = -1e4
    ReDo(modules=["actor"], tau=0.0).act(agent)
    assert agent.actor.policy[2].weight[5].any(), "unit 5 of the second layer is fresh"
    assert agent.actor.policy[2].weight[5, 3] == 0


def test_recycled_units_learn(agent):
    ReDo(tau=0.0).act(agent)
    old, batch, asleep = weights(agent), agent.probe_batch(64), silent(agent)
    agent.update(batch)
    first = weights(agent)
    assert agent.actor.policy[4].weight[:, 5].any()
    assert agent.critic.trunk[0].weight.view(8, 4, -1)[:, 1].any()
    assert torch.equal(first["encoder.convnet.6.bias"][1], old["encoder.convnet.6.bias"][1]), "nobody read it yet"
    for _ in range(3):
        agent.update(batch)
    new = weights(agent)
    recycled = {layer: unit for layer, unit in DEAD.items() if unit not in asleep[layer]}
    assert len(recycled) >= 4, "a fresh unit may be silent by chance, as at the start of a run"
    for layer, unit in recycled.items():
        path, _, index = layer.rpartition(".")
        for part in ("weight", "bias"):
            name = f"{path}.{int(index) - 1}.{part}"
            assert not torch.equal(new[name][unit], old[name][unit]), name


def test_activity_against_a_slow_loop(agent):
    batch = agent.probe_batch(6)
    images = torch.relu(agent.encoder.convnet[0](batch["pixels"].float() / 255.0 - 0.5)).detach()
    layer, activity = unit_activity(agent, "encoder", 6)[0]
    assert layer.name == "encoder.convnet.1"
    for channel in range(4):
        values = [float(v) for image in images for row in image[channel] for v in row]
        assert float(activity[channel]) == pytest.approx(sum(map(abs, values)) / len(values), rel=1e-5)


def test_the_threshold_compares_with_the_mean_of_the_layer(agent):
    """Units of one layer get known outputs: dead weights, and biases 0.1, 1, 1, ... Mean activity is about 0.94."""
    with torch.no_grad():
        agent.actor.policy[0].weight.zero_()
        agent.actor.policy[0].bias.fill_(1.0)
        agent.actor.policy[0].bias[4] = 0.1
    score = 0.1 / ((15 + 0.1) / 16)
    for tau, expected in ((score * 0.999, []), (score * 1.001, [4])):
        (units,) = [
            u for path, (_, u) in ReDo(tau=tau).find_dormant(agent)["actor"].items() if path == "actor.policy.1"
        ]
        assert units.nonzero().flatten().tolist() == expected


def test_acts_after_every_period_of_updates(tmp_path):
    redo = ReDo(every_n_updates=7, tau=0.3, batch_size=8)
    events = Events(redo)
    agent = fit_with_maps(tmp_path, callbacks=[redo, events])
    assert events.updates == list(range(7, agent.num_updates, 7))
    assert agent.latest["intervention/redo"] == 1.0


def test_nothing_dormant_changes_nothing(agent):
    with torch.no_grad():
        for name in agent.module_names:
            for layer in agent.units(name):
                layer.makers[0].weight.mul_(1e-3)
                layer.makers[0].bias.fill_(1.0)
    before, generators = weights(agent), agent.rng.state_dict().keys()
    ReDo(tau=0.025).act(agent)
    assert all(torch.equal(value, before[name]) for name, value in weights(agent).items())
    assert agent.latest["intervention/redo/recycled/encoder"] == 0
    assert generators == agent.rng.state_dict().keys() - {
        name for name in agent.rng.state_dict() if name.startswith("intervention/")
    }


def test_second_agent_with_adam_and_sgd(tmp_path):
    data = tiny_data(max_frames=120)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    redo = ReDo(modules=["torso", "policy", "value"], tau=0.5, every_n_updates=4, batch_size=8)
    options = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    make_trainer(tmp_path, callbacks=[redo, EvalVideo(every_n_evals=0)], **options).fit(agent, data)
    with torch.no_grad():
        agent.torso[1].weight[3] = 0
        agent.torso[1].bias[3] = -1
    agent.num_updates += 1
    redo.act(agent)
    assert agent.torso[1].weight[3].any()
    for reader in (agent.policy, agent.value, agent.old_value):
        assert not reader[0].weight[:, 3].any()
        assert reader[0].weight.any(1).all()
    assert agent.value[0].weight[:, 16:].any(0).all(), "the action's columns are nobody's units"
    assert not agent.optimizer_of(agent.policy[0].weight).state[agent.policy[0].weight]["momentum_buffer"][:, 3].any()


@pytest.mark.parametrize("tau", [-0.1, 1.0, float("nan")])
def test_thresholds_out_of_range_are_refused(tau):
    with pytest.raises(UserError, match=r"ReDo.tau=.* must be in \[0, 1\)"):
        ReDo(tau=tau)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_updates": 0}, "ReDo.every_n_updates: the period is 0"),
        ({"batch_size": 0}, "ReDo.batch_size=0 must be a whole number >= 1"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        ReDo(**arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [("critic.trunk", "ReDo.modules: 'critic.trunk' has no hidden ReLU units"), ("critc", "no module 'critc'")],
)
def test_wrong_modules_are_refused_before_training(name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit_with_maps(tmp_path, callbacks=[ReDo(modules=[name])])
