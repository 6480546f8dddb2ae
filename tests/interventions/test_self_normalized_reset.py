"""SelfNormalizedReset: what counts as firing, who is reset when, and what a reset touches."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_with_maps, tiny_data
from run_state import hooks_of
from tiny_agent import TinyAgent
from torch import Tensor

from callbacks import PruneDormant, Reset, SelfNormalizedReset
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo


def weights(agent) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in agent.named_parameters()}


def slots(agent) -> dict[str, dict[str, Tensor]]:
    state = {id(p): o.state[p] for o in agent.trainer.optimizers for group in o.param_groups for p in group["params"]}
    return {name: copy.deepcopy(state[id(p)]) for name, p in agent.named_parameters() if id(p) in state}


class Firing(RLCallback):
    """Counts inter-firing times of one layer with a loop over units, from outputs that it keeps itself.

    Args:
        layer: Name of the activation.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.times: list[list[int]] = []
        self.silence: list[int] = []

    def on_update_start(self, agent) -> None:
        self.kept: list[Tensor] = []

        def keep(_, __, output):
            if output.requires_grad:
                self.kept.append(output.detach().clone())

        self.handle = agent.get_submodule(self.layer).register_forward_hook(keep)

    def on_update_end(self, agent, batch, metrics) -> None:
        self.handle.remove()
        output = self.kept[0]
        self.times = self.times or [[] for _ in range(output.shape[1])]
        self.silence = self.silence or [0] * output.shape[1]
        for unit in range(output.shape[1]):
            self.silence[unit] += 1
            if any(float(v) > 0 for v in output[:, unit].flatten()):
                self.times[unit].append(self.silence[unit])
                self.silence[unit] = 0


@pytest.mark.parametrize("layer", ["encoder.convnet.5", "critic.Q1.3"])
def test_the_record_of_a_run_against_a_slow_loop(layer, tmp_path):
    """With a batch of 2, so that some units are silent in some of the updates."""
    firing, watched = Firing(layer), SelfNormalizedReset(every_n_updates=10**6)
    fit_with_maps(tmp_path, callbacks=[watched, firing], max_frames=120, data_options={"batch_size": 2})
    record = watched.state_dict()["records"][layer]
    assert record["silence"].tolist() == firing.silence
    for counts, times in zip(record["counts"], firing.times, strict=True):
        assert {t: int(n) for t, n in enumerate(counts) if n} == {t: times.count(t) for t in set(times)}
    assert any(len(set(times)) > 1 for times in firing.times), "no unit had times of different length"


@pytest.fixture
def trained(tmp_path):
    """A trained agent, watched, none of whose units were tested yet."""
    watched = SelfNormalizedReset(every_n_updates=10**6, eta=0.1, max_silent_updates=50)
    agent = fit_with_maps(tmp_path, callbacks=[watched], max_frames=120)
    for record in watched._records.values():
        record.forget(torch.ones(len(record.silence), dtype=torch.bool))
    return agent, watched


def silent(watched: SelfNormalizedReset, layer: str, *units: int) -> None:
    """Give all units of a layer twenty times of 1, and some a silence of 2: p = 1 / 21."""
    record = watched._records[layer]
    record.counts[:, 1] = 20
    record.silence[list(units)] = 2


def test_a_reset_touches_what_it_declares(trained):
    """Channels 1 and 3 of the last convolution, read by three trunks, and unit 5 of a hidden layer of the critic."""
    agent, watched = trained
    silent(watched, "encoder.convnet.7", 1, 3)
    silent(watched, "critic.Q2.1", 5)
    before, old_slots = weights(agent), slots(agent)
    watched._test(agent)
    after, new_slots = weights(agent), slots(agent)
    where = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in before.items()}
    block = agent.encoder.repr_dim // 4
    for unit in (1, 3):
        where["encoder.convnet.6.weight"][unit] = where["encoder.convnet.6.bias"][unit] = True
        for net in ("actor", "critic", "critic_target"):
            where[f"{net}.trunk.0.weight"][:, unit * block : (unit + 1) * block] = True
    for net in ("critic", "critic_target"):
        where[f"{net}.Q2.0.weight"][5] = where[f"{net}.Q2.0.bias"][5] = True
        where[f"{net}.Q2.2.weight"][:, 5] = True
    for name, mask in where.items():
        assert torch.equal(after[name][~mask], before[name][~mask]), name
        if "trunk" in name or name.endswith((".bias", "Q2.2.weight")):
            assert not after[name][mask].any(), name
        elif mask.any():
            assert (after[name][mask] != before[name][mask]).any(), name
            assert (after[name][mask] != 0).all(), name
    assert torch.equal(after["critic.Q2.0.weight"][5], after["critic_target.Q2.0.weight"][5])
    for name, slot in new_slots.items():
        assert float(slot["step"]) == float(old_slots[name]["step"]) > 0
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not slot[moment][where[name]].any(), name
            assert torch.equal(slot[moment][~where[name]], old_slots[name][moment][~where[name]]), name
    state = watched.state_dict()
    assert state["reset"] == {"encoder": 2, "actor": 0, "critic": 1}
    assert agent.latest["intervention/self_normalized_reset/reset/encoder"] == 2.0
    assert state["records"]["critic.Q2.1"]["silence"][5] == 0
    assert not state["records"]["critic.Q2.1"]["counts"][5].any(), "a new unit has a record of its own"
    assert state["records"]["critic.Q2.1"]["counts"][4].sum() == 20


def test_silent_units_are_reset_without_a_change_of_any_output(trained):
    agent, watched = trained
    with torch.no_grad():
        for name, unit in (("encoder.convnet.6", 2), ("actor.policy.0", 7), ("critic.Q1.2", 3)):
            agent.get_submodule(name).bias[unit] = -1e4
    silent(watched, "encoder.convnet.7", 2)
    silent(watched, "actor.policy.1", 7)
    silent(watched, "critic.Q1.3", 3)
    batch = agent.probe_batch(16)
    with torch.no_grad():
        before = agent.forward_all(batch)
        watched._test(agent)
        after = agent.forward_all(batch)
    for name in ("actor", "critic"):
        assert torch.equal(before[name], after[name])


def test_a_reset_unit_does_not_read_another_one(trained):
    """Unit 5 of the second layer reads unit 3 of the first: it is fresh but for that weight."""
    agent, watched = trained
    silent(watched, "actor.policy.1", 3)
    silent(watched, "actor.policy.3", 5)
    watched._test(agent)
    reader = agent.actor.policy[2]
    assert reader.weight[5].count_nonzero() == reader.in_features - 1
    assert reader.weight[5, 3] == 0


def test_nobody_suspicious_changes_nothing(trained):
    agent, watched = trained
    agent.latest.clear()
    before, generators = weights(agent), {name: v.clone() for name, v in agent.rng.state_dict().items()}
    watched._test(agent)
    assert all(torch.equal(value, before[name]) for name, value in weights(agent).items())
    assert all(torch.equal(value, agent.rng.state_dict()[name]) for name, value in generators.items())
    assert agent.latest == {}


class Spy(RLCallback):
    """Notes before which updates units were tested.

    Args:
        watched: The callback.
    """

    def __init__(self, watched: SelfNormalizedReset) -> None:
        self.watched, self.test = watched, watched._test
        watched._test = self.note
        self.updates: list[int] = []

    def note(self, agent) -> None:
        self.updates.append(agent.num_updates)
        self.test(agent)


def test_a_dead_unit_is_reset_at_the_first_test_after_the_longest_silence(tmp_path):
    """Tests before updates 4, 7, 10, ...: after 5 silent updates, the test is before update 7."""
    watched = SelfNormalizedReset(modules=["actor"], eta=0.0, max_silent_updates=5, every_n_updates=3)
    spy, seen = Spy(watched), []

    class Kill(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            with torch.no_grad():
                pl_module.actor.policy[2].bias[4] = -1e4

        def on_update_end(self, agent, batch, metrics) -> None:
            seen.append(float(agent.actor.policy[2].bias.detach()[4]))

    agent = fit_with_maps(tmp_path, callbacks=[watched, spy, Kill()], max_frames=100)
    assert spy.updates[:3] == [3, 6, 9]
    assert max(seen[:6]) < -9e3
    assert abs(seen[6]) < 1, "reset before update 7"
    assert agent.latest["intervention/self_normalized_reset"] == 1.0
    assert hooks_of(agent) == {}


def test_a_layer_that_was_reset_starts_a_new_record(tmp_path):
    watched = SelfNormalizedReset(modules=["actor", "critic"], every_n_updates=10**6)
    agent = fit_with_maps(tmp_path, callbacks=[watched, Reset(modules=["critic"], at_frames=[100])], max_frames=120)
    for name, record in watched.state_dict()["records"].items():
        updates = agent.num_updates if name.startswith("actor") else 5
        seen = record["silence"] + (record["counts"] * torch.arange(record["counts"].shape[1])).sum(1)
        assert seen.tolist() == [updates] * len(seen), name


def test_a_second_agent_with_other_optimizers(tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=120, seed=1)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    watched = SelfNormalizedReset(modules=["torso", "policy", "value"], max_silent_updates=2, every_n_updates=2)
    make_trainer(tmp_path, callbacks=[watched, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(agent, data)
    assert sum(watched.state_dict()["reset"].values()) > 0
    assert all(torch.isfinite(p).all() for p in agent.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eta": 1.0}, r"SelfNormalizedReset.eta=1.0 must be in \[0, 1\): at 1 every silent unit is reset"),
        ({"eta": -0.1}, r"SelfNormalizedReset.eta=-0.1 must be in \[0, 1\)"),
        ({"eta": float("nan")}, "must be in"),
        ({"max_silent_updates": 0}, "SelfNormalizedReset.max_silent_updates=0 must be a whole number >= 1"),
        ({"every_n_updates": 0}, "SelfNormalizedReset.every_n_updates: the period is 0"),
        ({"modules": ["critic.trunk"]}, "SelfNormalizedReset.modules: 'critic.trunk' has no hidden ReLU units"),
        ({"modules": ["critc"]}, "no module 'critc'"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        fit_with_maps(tmp_path, callbacks=[SelfNormalizedReset(**arguments)])
    assert "\n" not in str(error.value)


def test_not_beside_pruning(tmp_path):
    with pytest.raises(UserError, match="SelfNormalizedReset cannot run beside PruneDormant: one removes units"):
        fit_with_maps(tmp_path, callbacks=[SelfNormalizedReset(), PruneDormant()])
