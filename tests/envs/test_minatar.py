"""MinAtar: equal to the games as they are, ends, empty channels, exact snapshots."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from plasticity_rl import RLDataModule, UserError
from plasticity_rl.data.evaluation import play_episode
from plasticity_rl.envs import make_env
from plasticity_rl.envs.make import render_frame
from plasticity_rl.envs.minatar_options import CHANNELS
from plasticity_rl.envs.snapshots import env_state_dict, load_env_state_dict

HANDLERS = logging.root.handlers[:]
minatar = pytest.importorskip("minatar", reason="needs minatar: pip install --no-deps minatar")
logging.root.handlers[:] = HANDLERS


def play(env: Any, steps: int, seed: int) -> list[Any]:
    """Step with random actions, over ends of games; return all that can be seen of it."""
    seen: list[Any] = []
    now = env.fake_tensordict()
    for action in np.random.RandomState(seed).randint(env.num_actions, size=steps):
        seen.append(render_frame(env, 20, 30).tobytes())
        now = env.step(now.set("action", torch.tensor([action])))["next"]
        seen += [now[name].numpy().tobytes() for name in sorted(now.keys())]
        if now["done"]:
            seen.append(env.reset()["pixels"].numpy().tobytes())
    return seen


@pytest.mark.parametrize("game", CHANNELS)
def test_a_game_is_as_it_is(game):
    """With its sticky actions, ramping difficulty and its smallest set of actions."""
    env = make_env(f"minatar:{game}", seed=4, channels=10)
    plain = minatar.Environment(game)
    plain.seed(4)
    plain.reset()
    actions = plain.minimal_action_set()
    assert (env.num_actions, plain.state_shape()) == (len(actions), [10, 10, CHANNELS[game]])
    plain.reset()
    now, ends = env.reset(), 0
    for number in np.random.RandomState(0).randint(len(actions), size=300):
        assert now["pixels"].dtype == torch.uint8
        own = now["pixels"][: CHANNELS[game]].numpy()
        assert np.array_equal(own, 255 * plain.state().transpose(2, 0, 1))
        assert not now["pixels"][CHANNELS[game] :].any()
        now = env.step(now.set("action", torch.tensor([number])))["next"]
        reward, over = plain.act(actions[number])
        flags = [now[name].item() for name in ("reward", "discount", "done", "terminated", "truncated")]
        assert flags == [reward, float(not over), over, over, False]
        if over:
            ends += 1
            now = env.reset()
            plain.reset()
            plain.last_action = 0  # an episode of ours begins with nothing held
    assert ends or game == "freeway"


@pytest.mark.parametrize("game", CHANNELS)
def test_an_episode_depends_on_nothing_that_was_played_before(game):
    """Its first action may stick: to none, whatever the last one of the episode before was."""
    env = make_env(f"minatar:{game}", seed=1, sticky=0.5, full_actions=True, max_episode_frames=3)

    def hold(action: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda seen: torch.tensor([[action]])

    for seed in range(5):
        ends = set()
        for before in range(6):
            play_episode(env, hold(before), 1000)
            played = play_episode(env, hold(0), seed)
            ends.add((*played.rewards, played.last_observation.numpy().tobytes()))
        assert len(ends) == 1


@pytest.mark.parametrize("game", CHANNELS)
def test_snapshots_go_on_exactly(game):
    original, other = (make_env(f"minatar:{game}", seed=seed, sticky=0.25, full_actions=True) for seed in (1, 2))
    original.reset()
    other.reset()
    for moment in (0, 40, 200):
        play(original, moment, seed=3)
        file = io.BytesIO()
        torch.save(env_state_dict(original), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        expected = play(original, 150, seed=4)
        load_env_state_dict(other, state)
        assert play(other, 150, seed=4) == expected
    load_env_state_dict(original, state)  # back in time
    assert play(original, 150, seed=4) == expected
    with pytest.raises(UserError, match=f"of task minatar:{game}, this"):
        load_env_state_dict(make_env(f"minatar:{'breakout' if game != 'breakout' else 'freeway'}", seed=0), state)


def test_specs_ends_colours_and_the_data_module():
    env = make_env("minatar:space_invaders", seed=0, num_envs=2)
    check_env_specs(env)
    rollout = env.rollout(3)
    assert rollout["pixels"].shape == (2, 3, 6, 10, 10)
    assert (rollout["action"].shape, rollout["action"].dtype) == ((2, 3, 1), torch.int64)
    assert env.set_seed(3) == 5
    data = RLDataModule("minatar:breakout", channels=10, full_actions=True, max_episode_frames=5, action_repeat=2)
    assert (data.obs_shape, data.stacked_frames) == ((10, 10, 10), 1)
    env = data.eval_env("minatar:breakout")
    assert (env.num_actions, env.episode_steps) == (6, 3)
    ended = env.rollout(9)["next"]
    assert ended["truncated"].flatten().tolist() == ended["done"].flatten().tolist() == [False, False, True]
    assert (ended["discount"] == 1).all()
    seen = env.rollout(1)["next", "pixels"][0]
    frame = env.colour_frame()
    assert frame.shape == (10, 10, 3)
    assert np.array_equal((frame > 0).any(axis=2), (seen > 0).any(dim=0).numpy())
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) >= 4  # ground, paddle, ball, bricks


def test_seeds_and_loggers():
    handlers = logging.root.handlers[:]
    first, second = (make_env("minatar:seaquest", seed=7) for _ in range(2))
    assert logging.root.handlers == handlers
    state = np.random.get_state()[1].copy()
    first.reset()
    second.reset()
    assert play(first, 40, 0) == play(second, 40, 0)
    second.set_seed(8)
    assert play(first, 60, 0) != play(second, 60, 0)
    assert np.array_equal(np.random.get_state()[1], state)
