"""``data.final_eval_episodes``: one more evaluation at the end, which nothing else of the run notices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import fit_tiny, tiny_agent, tiny_data, weights_hash

from plasticity_rl import UserError
from plasticity_rl.agents.hooks import RLCallback
from plasticity_rl.data.evaluation import play_episode
from plasticity_rl.rng import derive_seed

TAGS = ("final/return", "final/return_std", "final/episode_steps")


class Recorder(RLCallback):
    """Keeps what is logged with its frame, and the number of episodes of every evaluation."""

    def setup(self, trainer, pl_module, stage):
        self.logged: list[tuple[int, str, float]] = []
        self.evaluations: list[int] = []
        log = pl_module.log_scalars

        def kept(scalars: Any) -> None:
            self.logged += [(pl_module.env_frames, tag, float(value)) for tag, value in scalars.items()]
            log(scalars)

        pl_module.log_scalars = kept

    def on_evaluation(self, agent, episodes):
        self.evaluations.append(len(episodes))

    def final(self) -> list[tuple[int, str, float]]:
        return [one for one in self.logged if one[1] in TAGS]


def fit(folder, **data) -> tuple[Any, Recorder]:
    recorder = Recorder()
    options = {"ckpt_path": data.pop("ckpt_path", None), "max_frames": data.pop("max_frames", 200)}
    return fit_tiny(folder, callbacks=[recorder], data_options=data, **options), recorder


def test_nothing_by_default(tmp_path):
    _, recorder = fit(tmp_path)
    assert recorder.final() == []


def test_it_is_played_once_at_the_end(tmp_path):
    """Its episodes are those of the evaluations, and more: by hand with the trained weights, 20 env steps each."""
    agent, recorder = fit(tmp_path, final_eval_episodes=7, num_eval_episodes=2)
    data = agent.data
    seeds = [derive_seed(data.seed, f"eval/{episode}") % 2**32 for episode in range(7)]
    env = data.eval_env("tiny")
    returns = [play_episode(env, lambda obs: agent.act(obs, explore=False), seed).episode_return for seed in seeds]
    returns = torch.tensor(returns, dtype=torch.float64)
    assert [(frame, tag) for frame, tag, _ in recorder.final()] == [(200, tag) for tag in TAGS]
    values = [value for _, _, value in recorder.final()]
    assert values == pytest.approx([float(returns.mean()), float(returns.std(correction=0)), 20.0])
    assert recorder.evaluations == [2, 2, 2], "frames 0, 100, 200; callbacks are not told of the last one"
    assert float(returns[:2].mean()) == pytest.approx(agent.eval_returns[-1][1])


def test_the_run_is_the_same_with_it(tmp_path):
    without, _ = fit(tmp_path / "without")
    agent, recorder = fit(tmp_path / "with", final_eval_episodes=3)
    assert weights_hash(agent) == weights_hash(without)
    assert agent.eval_returns == without.eval_returns
    assert {n: s.tolist() for n, s in agent.rng.state_dict().items()} == {
        n: s.tolist() for n, s in without.rng.state_dict().items()
    }
    assert len(recorder.final()) == 3


def test_the_end_may_be_reached_by_a_resumed_run(tmp_path):
    """Stopped at 100 frames, where it is evaluated for the first time, it goes on as if nothing had been there."""
    whole, once = fit(tmp_path / "whole", final_eval_episodes=3)
    _, first = fit(tmp_path / "parts", final_eval_episodes=3, max_frames=100)
    agent, second = fit(tmp_path / "parts", final_eval_episodes=3, ckpt_path="last")
    assert [frame for frame, _, _ in first.final()] == [100] * 3
    assert second.final() == once.final()
    assert weights_hash(agent) == weights_hash(whole)


def test_a_finished_run_is_not_evaluated_again(tmp_path):
    fit(tmp_path, final_eval_episodes=3)
    _, again = fit(tmp_path, final_eval_episodes=3, ckpt_path="last")
    assert again.final() == []


def test_the_agent_is_told_the_number_of_every_evaluation_episode(tmp_path):
    told: list[int] = []

    def agent(data, **options):
        made = tiny_agent(data, **options)
        made.begin_evaluation_episode = told.append
        return made

    fit_tiny(
        tmp_path, max_frames=100, data_options={"final_eval_episodes": 3, "num_eval_episodes": 2}, make_agent=agent
    )
    assert told == [0, 1] * 2 + [0, 1, 2]


@pytest.mark.parametrize("value", [-1, 1.5, 10_001])
def test_values_that_are_refused(value):
    with pytest.raises(UserError, match="final_eval_episodes"):
        tiny_data(final_eval_episodes=value)
