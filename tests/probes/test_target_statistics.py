"""TargetStatistics against targets recomputed from the equation, and returns from rewards."""

from __future__ import annotations

import pytest
import torch
from helpers import fit_tiny

from callbacks import TargetStatistics
from plasticity_rl.callback import RLCallback
from plasticity_rl.networks import noisy_action
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
