"""Prioritized replay in whole runs, through an agent that sets priorities and has nothing but a Q network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import fit_tiny, tiny_agent, tiny_sac, weights_hash
from only_q import OnlyQ
from run_state import DieAt, Killed, differences, run_state
from tensordict import TensorDict

import callbacks as ours
from plasticity_rl.callback import RLCallback
from plasticity_rl.errors import UserError
from plasticity_rl.machine import capacity

TASK = {"task": "tiny_discrete"}
PRIORITIZED = {**TASK, "prioritized": True, "priority_beta": "linear(0.4,1.0,100)"}


class PrioritizedQ(OnlyQ):
    """Weighs its losses and sets priorities."""

    sets_priorities = True

    def update(self, batch):
        taken = self.values(batch["pixels"]).gather(1, batch["action"])
        losses = (taken - self.td_targets(batch, self.rng.get_own("unused"))).square()
        loss = (losses * batch.get("weight", torch.ones(()))).mean()
        self.minimize(loss, "critic_adam")
        self.data.replay.update_priorities(batch, losses.detach()[:, 0])
        return TensorDict({"loss/critic": loss.detach()}, batch_size=[])


def prioritized_q(data, seed):
    return PrioritizedQ(data.obs_shape, data.num_actions, seed)


def train(folder, data_options=PRIORITIZED, **options):
    return fit_tiny(folder, make_agent=prioritized_q, data_options=data_options, **options)


def tree_weights(agent) -> np.ndarray:
    return agent.data.replay._windows.tree.leaves


def test_losses_become_priorities_and_weights_come_with_batches(tmp_path):
    agent = train(tmp_path)
    weights = tree_weights(agent)
    assert np.count_nonzero(weights) == agent.data.replay.num_windows
    assert len(np.unique(weights)) > 10
    assert agent.data.replay._windows.beta() == 1.0
    assert agent.data.replay.sample()["weight"].max() == 1
    uniform = train(tmp_path / "uniform", TASK)
    assert weights_hash(agent) != weights_hash(uniform)
    assert agent.data.priority_bytes == agent.data.replay._windows.tree._nodes.nbytes
    assert uniform.data.priority_bytes == 0


def test_priorities_that_no_memory_holds_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "available_memory", lambda: 50_000)
    with pytest.raises(UserError, match="^The priorities of a full replay need 131072 bytes .* but 50000 bytes"):
        train(tmp_path, {**PRIORITIZED, "storage": "memmap", "capacity": 3000})


@pytest.mark.parametrize(
    "more",
    [{}, {"num_envs": 2}, {"storage": "memmap"}, {"capacity": 40, "resumable_epochs": 1}],
    ids=lambda more: next(iter(more), "plain"),
)
def test_killed_and_resumed_equals_never_stopped(more, tmp_path):
    options = {"data_options": {**PRIORITIZED, **more}, "max_frames": 200}
    whole = train(tmp_path / "whole", **options)
    with pytest.raises(Killed):
        train(tmp_path / "cut", callbacks=[DieAt(160)], **options)  # its last checkpoint is of frame 100
    resumed = train(tmp_path / "cut", ckpt_path="last", **options)
    assert differences(run_state(resumed), run_state(whole)) == []
    assert np.array_equal(resumed.data.replay._windows.tree._nodes, whole.data.replay._windows.tree._nodes)


class Looks(RLCallback):
    """Measures that take batches of their own, of every kind."""

    def on_update_end(self, agent, batch, metrics) -> None:
        generator = torch.Generator().manual_seed(0)
        assert "weight" not in agent.probe_batch(32)
        list(agent.data.replay.peek_distinct(50, generator, 20))
        agent.data.replay.sample_first(agent.data.replay.first_records(10), generator)


def test_probes_leave_priorities_and_batches_alone(tmp_path):
    probes = [Looks(), ours.DormantUnits(modules=["critic"], every_n_updates=3), ours.SRank(modules=["critic"])]
    plain, watched = train(tmp_path / "plain"), train(tmp_path / "watched", callbacks=probes)
    assert np.array_equal(tree_weights(watched), tree_weights(plain))
    assert weights_hash(watched) == weights_hash(plain)


def test_updates_on_other_batches_set_no_priorities(tmp_path):
    seen = []

    class Note(RLCallback):
        def on_update_start(self, agent) -> None:
            seen.append(set(tree_weights(agent)))

    priming = ours.HeavyPriming(num_transitions=10, num_updates=5)
    train(tmp_path, callbacks=[priming, Note()], max_frames=44)
    assert len(seen) >= 6
    assert all(weights <= {0.0, 1.0} for weights in seen[:6])


@pytest.mark.parametrize(
    ("make", "data", "name"), [(tiny_agent, {}, "DrQV2"), (tiny_sac, {"observation": "state"}, "SAC")]
)
def test_an_agent_that_sets_none_is_refused(make, data, name, tmp_path):
    with pytest.raises(UserError, match=f"prioritized=true: {name} does not set priorities"):
        fit_tiny(tmp_path, make_agent=make, data_options={**data, "prioritized": True})


def test_what_changes_when_a_run_goes_on(tmp_path):
    train(tmp_path, TASK, max_frames=100)
    agent = train(tmp_path, PRIORITIZED, max_frames=200, ckpt_path="last")
    assert {change["option"].split()[0] for change in agent.changes_of_this_start} == {
        "data.prioritized",
        "data.priority_beta",
        "max_frames",
    }
    assert agent.data.replay._windows.beta() == 1.0, "from env step 0 on"
    agent = train(tmp_path, {**PRIORITIZED, "priority_beta": 0.5}, max_frames=200, ckpt_path="last")
    assert agent.data.replay._windows.beta() == 0.5
    with pytest.raises(UserError, match="priority_exponent=0.5, but this run has 0.6: the priorities of"):
        train(tmp_path, {**PRIORITIZED, "priority_exponent": 0.6}, max_frames=200, ckpt_path="last")
    agent = train(tmp_path, TASK, max_frames=300, ckpt_path="last")
    assert "weight" not in agent.data.replay.sample()


def test_rewards_are_clipped_in_batches_and_returns_are_not(tmp_path):
    agent = train(tmp_path, {**TASK, "reward_clip": 0.25, "n_step": 1}, max_frames=100)
    assert agent.data.replay[:40]["reward"].max() > 0.5
    assert agent.data.replay.peek(200, torch.Generator())["reward"].max() == 0.25
    assert agent.eval_returns[0][1] > 20 * 0.25
