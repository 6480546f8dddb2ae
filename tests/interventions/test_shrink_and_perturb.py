"""ShrinkAndPerturb: fresh psi at every event, the same psi for the target, norms left alone."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from bare import BareAgent
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from tiny_agent import TinyAgent
from torch import nn

from callbacks import L2Init, RationalActivation, ShrinkAndPerturb, SimBaV2Blocks
from plasticity_rl import UserError, make_trainer
from plasticity_rl.nn.activations import Rational
from plasticity_rl.nn.hypersphere import Scale
from plasticity_rl.run.video import EvalVideo


def weights_of(agent) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in agent.named_parameters()}


class Around(ShrinkAndPerturb):
    """Keeps the weights around each event, and the step counts after it."""

    def act(self, agent) -> str:
        before = weights_of(agent)
        text = super().act(agent)
        steps = {name: self._state(agent, p) for name, p in agent.named_parameters()}
        self.seen = [*getattr(self, "seen", []), (before, weights_of(agent), steps)]
        return text

    @staticmethod
    def _state(agent, parameter) -> dict | None:
        optimizer = agent.optimizer_of(parameter)
        return None if optimizer is None else {k: v.clone() for k, v in optimizer.state[parameter].items()}


def is_norm(name: str) -> bool:
    return ".trunk.1." in name


def psi(before, after, shrink: float, perturb: float) -> torch.Tensor:
    return (after.double() - shrink * before.double()) / perturb


def test_weights_move_by_a_draw_of_the_initialisation_that_differs_every_time(tmp_path):
    """Not the stored initial weights: those would make it a decay towards the start."""
    event = Around(modules=["encoder", "critic"], shrink=0.7, perturb=0.2, at_frames=[60, 120])
    agent = fit_tiny(tmp_path, callbacks=[event])
    layers, draws = dict(agent.named_modules()), []
    for before, after, _ in event.seen:
        draws.append({name: psi(before[name], after[name], 0.7, 0.2) for name in before})
        for name, draw in draws[-1].items():
            layer = layers[name.rpartition(".")[0]]
            if name.startswith("actor.") or is_norm(name):
                assert torch.equal(before[name], after[name]), name
            elif name.endswith("bias"):
                torch.testing.assert_close(draw, torch.zeros_like(draw), atol=1e-6, rtol=0)
            else:
                rows = draw.flatten(1)
                gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
                gain = 2.0 if isinstance(layer, nn.Conv2d) else 1.0
                wanted = gain * torch.eye(len(gram), dtype=torch.float64)
                torch.testing.assert_close(gram, wanted, atol=1e-4, rtol=0)
    first, second = draws
    moved = [n for n in first if n.startswith(("encoder.", "critic.")) and n.endswith("weight") and not is_norm(n)]
    assert len(moved) == 11
    for name in moved:
        assert (first[name] - second[name]).abs().max() > 0.01
        assert (first[name] - event.seen[0][0][name]).abs().max() > 0.01
    for draw in draws:
        assert (draw["critic.Q1.0.weight"] - draw["critic.Q2.0.weight"]).abs().max() > 0.01


def test_the_target_moves_with_the_same_psi_and_not_to_a_copy(tmp_path):
    event = Around(modules=["critic"], shrink=0.7, at_frames=[100])
    fit_tiny(tmp_path, callbacks=[event])
    ((before, after, _),) = event.seen
    for name in [name for name in before if name.startswith("critic.")]:
        target = name.replace("critic.", "critic_target.")
        if is_norm(name):
            assert torch.equal(before[target], after[target])
            continue
        online = psi(before[name], after[name], 0.7, 0.3)
        torch.testing.assert_close(psi(before[target], after[target], 0.7, 0.3), online, atol=1e-5, rtol=0)
        if name.endswith("weight"):
            assert not torch.equal(after[name], after[target]), "the lag of the target is kept"


@pytest.mark.parametrize("perturb", [0.0, None])
def test_scales_and_coefficients_of_activations_stay_as_norms_do(perturb):
    """A scale or a coefficient that is half as large is no initial value."""
    event = ShrinkAndPerturb(modules=["actor", "critic"], shrink=0.5, perturb=perturb, at_frames=[10**9])
    heads, functions = SimBaV2Blocks(modules=["critic"], hidden_dim=8), RationalActivation(modules=["actor"])
    agent = BareAgent(heads, functions, event, lr=0.05)
    for seed in range(2):
        agent.step(seed)
    layers = {name: agent.get_submodule(name.rpartition(".")[0]) for name, _ in agent.named_parameters()}
    kept = {name for name, layer in layers.items() if isinstance(layer, (Scale, Rational))}
    assert {name.partition(".")[0] for name in kept} == {"actor", "critic", "critic_target"}
    before = weights_of(agent)
    event.act(agent)
    after = weights_of(agent)
    assert {name for name in before if torch.equal(before[name], after[name])} >= kept
    moved = {n for n in before if n.startswith(("actor.", "critic")) and n not in kept and not is_norm(n)}
    assert len(moved) > 20
    if perturb == 0.0:
        assert all(torch.equal(after[name], 0.5 * before[name]) for name in moved)
    declared = event.mutates(agent)
    assert declared.parameters == moved
    assert not declared.optimizer_slots & kept
    for name in kept - {name for name in kept if name.startswith("critic_target.")}:
        parameter = agent.get_parameter(name)
        assert float(agent.optimizer_of(parameter).state[parameter]["step"]) == 2


def test_it_draws_from_a_generator_of_its_own_name():
    """Two with other arguments share no numbers."""
    event = ShrinkAndPerturb(modules=["critic"], at_frames=[10**9])
    agent = BareAgent(event)
    before = agent.rng.state_dict().keys()
    event.act(agent)
    assert agent.rng.state_dict().keys() - before == {f"intervention/{event.state_key}"}


@pytest.mark.parametrize("reset_optimizer", [True, False])
def test_optimizer_state_of_what_moved(reset_optimizer, tmp_path):
    event = Around(modules=["critic.Q1"], reset_optimizer=reset_optimizer, at_frames=[100])
    fit_tiny(tmp_path, callbacks=[event])
    ((before, after, state),) = event.seen
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {n for n in changed if not n.startswith("critic_target.")} == {n for n in before if "critic.Q1." in n}
    for name, slot in state.items():
        if slot is not None:
            cleared = reset_optimizer and name.startswith("critic.Q1.")
            assert bool(slot["step"]) == bool(slot["exp_avg_sq"].any()) == (not cleared), name


def test_perturb_defaults_to_the_rest():
    assert ShrinkAndPerturb(at_frames=[1]).perturb is None
    assert ShrinkAndPerturb(at_frames=[1]).modules == ["critic"]


def test_shrink_one_and_perturb_zero_move_nothing(tmp_path):
    event = Around(shrink=1.0, reset_optimizer=False, at_frames=[100])
    agent = fit_tiny(tmp_path / "with", callbacks=[event])
    without = fit_tiny(tmp_path / "without")
    assert all(torch.equal(p, dict(without.named_parameters())[name]) for name, p in agent.named_parameters())
    assert len(event.seen) == 1


def test_a_module_named_twice_is_shrunk_once(tmp_path):
    event = Around(modules=["critic.Q1", "critic"], shrink=0.5, perturb=0.0, at_frames=[100])
    fit_tiny(tmp_path, callbacks=[event])
    ((before, after, _),) = event.seen
    for name in [name for name in before if name.startswith("critic") and not is_norm(name)]:
        assert torch.equal(after[name], 0.5 * before[name]), name


def test_origin_of_l2_init_stays(tmp_path):
    """These are no initial values, so nobody is told that there are any."""
    origin = L2Init(modules=["critic"])
    first = {}

    class First(ShrinkAndPerturb):
        def act(self, agent) -> str:
            first.update({n: v.clone() for n, v in origin.state_dict()["initial"].items()})
            return super().act(agent)

    fit_tiny(tmp_path, callbacks=[origin, First(at_frames=[100])])
    assert first
    assert all(torch.equal(value, first[name]) for name, value in origin.state_dict()["initial"].items())


def test_learning_goes_on(tmp_path):
    event = ShrinkAndPerturb(modules=["encoder", "actor", "critic"], every_n_frames=30)
    agent = fit_tiny(tmp_path, callbacks=[event])
    assert agent.latest["intervention/shrink_and_perturb"] == 1.0
    assert all(math.isfinite(agent.latest[tag]) for tag in ("loss/critic", "loss/actor"))
    assert all(torch.isfinite(p).all() for p in agent.parameters())


def test_another_agent(tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=150, seed=1)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    event = Around(modules=["torso", "value"], shrink=0.0, at_frames=[100])
    make_trainer(tmp_path, callbacks=[event, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(agent, data)
    ((before, after, _),) = event.seen
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.split(".")[0] in ("torso", "value", "old_value")}
    for name in [name for name in before if name.startswith("value.")]:
        assert torch.equal(after[name], after[f"old_{name}"]), "with shrink 0 both are psi"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shrink": 1.1}, r"^ShrinkAndPerturb.shrink=1.1 must be in \[0, 1\]$"),
        ({"shrink": -0.1}, r"^ShrinkAndPerturb.shrink=-0.1 must be in \[0, 1\]$"),
        ({"shrink": float("nan")}, "must be in"),
        ({"perturb": 2}, r"^ShrinkAndPerturb.perturb=2 must be in \[0, 1\]$"),
        ({"modules": ["critics"]}, "no module 'critics' in DrQV2; there are .* Did you mean critic"),
        ({"every_n_frames": 0}, "the period is 0"),
        ({"at_frames": [-1]}, "must not be negative"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        fit_tiny(tmp_path, callbacks=[ShrinkAndPerturb(**{"at_frames": [50], **arguments})])
    assert "\n" not in str(error.value)
