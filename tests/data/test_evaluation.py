from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from helpers import tiny_agent, tiny_data
from tiny_env import make_tiny_env
from torch import Tensor

from plasticity_rl.data.evaluation import play_episode
from plasticity_rl.data.module import RLDataModule


def to_the_middle(pixels: Tensor) -> Tensor:
    """Bang-bang control from the newest frame: the bright columns' centre against the image's middle."""
    columns = (pixels[:, -3, pixels.shape[2] // 2] > 0).float()
    centre = (columns * torch.arange(pixels.shape[-1])).sum(1) / columns.sum(1)
    return torch.where(centre > (pixels.shape[-1] - 1) / 2, -1.0, 1.0)[:, None]


def stand_still(pixels: Tensor) -> Tensor:
    return torch.zeros(pixels.shape[0], 1)


def global_states() -> list[object]:
    return [
        random.getstate(),
        [np.asarray(part).tolist() for part in np.random.get_state()],
        torch.get_rng_state().tolist(),
    ]


def test_return_and_length_of_an_episode_by_hand():
    env = make_tiny_env(seed=0)
    episode = play_episode(env, stand_still, seed=5)
    start = float(torch.rand((), generator=torch.Generator().manual_seed(5)) * 2 - 1)
    assert episode.env_steps == 20
    assert episode.episode_return == pytest.approx(40 * (1 - abs(start)), rel=1e-5)  # 20 steps of 2 frames
    assert episode.frames == []


def test_policy_sees_the_observation_it_acts_on():
    env = make_tiny_env(seed=0)
    still, good = (play_episode(env, policy, seed=5).episode_return for policy in (stand_still, to_the_middle))
    assert good > still + 1


def test_same_seed_same_episode_whatever_was_played_before():
    env = make_tiny_env(seed=0)
    first = play_episode(env, to_the_middle, seed=5).episode_return
    others = [play_episode(env, stand_still, seed=seed).episode_return for seed in (6, 7)]
    env.reset()  # and an episode left open in the middle
    env.rand_step(env.reset())
    assert play_episode(env, to_the_middle, seed=5).episode_return == first
    assert play_episode(make_tiny_env(seed=99), to_the_middle, seed=5).episode_return == first
    assert len({first, *others}) == 3


def test_frames_are_the_newest_of_every_observation():
    env = make_tiny_env(seed=0)
    seen: list[Tensor] = []

    def watching(pixels: Tensor) -> Tensor:
        seen.append(pixels[0, -3:].clone())
        return to_the_middle(pixels)

    episode = play_episode(env, watching, seed=5, keep_frames=True)
    assert len(episode.frames) == 21  # the start, and one after each of 20 steps
    assert all(torch.equal(frame, was) for frame, was in zip(episode.frames, seen, strict=False))
    assert episode.frames[0].shape == (3, 16, 16)
    assert len({frame.numpy().tobytes() for frame in episode.frames}) == 21  # copies, not one reused buffer


def test_evaluation_draws_nothing_from_the_global_generators():
    data = tiny_data()
    agent = tiny_agent(data)
    data.evaluate(lambda pixels: agent.act(pixels, explore=False), 0)  # first use may build things
    before = global_states()
    data.evaluate(lambda pixels: agent.act(pixels, explore=False), 1)
    assert global_states() == before


def test_evaluation_draws_nothing_from_the_agents_generators_and_is_deterministic():
    data = tiny_data()
    agent = tiny_agent(data)
    agent.act(torch.zeros(1, *data.obs_shape, dtype=torch.uint8), explore=True)
    before = {name: state.clone() for name, state in agent.rng.state_dict().items()}
    assert before
    returns = [data.evaluate(lambda pixels: agent.act(pixels, explore=False), 0).episode_return for _ in range(2)]
    after = agent.rng.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], state) for name, state in before.items())
    assert returns[0] == returns[1]


def test_episodes_are_paired_between_arms_and_differ_within_one():
    def starts(data: RLDataModule, episodes: list[int]) -> list[float]:
        return [data.evaluate(stand_still, episode).episode_return for episode in episodes]

    one, two, other_seed = tiny_data(seed=3), tiny_data(seed=3, batch_size=4), tiny_data(seed=4)
    assert starts(one, [0, 1, 2]) == starts(two, [2, 1, 0])[::-1]
    assert len(set(starts(one, list(range(10))))) == 10
    assert set(starts(one, [0, 1, 2])).isdisjoint(starts(other_seed, [0, 1, 2]))


def test_only_the_chosen_episode_keeps_its_frames():
    data = tiny_data()
    assert data.evaluate(stand_still, 0).frames == []
    data.keep_frames_of = 1
    assert data.evaluate(stand_still, 0).frames == []
    assert len(data.evaluate(stand_still, 1).frames) == 21
