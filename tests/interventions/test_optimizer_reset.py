"""OptimizerReset: which part of whose state, and no weight."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from run_state import differences, run_state
from tiny_agent import TinyAgent

from callbacks import OptimizerReset
from plasticity_rl import UserError, make_trainer
from plasticity_rl.run.video import EvalVideo


def slots(agent) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for name, parameter in agent.named_parameters():
        for optimizer in agent.trainer.optimizers:
            if parameter in optimizer.state:
                found[name] = {key: value.clone() for key, value in optimizer.state[parameter].items()}
    return found


class Around(OptimizerReset):
    """Keeps weights and optimizer state before and after each event."""

    def act(self, agent) -> str:
        before = {name: p.detach().clone() for name, p in agent.named_parameters()}, slots(agent)
        text = super().act(agent)
        after = {name: p.detach().clone() for name, p in agent.named_parameters()}, slots(agent)
        self.seen = [*getattr(self, "seen", []), (agent.env_frames, before, after)]
        return text


@pytest.mark.parametrize("what", ["both", "moments", "step"])
@pytest.mark.parametrize("modules", [["encoder", "actor", "critic"], ["critic.Q1"], ["actor"]])
def test_the_named_part_of_the_named_modules_and_nothing_else(modules, what, tmp_path):
    reset = Around(modules=modules, what=what, at_frames=[100])
    fit_tiny(tmp_path, callbacks=[reset])
    ((frame, (weights, before), (weights_after, after)),) = reset.seen
    assert frame == 104
    assert all(torch.equal(weights_after[name], value) for name, value in weights.items())
    for name, state in before.items():
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key, value in state.items():
            cleared = what == "both" or (key == "step") == (what == "step")
            if name.startswith(tuple(f"{module}." for module in modules)) and cleared:
                assert not after[name][key].any(), (name, key)
            else:
                assert torch.equal(after[name][key], value), (name, key)
    assert sum(bool(state["exp_avg"].any()) for state in before.values()) > 10, "there was something to clear"


def test_it_changes_what_comes_after(tmp_path):
    agents = [fit_tiny(tmp_path / "none")]
    for what in ("both", "moments", "step"):
        agents.append(fit_tiny(tmp_path / what, callbacks=[OptimizerReset(what=what, at_frames=[100])]))
    weights = [agent.critic.Q1[0].weight for agent in agents]
    assert all(torch.isfinite(weight).all() for weight in weights)
    assert not any(torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_schedule_and_log(tmp_path):
    around = Around(every_n_frames=60)
    agent = fit_tiny(tmp_path, callbacks=[around, OptimizerReset(modules=["actor"], at_frames=[100])])
    assert [frame for frame, *_ in around.seen] == [64, 124, 184]
    assert agent.latest["intervention/optimizer_reset"] == 1.0
    assert all(math.isfinite(agent.latest[tag]) for tag in ("loss/critic", "loss/actor"))


def test_sgd_momentum_of_another_agent(tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=150, seed=1)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    reset = Around(modules=["policy"], at_frames=[100])
    trainer = make_trainer(tmp_path, callbacks=[reset, EvalVideo(every_n_evals=0)], **TINY_TRAINER)
    trainer.fit(agent, data)
    ((_, (_, before), (_, after)),) = reset.seen
    assert any(state["momentum_buffer"].any() for name, state in before.items() if name.startswith("policy."))
    for name, state in after.items():
        for key, value in state.items():
            wanted = torch.zeros_like(value) if name.startswith("policy.") else before[name][key]
            assert torch.equal(value, wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"what": "all", "at_frames": [1]},
            r"^OptimizerReset.what='all' must be one of \['both', 'moments', 'step'\]$",
        ),
        ({"modules": ["critics"], "at_frames": [1]}, "no module 'critics' in DrQV2; there are .* Did you mean critic"),
        ({"every_n_frames": 0}, "^OptimizerReset.every_n_frames / at_frames: the period is 0"),
        ({"every_n_frames": -5}, "the period is -5, but must be a whole number > 0"),
        ({}, "no schedule given"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        fit_tiny(tmp_path, callbacks=[OptimizerReset(**arguments)])
    assert "\n" not in str(error.value)


class CopiesAtIntervals(TinyAgent):
    """Says that it copied its target after every fifth update."""

    copies_target = True

    def update(self, batch):
        metrics = super().update(batch)
        if (self.num_updates + 1) % 5 == 0:
            self.dispatch("on_target_copy")
        return metrics


def copies(data, **options):
    return CopiesAtIntervals(data.obs_shape, data.action_dim, **options)


class Counts(OptimizerReset):
    """Keeps the number of updates before each event."""

    def act(self, agent) -> str:
        self.acted_after = [*getattr(self, "acted_after", []), agent.num_updates]
        return super().act(agent)


def test_it_acts_after_every_copy_of_the_target(tmp_path):
    reset = Counts(modules=["value"], at_target_copies=True)
    agent = fit_tiny(tmp_path, make_agent=copies, callbacks=[reset], max_frames=110)
    assert agent.num_updates == 17  # 35 env steps behind the seed phase, at half an update each
    assert reset.acted_after == [5, 10, 15]
    (value, policy) = (slots(agent)[f"{name}.2.weight"] for name in ("value", "policy"))
    assert value["step"] == 2  # the updates 16 and 17
    assert "momentum_buffer" in policy


def test_copies_and_a_schedule_may_be_given_together(tmp_path):
    reset = Counts(modules=["value"], at_target_copies=True, at_frames=[60])
    fit_tiny(tmp_path, make_agent=copies, callbacks=[reset], max_frames=110)
    assert reset.acted_after == [5, 10, 15]  # frame 60 is update 5


@pytest.mark.parametrize("half", [60, 64])
def test_a_copy_that_the_checkpoint_follows_is_not_forgotten(half, tmp_path):
    """The fifth update is that of frame 60, whose checkpoint is written before the sixth: the reset is still due."""
    make = lambda: OptimizerReset(modules=["value"], at_target_copies=True)  # noqa: E731
    options = {"make_agent": copies, "data_options": {"eval_every_n_frames": 4 if half == 64 else 60}}
    whole = fit_tiny(tmp_path / "whole", callbacks=[make()], max_frames=120, **options)
    fit_tiny(tmp_path / "cut", callbacks=[make()], max_frames=half, **options)
    again = fit_tiny(tmp_path / "cut", callbacks=[make()], max_frames=120, ckpt_path="last", **options)
    assert whole.event_counts == again.event_counts == {"optimizer_reset": 3}
    assert differences(run_state(whole), run_state(again)) == []


def test_an_agent_that_never_copies_its_target_is_refused(tmp_path):
    with pytest.raises(UserError, match="at_target_copies=True: this DrQV2 never copies .* give every_n_frames"):
        fit_tiny(tmp_path, callbacks=[OptimizerReset(at_target_copies=True)])


def test_without_the_option_its_state_is_found_under_the_key_that_it_had():
    assert "at_target_copies" not in OptimizerReset(at_frames=[100]).state_key
    assert "at_target_copies" in OptimizerReset(at_target_copies=True).state_key
