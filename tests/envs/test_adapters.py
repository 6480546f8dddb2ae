"""Gymnasium and TorchRL environments by name: what they show, how episodes end, and that they go on exactly."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from helpers import fit_tiny, tiny_sac
from tensordict import TensorDict
from tiny_env import TinyPixelEnv
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

from plasticity_rl import RLDataModule, UserError, make_env
from plasticity_rl.envs.fitted import fitted
from plasticity_rl.envs.snapshots import env_state_dict, load_env_state_dict, why_not_exact
from plasticity_rl.replay.buffer import FrameReplay

gym = pytest.importorskip("gymnasium")


class Line(gym.Env):
    """Goes right by the action: at 3 it terminates, at step 5 the id's time limit cuts it."""

    observation_space = gym.spaces.Dict({"a": gym.spaces.Box(-9, 9, (2, 1), np.float64), "b": gym.spaces.Discrete(2)})
    action_space = gym.spaces.Box(-4.0, 2.0, (1,), np.float32)

    def __init__(self, kept=None, space=None):
        self.kept, self.position = kept, 0.0
        self.action_space = space or self.action_space

    def _shown(self):
        return {"a": np.full((2, 1), self.position), "b": 1}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = float(self.np_random.uniform(0, 0.5))
        return self._shown(), {}

    def step(self, action):
        self.position += float(action[0])
        return self._shown(), float(action[0]), self.position >= 3, False, {}


FREE = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
gym.register("OwnLine-v0", Line, max_episode_steps=5)
gym.register("OwnWorld-v0", Line, max_episode_steps=5, kwargs={"kept": object()})
gym.register("OwnFree-v0", Line, kwargs={"space": FREE})


def step(env, td, action):
    return env.step(td.set("action", torch.tensor([action])))["next"]


def test_actions_rewards_ends_and_seeds_by_hand():
    env = make_env("gym:OwnLine-v0", seed=1, observation="state", action_repeat=2)
    assert (env.episode_steps, env.observation_spec["state"].shape) == (3, (4,))
    td = env.reset()
    start = float(td["state"][0])
    assert td["state"].tolist() == [start, start, 0.0, 1.0]  # "a" flattened, "b" one-hot
    after = step(env, td, 0.0)  # the middle of [-4, 2] is -1, twice
    assert (float(after["reward"]), float(after["state"][0])) == (-2.0, pytest.approx(start - 2))
    assert (float(after["discount"]), bool(after["done"])) == (1.0, False)
    step(env, td, 0.0)
    after = step(env, td, 0.0)  # fifth step of five, half of the repeat
    assert [bool(after[name]) for name in ("done", "truncated", "terminated")] == [True, True, False]
    assert (float(after["discount"]), float(after["reward"])) == (1.0, -1.0)
    env.set_seed(1)
    assert float(env.reset()["state"][0]) == start
    assert float(env.reset()["state"][0]) != start
    after = step(env, td, 1.0)  # 2 + 2: over 3
    assert [bool(after[name]) for name in ("done", "truncated", "terminated")] == [True, False, True]
    assert float(after["discount"]) == 0.0


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("gym:CartPole-v1", r"has the actions Discrete\(2\); agents here choose continuous ones.*gym:Pendulum-v1"),
        ("gym:OwnFree-v0", r"has actions without bounds"),
        ("gym:Pendulun-v1", r"is no environment of Gymnasium \(.*Pendulum.*write gym:<id>"),
        ("gym:nowhere:Reach-v0", r"is no environment .*'nowhere'.* registers\. A file nowhere\.py of your own is"),
        ("gym:numpy:Reach-v0", r"is no environment of Gymnasium \(.* for one that a module registers$"),
        ("torchrl:nothing.here", r"is not found \(ModuleNotFoundError: No module named 'nothing'\).* nothing\.py of"),
        ("torchrl:math.pi", r"leads to a float"),
        ("torchrl:builtins.dict", r"returned a dict, not a TorchRL environment"),
    ],
)
def test_what_no_agent_can_act_in_is_refused_by_name(task, says):
    with pytest.raises(UserError, match=f"^task='?{task}'? {says}"):
        make_env(task, seed=0, observation="state")


def rolled(env, td, generator, steps):
    shown = []
    for _ in range(steps):
        action = torch.rand(env.action_spec.shape, generator=generator) * 2 - 1
        td, following = env.step_and_maybe_reset(td.set("action", action))
        shown.append(torch.cat([td["next", name].flatten().float() for name in ("state", "reward", "discount")]))
        td = following
    return td, torch.stack(shown)


@pytest.mark.parametrize("task", ["Pendulum-v1", "OwnLine-v0", "HalfCheetah-v5", "Humanoid-v5"])
def test_a_snapshot_in_mid_episode_goes_on_bit_for_bit(task):
    """Humanoid's reward reads what MuJoCo computed for the step before."""
    if task.endswith("-v5"):
        pytest.importorskip("imageio")
    env, other = (make_env(f"gym:{task}", seed=seed, observation="state") for seed in (3, 9))
    generator = torch.Generator().manual_seed(0)
    td, _ = rolled(env, env.reset(), generator, 23)
    file = io.BytesIO()
    torch.save({"env": env_state_dict(env), "td": td.to_dict(), "generator": generator.get_state()}, file)
    _, expected = rolled(env, td, generator, 250)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.reset()
    load_env_state_dict(other, saved["env"])
    generator.set_state(saved["generator"])
    assert torch.equal(rolled(other, TensorDict(saved["td"], batch_size=[]), generator, 250)[1], expected)


CUT = FrameReplay.cut_episodes
GYM = {"env": make_env, "observation": "state", "action_repeat": 1}


def test_a_resumed_run_equals_the_one_that_was_not_stopped(tmp_path):
    options = {"data_options": {**GYM, "task": "gym:Pendulum-v1"}, "make_agent": tiny_sac}
    whole = fit_tiny(tmp_path / "whole", max_frames=400, **options)
    fit_tiny(tmp_path / "run", max_frames=300, **options)
    resumed = fit_tiny(tmp_path / "run", max_frames=400, ckpt_path="last", **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert whole.eval_returns == resumed.eval_returns


def test_what_cannot_be_saved_runs_only_if_that_is_allowed_and_says_so(tmp_path, capsys, monkeypatch):
    cut = []
    monkeypatch.setattr(FrameReplay, "cut_episodes", lambda replay, shown: cut.append(shown) or CUT(replay, shown))
    data = {**GYM, "task": "gym:OwnWorld-v0", "image_size": 84}
    options = {"data_options": data, "make_agent": tiny_sac}
    with pytest.raises(UserError, match=r"Line\.kept is a builtins\.object, .*run with RLDataModule\(exact_resume="):
        fit_tiny(tmp_path / "refused", max_frames=100, **options)
    data["exact_resume"] = False
    fit_tiny(tmp_path / "run", max_frames=100, **options)
    assert "not exact if resumed: the environments cannot be saved (Line.kept" in capsys.readouterr().err
    agent = fit_tiny(tmp_path / "run", max_frames=200, ckpt_path="last", **options)
    assert "not exact: the environments could not be saved, so that this start began" in capsys.readouterr().err
    assert (tmp_path / "run" / "starts.yaml").read_text().count("not_exact: ") == 2
    assert agent.env_frames == 200
    assert [tuple(shown.shape) for shown in cut] == [(4,)]  # what the last step of the first start led to


def test_environments_of_torchrl_are_fitted_as_far_as_that_is_safe():
    class Other(EnvBase):
        def __init__(self):
            super().__init__()
            self.observation_spec = Composite(observation=Unbounded((2,), dtype=torch.float64))
            self.action_spec = Bounded(-2, 2, (1,), dtype=torch.float32)
            self.reward_spec = Unbounded((1,), dtype=torch.float32)

        def _reset(self, td=None, **ignored):
            return TensorDict({"observation": torch.zeros(2, dtype=torch.float64)}, [])

        def _step(self, td):
            self.acted = float(td["action"])
            end = torch.ones(1, dtype=torch.bool)
            shown = {"observation": torch.ones(2, dtype=torch.float64), "reward": torch.ones(1)}
            return TensorDict({**shown, "done": end, "terminated": end}, [])

        def _set_seed(self, seed):
            """Draws nothing."""

    env = fitted(Other(), "state")
    td = env.reset()
    assert (td["state"].dtype, td["discount"].tolist()) == (torch.float32, [1.0])
    after = step(env, td, 0.5)
    assert (env.base_env.acted, after["state"].tolist(), after["discount"].tolist()) == (1.0, [1.0, 1.0], [0.0])
    assert RLDataModule("torchrl:tiny_env.TinyPixelEnv", observation="state", num_eval_episodes=1).obs_shape == (2,)
    assert "Other has no simulator_state()" in why_not_exact(env)
    assert why_not_exact(TinyPixelEnv()) == ""
