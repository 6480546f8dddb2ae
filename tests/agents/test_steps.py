"""Backward passes and steps past Lightning give the bits of those through it, and are taken only where nobody minds."""

from __future__ import annotations

import copy
import pickle

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_AGENT, TINY_DISCRETE, TINY_TRAINER, fit_tiny, tiny_data, tiny_dqn, weights_hash
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from run_state import differences, run_state

from plasticity_rl import DrQV2, make_trainer
from plasticity_rl.agents.steps import DirectSteps, LightningSteps, Steps
from plasticity_rl.callback import RLCallback


class CountsBackwards(pl.Callback):
    """Somebody else's callback, that must be called and has no say in any number."""

    def __init__(self) -> None:
        self.backwards = self.steps = 0

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.backwards += 1

    def on_before_optimizer_step(self, trainer, pl_module, optimizer: torch.optim.Optimizer) -> None:
        self.steps += 1


@pytest.mark.filterwarnings("ignore:trainer.precision=bf16-mixed. this CPU has no instructions")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_ways_end_with_the_same_bits(precision, tmp_path):
    listener, options = CountsBackwards(), {"precision": precision}
    direct = fit_tiny(tmp_path / "direct", trainer_options=options)
    through = fit_tiny(tmp_path / "through", callbacks=[listener], trainer_options=options)
    assert (type(direct._steps), type(through._steps)) == (DirectSteps, LightningSteps)
    assert differences(run_state(direct), run_state(through)) == []  # Lightning's progress in last.ckpt included
    assert direct.num_updates == 40  # (200 - 40) frames / 2 frames per step * 0.5
    assert direct.trainer.global_step == through.trainer.global_step == 3 * 40
    assert (listener.backwards, listener.steps) == (2 * 40, 3 * 40)


class Norms(RLCallback):
    """Keeps the norm of the gradient of every update."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_update_end(self, agent, batch, metrics) -> None:
        gradients = [p.grad.norm() for p in (*agent.encoder.parameters(), *agent.critic.parameters())]
        self.seen.append(float(torch.stack(gradients).norm()))


@pytest.mark.parametrize("others", [[], [CountsBackwards()]], ids=["direct", "through"])
def test_both_ways_clip_the_gradient(others, tmp_path):
    norms, options = Norms(), {"agent_options": {"max_grad_norm": 1e-3}, "data_options": TINY_DISCRETE}
    agent = fit_tiny(tmp_path, callbacks=[norms, *others], make_agent=tiny_dqn, max_frames=60, **options)
    assert type(agent._steps) is (LightningSteps if others else DirectSteps)
    assert norms.seen == pytest.approx([1e-3] * 5, rel=1e-3)


def test_a_resumed_run_and_one_that_changes_its_way_equal_the_one_that_was_not_stopped(tmp_path):
    straight = fit_tiny(tmp_path / "straight")
    for folder, later in (("resumed", []), ("changed", [CountsBackwards()])):
        fit_tiny(tmp_path / folder, max_frames=100)
        resumed = fit_tiny(tmp_path / folder, callbacks=later, ckpt_path="last")
        assert weights_hash(resumed) == weights_hash(straight)
        assert resumed.trainer.global_step == straight.trainer.global_step


def test_lightnings_own_checkpoint_saves_for_it_sees_steps(tmp_path):
    keep_all = ModelCheckpoint(tmp_path / "kept", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    agent = fit_tiny(tmp_path / "run", callbacks=[keep_all])
    assert isinstance(agent._steps, DirectSteps)
    saved = [torch.load(path, weights_only=True) for path in sorted((tmp_path / "kept").glob("*.ckpt"))]
    # At frame 100 after (100 - 40) / 2 * 0.5 = 15 updates, at 200 after 40.
    assert [one["global_step"] for one in saved] == [3 * 15, 3 * 40]


class HearsItself(DrQV2):
    backwards = 0

    def on_after_backward(self) -> None:
        self.backwards += 1


def hears_itself(data, **options) -> HearsItself:
    return HearsItself(data.obs_shape, data.action_dim, **{**TINY_AGENT, **options})


def test_hooks_of_an_agent_and_of_functions_are_called(tmp_path):
    agent = fit_tiny(tmp_path / "own", make_agent=hears_itself, max_frames=100)
    assert isinstance(agent._steps, LightningSteps)
    assert agent.backwards == 2 * 15
    heard: list[int] = []
    lambdas = LambdaCallback(on_before_backward=lambda *_: heard.append(1))
    agent = fit_tiny(tmp_path / "lambda", callbacks=[lambdas], max_frames=100)
    assert isinstance(agent._steps, LightningSteps)
    assert len(heard) == 2 * 15


def test_a_profiler_still_sees_them(tmp_path):
    agent = fit_tiny(tmp_path, max_frames=100, trainer_options={"profiler": "simple"})
    assert isinstance(agent._steps, LightningSteps)
    assert len(agent.trainer.profiler.recorded_durations["optimizer_step"]) == 3 * 15


def test_an_agent_that_was_trained_can_be_copied_and_steps_on_optimizers_of_its_own(tmp_path):
    for name, callbacks in (("direct", []), ("through", [CountsBackwards()])):
        agent = fit_tiny(tmp_path / name, max_frames=100, callbacks=callbacks)
        batch = agent.data.replay.peek(4, torch.Generator().manual_seed(0))
        for other in (copy.deepcopy(agent), pickle.loads(pickle.dumps(agent))):
            other.update(batch)
            assert type(other.stepping()) is Steps
            assert weights_hash(other) != weights_hash(agent)


def test_a_second_fit_decides_anew(tmp_path):
    agent = fit_tiny(tmp_path / "first", max_frames=60)
    first = agent._steps
    trainer = make_trainer(tmp_path / "second", callbacks=[listener := CountsBackwards()], **TINY_TRAINER)
    trainer.fit(agent, tiny_data(max_frames=80, seed=1))
    assert isinstance(first, DirectSteps)
    assert isinstance(agent._steps, LightningSteps)
    assert listener.backwards > 0
