"""ContinualBackprop: what it sees, what it replaces, and what the readers keep of a unit that goes."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_with_maps, tiny_data
from run_state import hooks_of
from tiny_agent import TinyAgent
from torch import Tensor

from callbacks import ContinualBackprop, PruneDormant, Reset
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.callback.unit_interventions import FreshUnits
from plasticity_rl.rng import NamedGenerators
from plasticity_rl.run.video import EvalVideo

UNIT_LAYERS = 4 + 2 + 4
"""Convolutions of the encoder, hidden layers of the actor, hidden layers of both heads of the critic."""


def weights(agent) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in agent.named_parameters()}


def slots(agent) -> dict[str, dict[str, Tensor]]:
    state = {id(p): o.state[p] for o in agent.trainer.optimizers for group in o.param_groups for p in group["params"]}
    return {name: copy.deepcopy(state[id(p)]) for name, p in agent.named_parameters() if id(p) in state}


class SlowUtility(RLCallback):
    """Recomputes utility and mean output of some layers from outputs that it keeps itself, with loops.

    Args:
        layers: Name of the activation -> names of the weights that read it.
        decay: Of the averages.
    """

    def __init__(self, layers: dict[str, list[str]], decay: float) -> None:
        self.layers, self.decay = layers, decay
        self.utility: dict[str, list[float]] = {}
        self.mean: dict[str, list[list[float]]] = {}
        self.kept: dict[str, Tensor] = {}
        self.handles: list = []

    def on_update_start(self, agent) -> None:
        self.kept = {}

        def keep(name):
            def hook(_, __, output):
                if output.requires_grad and name not in self.kept:
                    self.kept[name] = output.detach().clone()

            return hook

        self.handles = [agent.get_submodule(name).register_forward_hook(keep(name)) for name in self.layers]

    def on_update_end(self, agent, batch, metrics) -> None:
        for handle in self.handles:
            handle.remove()
        for name, readers in self.layers.items():
            output = self.kept[name]
            old = self.utility.get(name, [0.0] * output.shape[1])
            flattened = "trunk" in readers[0]  # else every place of a channel is one more example
            old_mean = self.mean.get(name, [[0.0] * (output[0, 0].numel() if flattened else 1)] * output.shape[1])
            self.utility[name], self.mean[name] = [], []
            for unit in range(output.shape[1]):
                values = [float(v) for v in output[:, unit].flatten()]
                outgoing = 0.0
                for reader in readers:
                    weight = agent.get_parameter(reader).detach()
                    block = agent.encoder.repr_dim // output.shape[1] if "trunk" in reader else 1
                    outgoing += float(weight[:, unit * block : (unit + 1) * block].abs().double().sum())
                size = sum(abs(v) for v in values) / len(values)
                places = [values[place :: len(old_mean[unit])] for place in range(len(old_mean[unit]))]
                means = [sum(place) / len(place) for place in places]
                self.utility[name].append(self.decay * old[unit] + (1 - self.decay) * size * outgoing)
                pairs = zip(old_mean[unit], means, strict=True)
                self.mean[name].append([self.decay * before + (1 - self.decay) * mean for before, mean in pairs])


def test_utility_in_a_run_against_a_slow_loop(tmp_path):
    """The encoder's last channels are read by both trunks; the target's trunk does not count."""
    slow = SlowUtility(
        {
            "encoder.convnet.1": ["encoder.convnet.2.weight"],
            "encoder.convnet.7": ["actor.trunk.0.weight", "critic.trunk.0.weight"],
            "actor.policy.3": ["actor.policy.4.weight"],
            "critic.Q2.1": ["critic.Q2.2.weight"],
        },
        decay=0.9,
    )
    watched = ContinualBackprop(replacement_rate=1e-9, decay=0.9)
    agent = fit_with_maps(tmp_path, callbacks=[watched, slow], max_frames=120)
    assert len(watched.state_dict()["utilities"]) == UNIT_LAYERS
    for name in slow.layers:
        state = watched.state_dict()["utilities"][name]
        assert state["updates"] == agent.num_updates > 15
        torch.testing.assert_close(state["utility"], torch.tensor(slow.utility[name]), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(state["mean"][0], torch.tensor(slow.mean[name]), rtol=1e-4, atol=1e-7)
        assert (state["utility"] > 0).any()


@pytest.fixture
def trained(tmp_path):
    """A trained agent that a ContinualBackprop has watched, none replaced yet."""
    watched = ContinualBackprop(replacement_rate=1e-9, decay=0.9)
    agent = fit_with_maps(tmp_path, callbacks=[watched], max_frames=120)
    return agent, watched


def owe(watched: ContinualBackprop, layer: str, count: int = 1) -> Tensor:
    """Make ``count`` units of a layer due, and return which they will be."""
    utility = watched._utilities[layer]
    utility.maturity_threshold, utility.mature, utility.owed = 0, utility.size, float(count)
    utility._young.clear()
    return utility.least_useful(count)


def outputs(agent, batch) -> list[Tensor]:
    """Return what actor, critic and target critic say of a batch."""
    with torch.no_grad():
        features = agent.encoder(batch["pixels"])
        critics = [*agent.critic(features, batch["action"]), *agent.critic_target(features, batch["action"])]
        return [agent.actor(features), *critics]


def constant(agent, layer: str, value: float) -> None:
    """Let all units behind an activation put out ``value``, whatever the input."""
    (found,) = [one for one in agent.units(layer.split(".")[0]) if one.name == layer]
    with torch.no_grad():
        for maker in (found.makers[0], *found.twins):
            maker.weight.zero_()
            maker.bias.fill_(value)


@pytest.mark.parametrize("layer", ["actor.policy.1", "critic.Q1.3", "encoder.convnet.3", "encoder.convnet.7"])
def test_what_a_unit_fed_on_average_stays_with_its_readers(layer, trained):
    """Units of constant output: their mean is exact, so that taking two of them away changes no output at all.

    Also in the target critic, whose weights differ, and through the flattened channels for all three trunks.
    """
    agent, watched = trained
    constant(agent, layer, 0.75)
    batch = agent.probe_batch(16)
    utility = watched._utilities[layer]
    utility.renew_all()  # forget the outputs of the trained weights
    means = torch.full_like(utility.mean_output(), 0.75)
    utility.observe(torch.full((utility.size,), 0.75), means, torch.ones(utility.size))

    before = outputs(agent, batch)
    units = owe(watched, layer, 2)
    watched._replace(agent)
    for old, new in zip(before, outputs(agent, batch), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)
    (found,) = [one for one in agent.units(layer.split(".")[0]) if one.name == layer]
    for reader in found.readers:
        block = reader.inputs // found.size
        for unit in units.tolist():
            assert not reader.weight[:, unit * block : (unit + 1) * block].any()
    assert (found.makers[0].weight[units] != 0).any()
    assert not found.makers[0].bias[units].any()


def test_a_replaced_unit_does_not_read_another_one(trained):
    """One of each of two layers, of which the second reads the first: it is fresh but for that weight."""
    agent, watched = trained
    first, second = (int(owe(watched, layer)) for layer in ("actor.policy.1", "actor.policy.3"))
    watched._replace(agent)
    reader = agent.actor.policy[2]
    assert reader.weight[second].count_nonzero() == reader.in_features - 1
    assert reader.weight[second, first] == 0
    assert reader.bias[second] == 0


def test_a_channel_that_is_read_flattened_is_absorbed_position_by_position(trained):
    """Of one observation the mean at each position is exact, where it differs over space: no output changes."""
    agent, watched = trained
    layer = "encoder.convnet.7"
    batch = agent.probe_batch(2)[:1]
    kept: list[Tensor] = []
    handle = agent.get_submodule(layer).register_forward_hook(lambda _, __, output: kept.append(output))

    before = outputs(agent, batch)
    handle.remove()
    watched._utilities[layer].renew_all()
    watched.record(agent, {layer: watched.read(kept[0])})
    size = watched._utilities[layer].size
    assert (kept[0].flatten(2).std(2) > 0).sum() == size, "not the same everywhere"
    owe(watched, layer, size - 1)
    watched._replace(agent)
    for old, new in zip(before, outputs(agent, batch), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)


def test_a_replacement_touches_what_it_declares(trained):
    """One unit of a hidden layer of the critic: two rows, two columns, two biases, here and in the target."""
    agent, watched = trained
    before, old_slots = weights(agent), slots(agent)
    unit = int(owe(watched, "critic.Q1.1"))
    mean = float(watched._utilities["critic.Q1.1"].mean_output()[unit])
    watched._replace(agent)
    after, new_slots = weights(agent), slots(agent)
    where = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in before.items()}
    for net in ("critic", "critic_target"):
        where[f"{net}.Q1.0.weight"][unit] = where[f"{net}.Q1.0.bias"][unit] = True
        where[f"{net}.Q1.2.weight"][:, unit] = where[f"{net}.Q1.2.bias"][:] = True
    for name, mask in where.items():
        assert torch.equal(after[name][~mask], before[name][~mask]), name
        assert (after[name][mask] != before[name][mask]).any() or not mask.any(), name
    for net in ("critic", "critic_target"):
        expected = before[f"{net}.Q1.2.bias"] + before[f"{net}.Q1.2.weight"][:, unit] * mean
        torch.testing.assert_close(after[f"{net}.Q1.2.bias"], expected)
    assert torch.equal(after["critic.Q1.0.weight"][unit], after["critic_target.Q1.0.weight"][unit])
    for name, slot in new_slots.items():
        cleared = where[name] & (torch.zeros_like(where[name]) if name.endswith("Q1.2.bias") else True)
        assert float(slot["step"]) == float(old_slots[name]["step"]) > 0
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not slot[moment][cleared].any(), name
            assert torch.equal(slot[moment][~cleared], old_slots[name][moment][~cleared]), name
    assert watched.state_dict()["replaced"] == {"encoder": 0, "actor": 0, "critic": 1}


def test_new_units_are_rows_of_fresh_layers_each_handed_out_once(trained):
    """16 rows of an orthogonal 16 x 16 matrix; the 17th unit is the first row of the next one."""
    agent, _ = trained
    (layer,) = [one for one in agent.units("actor") if one.name == "actor.policy.3"]
    fresh = FreshUnits(layer, "name")
    pieces = [fresh.take(agent, count)[0] for count in (3, 5, 8)]
    first = torch.cat([piece["weight"] for piece in pieces])
    torch.testing.assert_close(first @ first.T, torch.eye(16), atol=1e-5, rtol=0)
    assert not torch.cat([piece["bias"] for piece in pieces]).any()
    second = fresh.take(agent, 16)[0]["weight"]
    torch.testing.assert_close(second @ second.T, torch.eye(16), atol=1e-5, rtol=0)
    assert (first - second).abs().max() > 0.1

    again = FreshUnits(layer, "name", taken=10)
    across = again.take(agent, 12)[0]["weight"]
    assert torch.equal(across, torch.cat([first[10:], second[:6]])), "what comes next depends on name and count only"
    assert not torch.equal(FreshUnits(layer, "other").take(agent, 16)[0]["weight"], first)


def test_what_other_generators_gave_is_not_kept(trained, monkeypatch):
    """While ``HeavyPriming`` runs, the agent draws from another seed; a run resumed afterwards never saw it."""
    agent, _ = trained
    (layer,) = [one for one in agent.units("actor") if one.name == "actor.policy.3"]
    straight = FreshUnits(layer, "name")
    with monkeypatch.context() as patch:
        patch.setattr(agent, "rng", NamedGenerators(99))
        straight.take(agent, 3)
    resumed = FreshUnits(layer, "name", taken=3)
    assert torch.equal(straight.take(agent, 4)[0]["weight"], resumed.take(agent, 4)[0]["weight"])


class Counts(RLCallback):
    """Notes how many units were replaced before every update.

    Args:
        watched: The callback.
    """

    def __init__(self, watched: ContinualBackprop) -> None:
        self.watched, self.start = watched, watched.on_update_start
        watched.on_update_start = self.note
        self.totals: list[int] = []

    def note(self, agent) -> None:
        self.start(agent)
        self.totals.append(sum(self.watched.state_dict()["replaced"].values()))
        assert hooks_of(agent), "it watches the update that starts"


def test_when_units_are_replaced_in_a_run(tmp_path):
    """Two layers of 16 units, all mature after update 4 (age > 3), rate 1/32: 0.5 a layer after updates 4, 5, ...

    So one unit of each goes before update 6. Then 15/32 a layer until update 8 and 16/32 after update 9, when the new
    one is mature as well (age 4): 15/32 after 6, 30/32 after 7, 45/32 after 8: the next goes before update 9.
    """
    watched = ContinualBackprop(modules=["actor"], replacement_rate=1 / 32, maturity_threshold=3, log_every_n_updates=6)
    counts = Counts(watched)
    agent = fit_with_maps(tmp_path, callbacks=[watched, counts], max_frames=100)
    assert counts.totals[:9] == [0, 0, 0, 0, 0, 2, 2, 2, 4]
    assert agent.latest["intervention/continual_backprop/replaced/actor"] == counts.totals[12]
    assert agent.latest["intervention/continual_backprop"] == 1.0
    assert hooks_of(agent) == {}


def test_a_layer_that_was_reset_has_new_units(tmp_path):
    watched = ContinualBackprop(modules=["actor", "critic"], replacement_rate=1e-9)
    reset = Reset(modules=["critic"], at_frames=[100])
    agent = fit_with_maps(tmp_path, callbacks=[watched, reset], max_frames=120)
    ages = {name: state["updates"] - state["born"] for name, state in watched.state_dict()["utilities"].items()}
    late = agent.num_updates - 15  # updates before frame 104
    assert {name: set(age.tolist()) for name, age in ages.items()} == {
        name: {late} if name.startswith("critic") else {agent.num_updates} for name in ages
    }


def test_with_rate_zero_it_does_not_even_look(tmp_path):
    watched = ContinualBackprop(replacement_rate=0.0)
    agent = fit_with_maps(tmp_path, callbacks=[watched], max_frames=60)
    assert agent.num_updates > 0
    assert {state["updates"] for state in watched.state_dict()["utilities"].values()} == {0}


def test_a_second_agent_with_other_optimizers(tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=120, seed=1)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    watched = ContinualBackprop(modules=["torso", "policy", "value"], replacement_rate=0.05, maturity_threshold=2)
    make_trainer(tmp_path, callbacks=[watched, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(agent, data)
    assert min(watched.state_dict()["replaced"].values()) >= 5
    assert all(torch.isfinite(p).all() for p in agent.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replacement_rate": -0.1}, r"ContinualBackprop.replacement_rate=-0.1 must be in \[0, 1\]"),
        ({"replacement_rate": 1.1}, r"ContinualBackprop.replacement_rate=1.1 must be in \[0, 1\]"),
        ({"replacement_rate": float("nan")}, "must be in"),
        ({"decay": 1.0}, r"ContinualBackprop.decay=1.0 must be in \[0, 1\): at 1 the utility never changes"),
        ({"maturity_threshold": -1}, "maturity_threshold=-1 must be a whole number >= 0"),
        ({"log_every_n_updates": 0}, "log_every_n_updates=0 must be a whole number >= 1"),
        ({"modules": ["critic.trunk"]}, "ContinualBackprop.modules: 'critic.trunk' has no hidden ReLU units"),
        ({"modules": ["critc"]}, "no module 'critc'"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        fit_with_maps(tmp_path, callbacks=[ContinualBackprop(**arguments)])
    assert "\n" not in str(error.value)


def test_not_beside_pruning(tmp_path):
    with pytest.raises(UserError, match="ContinualBackprop cannot run beside PruneDormant: one removes units for good"):
        fit_with_maps(tmp_path, callbacks=[ContinualBackprop(), PruneDormant()])
