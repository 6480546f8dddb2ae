"""HareAndTortoise: the average step by step, when it is given to the agent, and where it starts over."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from tiny_agent import TinyAgent

from callbacks import HareAndTortoise, Reset
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo


class Look(RLCallback):
    """Follows the average by itself, and compares at every update.

    Args:
        pair: What is looked at.
    """

    def __init__(self, pair: HareAndTortoise) -> None:
        self.pair, self.act = pair, pair.on_update_start
        pair.on_update_start = self.watch
        self.acted: list[int] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self.slow = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_weights_jumped(self, agent, jump) -> None:
        ids = {id(jump.live[name]) for name in jump.renewed}
        self.slow |= {name: p.detach().clone() for name, p in agent.named_parameters() if id(p) in ids}

    def watch(self, agent) -> None:
        before = {name: p.detach().clone() for name, p in agent.named_parameters()}
        if agent.num_updates:
            for name, value in before.items():
                self.slow[name] = self.pair.decay * self.slow[name] + (1 - self.pair.decay) * value
        self.act(agent)
        due = agent.num_updates > 0 and agent.num_updates % self.pair.every_n_updates == 0
        for name, parameter in agent.named_parameters():
            if due and name.split(".")[0] in self.pair.modules:
                torch.testing.assert_close(parameter, self.slow[name], rtol=1e-5, atol=1e-6)
                assert parameter.grad_fn is None
            else:
                assert torch.equal(parameter, before[name]), name
        if due:
            moved = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
            assert any(name.endswith("weight") for name in moved)
            self.acted.append(agent.num_updates)


@pytest.mark.parametrize("modules", [["encoder", "actor", "critic"], ["critic"]])
@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_the_average_and_its_moments(modules, decay, tmp_path):
    pair = HareAndTortoise(modules=modules, decay=decay, every_n_updates=7)
    if decay == 0.0:  # the average is the weights: an event changes nothing
        agent, without = fit_tiny(tmp_path / "with", callbacks=[pair]), fit_tiny(tmp_path / "without")
        assert all(torch.equal(p, q) for p, q in zip(agent.parameters(), without.parameters(), strict=True))
        return
    look = Look(pair)
    agent = fit_tiny(tmp_path, callbacks=[pair, look])
    assert look.acted == list(range(7, agent.num_updates, 7))
    assert len(look.acted) >= 4
    assert agent.latest["intervention/hare_and_tortoise"] == 1.0
    assert all(math.isfinite(agent.latest[tag]) for tag in ("loss/critic", "loss/actor"))


def test_optimizer_state_and_target_stay(tmp_path):
    seen = []

    class Around(HareAndTortoise):
        def act(self, agent) -> str:
            def rest() -> list[torch.Tensor]:
                slots = [v for o in agent.trainer.optimizers for state in o.state.values() for v in state.values()]
                return [value.detach().clone() for value in (*slots, *agent.critic_target.parameters())]

            before = rest()
            text = super().act(agent)
            seen.append(all(torch.equal(x, y) for x, y in zip(before, rest(), strict=True)))
            return text

    fit_tiny(tmp_path, callbacks=[Around(decay=0.9, every_n_updates=10)])
    assert seen
    assert all(seen)


def test_after_a_reset_the_average_starts_over(tmp_path):
    pair = HareAndTortoise(decay=0.99, every_n_updates=7)
    look = Look(pair)
    fit_tiny(tmp_path, callbacks=[pair, look, Reset(modules=["critic"], at_frames=[100])])
    assert len(look.acted) >= 4


def test_average_is_a_copy_and_is_saved(tmp_path):
    pair = HareAndTortoise()
    agent = fit_tiny(tmp_path, callbacks=[pair])
    state = pair.state_dict()
    pointers = {p.data_ptr() for p in agent.parameters()}
    assert state["slow"]
    assert not any(value.data_ptr() in pointers or value.requires_grad for value in state["slow"].values())
    restored = HareAndTortoise()
    restored.load_state_dict(state)
    assert restored.state_dict() == state


def test_added_on_a_resume_the_average_starts_at_the_weights_of_the_checkpoint(tmp_path):
    class Start(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            self.equal = [torch.equal(slow, pair._fast[key]) for key, slow in pair._slow.items()]

    fit_tiny(tmp_path, max_frames=100)
    pair, start = HareAndTortoise(), Start()
    fit_tiny(tmp_path, callbacks=[pair, start], ckpt_path="last")
    assert len(start.equal) > 10
    assert all(start.equal)


def test_another_agent(tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=120, seed=1)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    pair = HareAndTortoise(modules=["torso", "policy"], decay=0.8, every_n_updates=3)
    look = Look(pair)
    make_trainer(tmp_path, callbacks=[pair, look, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(agent, data)
    assert len(look.acted) >= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"^HareAndTortoise.decay=1.0 must be in \[0, 1\)"),
        ({"decay": -0.1}, r"^HareAndTortoise.decay=-0.1 must be in \[0, 1\)"),
        ({"every_n_updates": 0}, "^HareAndTortoise.every_n_updates: the period is 0"),
        ({"modules": ["critics"]}, "no module 'critics' in DrQV2; there are .* Did you mean critic"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        fit_tiny(tmp_path, callbacks=[HareAndTortoise(**arguments)])
    assert "\n" not in str(error.value)
