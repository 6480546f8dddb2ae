"""TargetStatistics against targets recomputed from the equation, and returns from rewards."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch
from helpers import fit_tiny, tiny_data, tiny_sac

from callbacks import TargetStatistics
from plasticity_rl import SAC
from plasticity_rl.agents.drqv2.networks import noisy_action
from plasticity_rl.callback import RLCallback
from plasticity_rl.data.evaluation import Episode
from plasticity_rl.rng import derive_seed

AT_EVALUATIONS = ("target/overestimation", "target/missing_tail")


class Recompute(RLCallback):
    """Recomputes the targets of the probe batch from the networks. Its name sorts before the probe's."""

    def __init__(self) -> None:
        self.expected: list[dict[str, float]] = []
        self.over: list[float] = []

    @torch.no_grad()
    def on_update_end(self, agent, batch, metrics) -> None:
        probed = agent.probe_batch(6)
        noise = torch.Generator().manual_seed(derive_seed(agent.rng.seed, f"probe/noise/{agent.num_updates}"))
        later = agent.encoder(probed["next", "pixels"])
        action = noisy_action(agent.actor(later), agent.stddev, agent.stddev_clip, noise)
        q1, q2 = agent.critic_target(later, action)
        y = (probed["reward"] + probed["discount"] * torch.min(q1, q2)).double().numpy()
        values = [q.numpy() for q in agent.critic(agent.encoder(probed["pixels"]), probed["action"])]
        self.expected.append(
            {
                "target/magnitude": abs(y).mean(),
                "target/spread": y.std(),
                "target/td_error": sum(abs(q - y).mean() for q in values) / 2,
            }
        )

    @torch.no_grad()
    def on_evaluation(self, agent, episodes) -> None:
        gaps = []
        for episode in episodes:
            assert len(episode.rewards) == episode.env_steps == 20
            assert sum(episode.rewards) == episode.episode_return
            features = agent.encoder(episode.first_observation[None])
            value = torch.min(*agent.critic(features, agent.actor(features)))
            gaps.append(float(value) - sum(r * 0.99**t for t, r in enumerate(episode.rewards)))
        self.over.append(sum(gaps) / len(gaps))


class Logged(RLCallback):
    """Notes what the probe wrote last, at every env step and every evaluation."""

    def __init__(self) -> None:
        self.values: dict[int, dict[str, float]] = {}
        self.over: list[float] = []

    @property
    def name(self) -> str:
        return "zzz"

    def on_update_end(self, agent, batch, metrics) -> None:
        found = {tag: float(v) for tag, v in agent.latest.items() if tag.startswith("target/")}
        self.values[agent.num_updates] = {tag: v for tag, v in found.items() if tag not in AT_EVALUATIONS}

    def on_evaluation(self, agent, episodes) -> None:
        self.over.append(float(agent.latest["target/overestimation"]))


@pytest.mark.parametrize("augment", [True, False])
def test_logged_values_are_those_recomputed_by_hand(augment, tmp_path):
    watcher, logged = Recompute(), Logged()
    fit_tiny(
        tmp_path,
        callbacks=[TargetStatistics(every_n_updates=1, batch_size=6), watcher, logged],
        max_frames=100,
        agent_options={"augment": augment},
        data_options={"num_eval_episodes": 2},
    )
    assert len(watcher.expected) == len(logged.values) == 15
    for expected, found in zip(watcher.expected, logged.values.values(), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert len(watcher.over) == 2, "at frame 0 and at frame 100"
    assert logged.over == pytest.approx(watcher.over, rel=1e-4, abs=1e-4)
    assert watcher.over[0] != watcher.over[1]


# ---- soft values, and the tail behind a time limit -------------------------------------------------------------------


def constant_sac(value: float, log_std: float, data) -> SAC:
    """SAC whose policy is a Gaussian of mean 0 and whose values are ``value`` everywhere."""
    agent = tiny_sac(data, init_temperature=0.5)
    with torch.no_grad():
        for parameter in [*agent.actor.parameters(), *agent.critic.parameters()]:
            parameter.zero_()
        agent.actor.policy[-1].bias[data.action_dim :] = log_std
        for head in (agent.critic.Q1, agent.critic.Q2):
            head[-1].bias.fill_(value)
    return agent


def entropy_of_squashed(log_std: float) -> float:
    """Entropy of tanh(u), u ~ N(0, e^(2 log_std)), as a sum over a fine grid: H(u) + E log(1 - tanh(u)^2)."""
    sigma = math.exp(log_std)
    u, step = np.linspace(-12 * sigma, 12 * sigma, 200_001, retstep=True)
    density = np.exp(-0.5 * (u / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return 0.5 * math.log(2 * math.pi * math.e * sigma**2) - float((density * 2 * np.log(np.cosh(u))).sum() * step)


class Attached:
    """What the probe asks of an agent and its data at an evaluation."""

    def __init__(self, agent, n_step: int, discount: float) -> None:
        self.logged: dict[str, float] = {}
        agent.log_scalars = lambda scalars: self.logged.update({tag: float(v) for tag, v in scalars.items()})
        self.data = types.SimpleNamespace(horizon=(n_step, discount))
        self.agent = agent

    def evaluate(self, episodes, monkeypatch) -> dict[str, float]:
        monkeypatch.setattr(type(self.agent), "data", self.data)
        probe = TargetStatistics()
        probe.resolve(self.agent)
        probe.on_evaluation(self.agent, episodes)
        return self.logged


def episode(rewards: list[float], *, terminated: bool, size: int) -> Episode:
    states = [torch.full((size,), float(t)) for t in range(len(rewards) + 1)]
    return Episode(
        sum(rewards),
        len(rewards),
        rewards=rewards,
        first_observation=states[0],
        last_observation=states[-1],
        terminated=terminated,
        observations=states[:-1],
    )


@pytest.mark.parametrize("n_step", [1, 3])
def test_soft_values_that_are_right_are_not_over_estimated(n_step, monkeypatch):
    """A terminated episode of 9 steps with rewards 1: the soft value of its start is the reward and the entropy.

    Weight 0.5; the entropy counts at steps n, 2n, ... before the end, since that is where the targets bootstrap.
    """
    data = tiny_data(observation="state")
    gamma, log_std = 0.9, -0.4
    bonus = 0.5 * data.action_dim * entropy_of_squashed(log_std)
    soft = sum(gamma**t for t in range(9)) + sum(gamma**t * bonus for t in range(n_step, 9, n_step))
    agent = constant_sac(soft, log_std, data)
    ended = episode([1.0] * 9, terminated=True, size=data.obs_shape[0])
    logged = Attached(agent, n_step, gamma).evaluate([ended] * 200, monkeypatch)
    assert abs(bonus) > 0.1, "left out, the entropy would show"
    assert logged["target/overestimation"] == pytest.approx(0, abs=0.03)
    assert logged["target/missing_tail"] == 0


def test_the_missing_tail_is_stated_for_every_length_of_episode(monkeypatch):
    """Reward 1 for ever, discount 0.9: the value is 10. Cut after T steps, 10 * 0.9^T of it is not in the return."""
    data = tiny_data(observation="state")
    agent = tiny_sac(data, init_temperature=1e-9)
    with torch.no_grad():
        for head in (agent.critic.Q1, agent.critic.Q2):
            head[-1].weight.zero_()
            head[-1].bias.fill_(10.0)
    for lengths, terminated in (([2], False), ([50], False), ([2, 50], False), ([5], True)):
        given = [episode([1.0] * steps, terminated=terminated, size=data.obs_shape[0]) for steps in lengths]
        logged = Attached(agent, 1, 0.9).evaluate(given, monkeypatch)
        missing = sum(10 * 0.9**steps for steps in lengths) / len(lengths)
        assert logged["target/overestimation"] == pytest.approx(missing, rel=1e-4), "the return knows nothing of it"
        assert logged["target/missing_tail"] == pytest.approx(0 if terminated else missing, rel=1e-4)


def test_an_evaluation_of_sac_hands_on_its_states(tmp_path):
    kept = []

    class Keep(RLCallback):
        def on_evaluation(self, agent, episodes) -> None:
            kept.extend(episodes)

    states = {"observation": "state"}
    given = [TargetStatistics(), Keep()]
    latest = fit_tiny(tmp_path, callbacks=given, max_frames=44, make_agent=tiny_sac, data_options=states).latest
    assert {"target/overestimation", "target/missing_tail"} <= latest.keys()
    for one in kept:
        assert len(one.observations) == one.env_steps == 20
        assert torch.equal(one.observations[0], one.first_observation)
        assert not torch.equal(one.observations[-1], one.last_observation)
        assert not one.terminated
