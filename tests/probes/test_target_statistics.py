"""TargetStatistics against targets recomputed from the equation, and returns from rewards."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch
from helpers import TINY_DISCRETE, TINY_DQN, fit_tiny, tiny_data, tiny_sac
from tensordict import TensorDict

from callbacks import HLGaussCritic, TargetStatistics
from plasticity_rl import DQN, SAC
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


def sac_of_value(value: float, data) -> SAC:
    """SAC whose values are ``value`` everywhere, and count next to no entropy."""
    agent = tiny_sac(data, init_temperature=1e-9)
    with torch.no_grad():
        for head in (agent.critic.Q1, agent.critic.Q2):
            head[-1].weight.zero_()
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

    def __init__(self, agent, n_step: int, discount: float, reward_clip: float | None = None) -> None:
        self.logged: dict[str, float] = {}
        agent.log_scalars = lambda scalars: self.logged.update({tag: float(v) for tag, v in scalars.items()})
        self.data = types.SimpleNamespace(horizon=(n_step, discount), reward_clip=reward_clip)
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
    agent = sac_of_value(10.0, data)
    for lengths, terminated in (([2], False), ([50], False), ([2, 50], False), ([5], True)):
        given = [episode([1.0] * steps, terminated=terminated, size=data.obs_shape[0]) for steps in lengths]
        logged = Attached(agent, 1, 0.9).evaluate(given, monkeypatch)
        missing = sum(10 * 0.9**steps for steps in lengths) / len(lengths)
        assert logged["target/overestimation"] == pytest.approx(missing, rel=1e-4), "the return knows nothing of it"
        assert logged["target/missing_tail"] == pytest.approx(0 if terminated else missing, rel=1e-4)


def test_the_tail_of_soft_values_counts_the_entropy(monkeypatch):
    """Value 10 and weight 0.5: cut after two steps, 0.9^2 times value and entropy are missing."""
    data = tiny_data(observation="state")
    bonus = 0.5 * data.action_dim * entropy_of_squashed(-0.4)
    cut = episode([1.0] * 2, terminated=False, size=data.obs_shape[0])
    logged = Attached(constant_sac(10.0, -0.4, data), 1, 0.9).evaluate([cut] * 200, monkeypatch)
    assert 0.81 * abs(bonus) > 0.1, "left out, the entropy would show"
    assert logged["target/missing_tail"] == pytest.approx(0.81 * (10 + bonus), abs=0.03)


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


# ---- discrete actions, and clipped rewards ---------------------------------------------------------------------------


DISCRETE = {
    "double": {"double": True},
    "dueling": {"double": False, "dueling": True},
    "distributional": {"dueling": True, "num_atoms": 5, "v_min": -2.0, "v_max": 2.0},
    "histogram": {"dueling": True},
}
ATOMS = {"distributional": [-2.0, -1.0, 0.0, 1.0, 2.0], "histogram": [-1.6, -0.8, 0.0, 0.8, 1.6]}


def dqn(kind: str) -> DQN:
    """DQN from states of 2 numbers, three actions, whose values differ by action, and from those of the target."""
    torch.manual_seed(0)
    agent = DQN((2,), 3, hidden_dim=8, eval_epsilon=0.0, **DISCRETE[kind])
    agent.build([HLGaussCritic(v_min=-2.0, v_max=2.0, bins=5)] if kind == "histogram" else [])
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return agent


@torch.no_grad()
def slow_distributions(kind: str, encoder, critic, state: torch.Tensor) -> list[list[tuple[float, float]]]:
    """Return pairs of probability and return for each of the three actions; a number is a certain return."""
    features = encoder(state[None])[0]
    size = len(ATOMS.get(kind, [0.0]))
    advantage = critic.advantage(features).tolist()
    value = critic.value(features).tolist() if DISCRETE[kind].get("dueling") else None
    found = []
    for action in range(3):
        own = advantage[action * size : (action + 1) * size]
        if value is not None:
            means = [sum(advantage[other * size + k] for other in range(3)) / 3 for k in range(size)]
            own = [value[k] + own[k] - means[k] for k in range(size)]
        if kind not in ATOMS:
            found.append([(1.0, own[0])])
            continue
        total = sum(math.exp(logit) for logit in own)
        found.append([(math.exp(logit) / total, z) for logit, z in zip(own, ATOMS[kind], strict=True)])
    return found


def slow_values(kind: str, encoder, critic, state: torch.Tensor) -> list[float]:
    return [sum(p * z for p, z in one) for one in slow_distributions(kind, encoder, critic, state)]


@pytest.mark.parametrize("kind", DISCRETE)
def test_the_td_error_is_that_of_the_action_taken(kind):
    agent, g = dqn(kind), torch.Generator().manual_seed(1)
    state, later = torch.randn(2, 6, 2, generator=g)
    batch = {"state": state, "next": TensorDict({"state": later}, [6]), "reward": torch.randn(6, 1, generator=g)}
    batch |= {"action": torch.tensor([[0], [1], [2], [0], [0], [0]]), "discount": torch.full((6, 1), 0.9)}
    agent.probe_batch = lambda size: TensorDict(batch, [6])
    probe = TargetStatistics(batch_size=6)
    probe.resolve(agent)
    found = {tag: float(value) for tag, value in probe.measure(agent, None, None).items()}

    targets, errors, of_all = [], [], []
    for i in range(6):
        target = slow_distributions(kind, agent.encoder_target, agent.critic_target, later[i])
        online = slow_values(kind, agent.encoder, agent.critic, later[i])
        chosen_by = online if agent.hparams["double"] else [sum(p * z for p, z in one) for one in target]
        best = max(range(3), key=lambda action: chosen_by[action])
        reward = float(batch["reward"][i])
        # A projection leaves the mean of what lies inside the support as it is.
        inside = (lambda x: min(max(x, -2.0), 2.0)) if kind == "distributional" else (lambda x: x)
        targets.append(sum(p * inside(reward + 0.9 * z) for p, z in target[best]))
        values = slow_values(kind, agent.encoder, agent.critic, state[i])
        errors.append(abs(values[int(batch["action"][i])] - targets[-1]))
        of_all += [abs(value - targets[-1]) for value in values]
    assert found["target/magnitude"] == pytest.approx(np.abs(targets).mean(), rel=1e-4)
    assert found["target/spread"] == pytest.approx(np.std(targets), rel=1e-4)
    assert found["target/td_error"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert np.mean(of_all) != pytest.approx(np.mean(errors), rel=1e-2), "the other actions would show"


@pytest.mark.parametrize("kind", DISCRETE)
def test_over_estimation_and_tail_are_those_of_the_best_action(kind, monkeypatch):
    """Rewards 1 and discount 0.9, episodes of 3 and 5 steps from the state 0: the policy takes the best action."""
    agent = dqn(kind)
    lengths = (3, 5)
    given = [episode([1.0] * steps, terminated=False, size=2) for steps in lengths]
    logged = Attached(agent, 1, 0.9).evaluate(given, monkeypatch)
    best = [max(slow_values(kind, agent.encoder, agent.critic, torch.full((2,), float(t)))) for t in (0, *lengths)]
    returns = [sum(0.9**t for t in range(steps)) for steps in lengths]
    tails = [0.9**steps * end for steps, end in zip(lengths, best[1:], strict=True)]
    assert logged["target/overestimation"] == pytest.approx(best[0] - sum(returns) / 2, rel=1e-4)
    assert logged["target/missing_tail"] == pytest.approx(sum(tails) / 2, rel=1e-4)


class Noting(DQN):
    """Notes the first action of every evaluation episode."""

    def begin_evaluation_episode(self, episode: int) -> None:
        super().begin_evaluation_episode(episode)
        self.begins = True

    def act(self, observations: torch.Tensor, *, explore: bool) -> torch.Tensor:
        action = super().act(observations, explore=explore)
        if not explore and self.begins:
            self.first.append(int(action))
            self.begins = False
        return action


class FirstValues(RLCallback):
    """Recomputes the over-estimation from the actions that were played. Its name sorts before the probe's."""

    def __init__(self) -> None:
        self.over: list[float] = []
        self.best: list[bool] = []

    @torch.no_grad()
    def on_evaluation(self, agent, episodes) -> None:
        gaps = []
        for action, one in zip(agent.first[-len(episodes) :], episodes, strict=True):
            values = agent.critic(agent.encoder(one.first_observation[None])).flatten().tolist()
            self.best.append(values[action] == max(values))
            gaps.append(values[action] - sum(r * 0.99**t for t, r in enumerate(one.rewards)))
        self.over.append(sum(gaps) / len(gaps))


def test_a_random_first_action_of_an_evaluation_is_the_one_that_counts(tmp_path):
    """With ``eval_epsilon`` 1 every action of an evaluation is random, and the episode's own."""

    def make(data, seed):
        agent = Noting(data.obs_shape, data.num_actions, **{**TINY_DQN, "seed": seed, "eval_epsilon": 1.0})
        agent.first, agent.begins = [], False
        return agent

    watcher, logged = FirstValues(), Logged()
    given = [TargetStatistics(every_n_updates=1, batch_size=6), watcher, logged]
    options = {**TINY_DISCRETE, "num_eval_episodes": 6}
    fit_tiny(tmp_path, callbacks=given, max_frames=100, make_agent=make, data_options=options)
    assert len(logged.over) == 2
    assert logged.over == pytest.approx(watcher.over, rel=1e-4, abs=1e-4)
    assert not all(watcher.best)


def test_returns_are_of_rewards_as_they_are_learned(monkeypatch):
    """Rewards 3, -5 and 0.5 clipped to 1 and discounted by 0.9: 1 - 0.9 + 0.81 * 0.5 = 0.505."""
    data = tiny_data(observation="state")
    agent = sac_of_value(2.0, data)
    ended = episode([3.0, -5.0, 0.5], terminated=True, size=data.obs_shape[0])
    for clip, expected in ((1.0, 2.0 - 0.505), (None, 2.0 - (3.0 - 4.5 + 0.405))):
        logged = Attached(agent, 1, 0.9, reward_clip=clip).evaluate([ended], monkeypatch)
        assert logged["target/overestimation"] == pytest.approx(expected, rel=1e-4)
