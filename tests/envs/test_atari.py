"""Atari: equal to a slow version written again on the bare emulator, ends, seeds, and exact snapshots."""

from __future__ import annotations

import hashlib
import io
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import check_env_specs

from plasticity_rl import RLDataModule, UserError
from plasticity_rl.data.evaluation import play_episode
from plasticity_rl.envs import make_env
from plasticity_rl.envs.atari_frames import AreaResize, area_weights, brightest, scaled
from plasticity_rl.envs.atari_games import GAMES
from plasticity_rl.envs.make import render_frame
from plasticity_rl.envs.snapshots import env_state_dict, load_env_state_dict

try:
    import ale_py
except ImportError:
    ale_py = None
emulated = pytest.mark.skipif(ale_py is None, reason="needs ale-py: pip install 'plasticity-rl[atari]'")


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_weights_of_an_area_by_hand():
    """Five pixels become three: in thirds of a pixel each new one is five long."""
    assert area_weights(5, 3).tolist() == [[3, 2, 0, 0, 0], [0, 1, 3, 1, 0], [0, 0, 0, 2, 3]]
    assert area_weights(4, 2).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize(("height", "width", "size"), [(210, 160, 84), (210, 160, 42), (250, 160, 84), (7, 5, 3)])
def test_every_pixel_is_the_mean_of_its_area(height, width, size):
    """In fractions, pixel by pixel, for some of the pixels."""
    picture = np.random.RandomState(0).randint(0, 256, (height, width)).astype(np.uint8)
    small = AreaResize(height, width, size)(picture)
    assert small.shape == (size, size)
    assert small.dtype == np.uint8

    def overlap(pixel: int, source: int, target: int) -> Fraction:
        low, high = Fraction(target * source, size), Fraction((target + 1) * source, size)
        return max(min(high, pixel + 1) - max(low, pixel), Fraction(0))

    for row, column in [(0, 0), (1, 2), (size - 1, size - 1), (size // 2, size - 2), (size - 1, 1)]:
        total = Fraction(0)
        for i in range(row * height // size, min((row + 1) * height // size + 1, height)):
            for j in range(column * width // size, min((column + 1) * width // size + 1, width)):
                total += int(picture[i, j]) * overlap(i, height, row) * overlap(j, width, column)
        assert small[row, column] == round(total / (Fraction(height, size) * Fraction(width, size)))


def test_the_sums_are_exact_in_any_order():
    """White stays white, and no order of summation comes to another sum: all are whole numbers of float32."""
    assert (AreaResize(210, 160, 159)(np.full((210, 160), 255, np.uint8)) == 255).all()
    picture = np.random.RandomState(0).randint(0, 256, (210, 160)).astype(np.float32)
    rows, columns = area_weights(210, 83), area_weights(160, 83)
    exact = rows.astype(np.int64) @ picture.astype(np.int64) @ columns.astype(np.int64).T
    assert np.array_equal(rows @ picture @ columns.T, exact)
    assert np.array_equal((rows[:, ::-1] @ picture[::-1]) @ columns.T, exact)


def test_maximum_and_enlargement_by_hand():
    first, second = np.array([[1, 9]], np.uint8), np.array([[5, 2]], np.uint8)
    assert brightest([first]).tolist() == [[1, 9]]
    assert brightest([first, second]).tolist() == [[5, 9]]
    assert first.tolist() == [[1, 9]]
    colours = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert scaled(colours, 2, 4)[..., 0].tolist() == [[0, 0, 3, 3]] * 2


# ---- the environment against a slow version --------------------------------------------------------------------------


class Slow:
    """What the options say, on a bare emulator: every frame is kept, pictures are means of a finer grid."""

    def __init__(self, game: str, seed: int, *, full: bool, sticky: float, repeat: int, size: int, noops: int) -> None:
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(ale_py.roms.get_rom_path(game))
        self.actions = self.ale.getLegalActionSet() if full else self.ale.getMinimalActionSet()
        self.random, self.sticky = np.random.RandomState(seed), sticky
        self.repeat, self.size, self.noops = repeat, size, noops

    def small(self, frames: list[np.ndarray]) -> np.ndarray:
        finer = np.max(frames, axis=0).astype(np.float64)
        for axis, length in enumerate(finer.shape):  # pixels are cut up until whole ones make a new one
            finer = finer.repeat(self.size // math.gcd(length, self.size), axis=axis)
        blocks = finer.reshape(self.size, len(finer) // self.size, self.size, -1)
        return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)[None]

    def reset(self) -> np.ndarray:
        self.ale.reset_game()
        for _ in range(self.random.randint(1, self.noops + 1)):
            self.ale.act(ale_py.Action.NOOP)
        self.held, self.stack = ale_py.Action.NOOP, [self.small([self.ale.getScreenGrayscale()])] * 4
        return np.concatenate(self.stack)

    def step(self, number: int) -> tuple[np.ndarray, float, float, bool]:
        lives, rewards, frames = [self.ale.lives()], [], []
        for _ in range(self.repeat):
            if not (self.sticky and self.random.random_sample() < self.sticky):
                self.held = self.actions[number]
            rewards.append(self.ale.act(self.held))
            lives.append(self.ale.lives())
            frames.append(self.ale.getScreenGrayscale())
            if self.ale.game_over():
                break
        shown = frames[-2:] if len(frames) == self.repeat else frames[-1:]
        self.stack = [*self.stack[1:], self.small(shown)]
        lost = any(after < before for before, after in zip(lives, lives[1:], strict=False))
        return np.concatenate(self.stack), float(sum(rewards)), float(not lost), self.ale.game_over()


@emulated
@pytest.mark.parametrize(
    ("game", "steps", "full", "sticky", "repeat", "size"),
    [
        ("breakout", 300, False, 0.0, 4, 42),  # more than one game
        ("ms_pacman", 40, True, 0.25, 4, 84),
        ("seaquest", 60, True, 0.25, 5, 42),
        ("pong", 30, False, 0.0, 1, 42),
    ],
)
def test_pixels_scores_and_ends_equal_the_slow_version(game, steps, full, sticky, repeat, size):
    options = {"full_actions": full, "sticky": sticky, "action_repeat": repeat, "image_size": size, "noops": 20}
    env = make_env(f"atari:{game}", seed=3, **options)
    slow = Slow(game, 3, full=full, sticky=sticky, repeat=repeat, size=size, noops=20)
    actions = np.random.RandomState(0).randint(len(slow.actions), size=steps)
    now = env.reset()
    assert np.array_equal(now["pixels"], slow.reset())
    assert now["discount"].item() == 1
    seen = {"ends": 0, "lost": 0, "scores": 0.0}
    for action in actions:
        now = env.step(now.set("action", torch.tensor([action])))["next"]
        pixels, reward, discount, over = slow.step(action)
        assert np.array_equal(now["pixels"], pixels)
        flags = [now[name].item() for name in ("reward", "discount", "done", "terminated", "truncated")]
        assert flags == [reward, 0.0 if over else discount, over, over, False]
        seen["lost"] += discount == 0
        seen["scores"] += abs(reward)
        if over:
            seen["ends"] += 1
            now = env.reset()
            assert np.array_equal(now["pixels"], slow.reset())
    if game == "breakout":
        assert seen["ends"] >= 1
        assert seen["lost"] >= 5
        assert seen["scores"] > 0


@emulated
@pytest.mark.parametrize("life_loss", [True, False])
def test_a_lost_life_ends_no_episode(life_loss):
    env = make_env("atari:breakout", seed=0, life_loss=life_loss, image_size=42)
    torch.manual_seed(0)
    rollout = env.rollout(2000)["next"]
    assert rollout["terminated"].sum() == 1
    assert rollout["terminated"][-1]
    assert (rollout["discount"] == 0).sum() == (5 if life_loss else 1)  # five lives


@emulated
def test_the_time_limit_truncates_in_the_middle_of_a_skip():
    env = make_env("atari:pong", seed=5, max_episode_frames=10, image_size=42)
    assert env.base_env.episode_steps == 3
    for _ in range(2):
        rollout = env.rollout(9)["next"]
        assert rollout["truncated"].flatten().tolist() == [False, False, True]
        assert rollout["done"].flatten().tolist() == [False, False, True]
        assert not rollout["terminated"].any()
        assert (rollout["discount"] == 1).all()
        frames = env.base_env._emulator._ale.getEpisodeFrameNumber()
        assert 11 <= frames <= 40  # 1 to 30 no-ops, and 10
    with pytest.raises(RuntimeError, match="call reset"):
        env.rand_step(env.fake_tensordict())


@emulated
def test_seeds_decide_no_ops_and_nothing_else_is_touched():
    env, other = (make_env("atari:breakout", seed=seed, image_size=42) for seed in (1, 2))
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()

    def starts(env: TransformedEnv) -> list[int]:
        numbers = []
        for _ in range(6):
            env.reset()
            numbers.append(env.base_env._emulator._ale.getEpisodeFrameNumber())
        return numbers

    first = starts(env)
    assert first == np.random.RandomState(1).randint(1, 31, 6).tolist()
    assert starts(other) != first
    env.step(env.fake_tensordict().set("action", torch.tensor([1])))
    frames = env.base_env._emulator._ale.getEpisodeFrameNumber()
    env.set_seed(1)
    assert env.base_env._emulator._ale.getEpisodeFrameNumber() == frames
    assert starts(env) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], state)


@emulated
def test_specs_several_environments_and_the_data_module():
    env = make_env("atari:freeway", seed=0, num_envs=2, image_size=42, full_actions=True)
    check_env_specs(env)
    rollout = env.rollout(2)
    assert rollout["pixels"].shape == (2, 2, 4, 42, 42)
    assert (rollout["action"].shape, rollout["action"].dtype) == ((2, 2, 1), torch.int64)
    assert set(rollout["next"].keys()) == {"pixels", "reward", "discount", "done", "terminated", "truncated"}
    assert (env.task_name, env.action_repeat, env.action_spec.space.n) == ("atari:freeway", 4, 18)
    state = env_state_dict(env)
    env.close()
    data = RLDataModule("atari:freeway", image_size=42)
    assert (data.obs_shape, data.action_repeat, data.stacked_frames) == ((4, 42, 42), 4, 4)
    game = data.eval_env("atari:freeway")
    assert game.base_env.num_actions == 3
    for action, says in (
        (torch.zeros(1), "3 numbered actions, but was given torch.float32"),
        ([3], "from 0 to 2 in ata"),
    ):
        now = game.reset()
        with pytest.raises(UserError, match=says):
            game.step(now.set("action", torch.as_tensor(action)))
    with pytest.raises(UserError, match=r"2 environments|other num_envs"):
        load_env_state_dict(game, state)


@emulated
def test_films_are_in_colour(monkeypatch):
    env = make_env("atari:pong", seed=0, image_size=42, max_episode_frames=12)
    episode = play_episode(env, lambda pixels: torch.zeros(1, 1, dtype=torch.int64), 0, keep_frames=True)
    assert [tuple(frame.shape) for frame in episode.frames] == [(3, 210, 160)] * 4
    screen = env.base_env._emulator._ale.getScreenRGB()
    assert np.array_equal(episode.frames[-1].permute(1, 2, 0), screen)
    assert len(np.unique(screen.reshape(-1, 3), axis=0)) > 2
    assert np.array_equal(render_frame(env, 210, 160), screen)
    assert render_frame(env, 84, 84).shape == (84, 84, 3)
    monkeypatch.setattr("plasticity_rl.data.evaluation.MAX_FILM_STEPS", 1)
    episode = play_episode(env, lambda pixels: torch.zeros(1, 1, dtype=torch.int64), 0, keep_frames=True)
    assert (episode.env_steps, len(episode.frames)) == (3, 2)


@emulated
def test_the_games_are_those_that_there_are():
    """Others end the process."""
    plays = ale_py.ALEInterface.isSupportedROM
    games = [game for game in ale_py.roms.get_all_rom_ids() if plays(ale_py.roms.get_rom_path(game)) is not None]
    assert sorted(GAMES) == sorted(games)
    assert list(GAMES) == sorted(GAMES)


# ---- snapshots -------------------------------------------------------------------------------------------------------

OPTIONS = {"image_size": 42, "sticky": 0.25, "full_actions": True}


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def play(env: TransformedEnv, steps: int, seed: int) -> list[Any]:
    """Step with random actions, over ends of games; return all that can be seen of it."""
    seen: list[Any] = []
    now, game = env.fake_tensordict(), env.base_env
    for action in np.random.RandomState(seed).randint(game.num_actions, size=steps):
        seen.append(render_frame(env, 210, 160).tobytes())
        now = env.step(now.set("action", torch.tensor([action])))["next"]
        seen += [now[name].numpy().tobytes() for name in sorted(now.keys())]
        seen += [game._emulator.lives, game._emulator._ale.getRAM().tobytes()]
        if now["done"]:
            now = env.reset()
            seen.append(now["pixels"].numpy().tobytes())
    return seen


@emulated
@pytest.mark.parametrize("game", ["breakout", "qbert", "seaquest", "tetris"])
def test_snapshots_go_on_exactly(game):
    """At a start, in a game, and in the third: in an emulator just built, and in one that has played something else."""
    options = {**OPTIONS, "max_episode_frames": 120}
    original = make_env(f"atari:{game}", seed=1, **options)
    fresh, used = (make_env(f"atari:{game}", seed=seed, **options) for seed in (98, 99))
    used.reset()
    play(used, 13, seed=2)
    original.reset()
    for moment, other in ((0, fresh), (17, used), (58, fresh)):
        play(original, moment, seed=3)
        state = through_a_file(env_state_dict(original))
        expected = play(original, 40, seed=4)
        load_env_state_dict(other, state)
        assert play(other, 40, seed=4) == expected
        load_env_state_dict(original, state)  # back in time
    assert play(original, 40, seed=4) == expected
    file = io.BytesIO()
    torch.save(state, file)
    assert len(file.getvalue()) < 60_000


@emulated
def test_a_snapshot_before_the_first_reset_and_one_of_another_game():
    env, other = (make_env("atari:pong", seed=seed, **OPTIONS) for seed in (1, 2))
    state = env_state_dict(env)
    other.rollout(3)
    load_env_state_dict(other, state)
    assert torch.equal(env.reset()["pixels"], other.reset()["pixels"])
    with pytest.raises(UserError, match=r"of task atari:pong, this environment is of task atari:tetris"):
        load_env_state_dict(make_env("atari:tetris", seed=0, **OPTIONS), state)


FRESH = """
import sys
import torch
from plasticity_rl import RLDataModule, make_env
sys.path.insert(0, sys.argv[2])
from test_atari import OPTIONS, load_env_state_dict, play
env = make_env("atari:qbert", seed=5, **OPTIONS)
load_env_state_dict(env, torch.load(sys.argv[1], weights_only=True))
seen = play(env, 30, seed=6)
import hashlib
print(hashlib.sha256(repr(seen).encode()).hexdigest())
print(sorted(name for name in sys.modules if name.split(".")[0] in ("dm_control", "OpenGL", "glfw", "mujoco")))
"""


@emulated
def test_another_process_goes_on_without_mujoco_and_opengl(tmp_path):
    env = make_env("atari:qbert", seed=1, **OPTIONS)
    env.reset()
    play(env, 21, seed=7)
    torch.save(env_state_dict(env), tmp_path / "state.pt")
    expected = hashlib.sha256(repr(play(env, 30, seed=6)).encode()).hexdigest()
    command = [sys.executable, "-W", "ignore", "-c", FRESH, str(tmp_path / "state.pt"), str(Path(__file__).parent)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    digest, modules = run.stdout.splitlines()
    assert digest == expected
    assert modules in ("[]", "['mujoco.mjx']")  # the note that this is not installed
    assert run.stderr == ""  # ale-py greets
