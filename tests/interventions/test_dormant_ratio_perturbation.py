"""DormantRatioPerturbation: the ratio, the factor it gives, and which layers move."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from bare import BareAgent
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from tiny_agent import TinyAgent
from torch import nn

from callbacks import DormantRatioPerturbation, SpectralNorm
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo


def slow_ratio(agent, observed: str, tau: float) -> float:
    """Layer by layer, unit by unit."""
    outputs = []
    layers = [layer for layer in agent.get_submodule(observed).modules() if isinstance(layer, nn.Linear)]
    handles = [layer.register_forward_hook(lambda *args: outputs.append(args[2].detach().clone())) for layer in layers]
    with torch.no_grad():
        agent.forward_all(agent.probe_batch())
    for handle in handles:
        handle.remove()
    assert len(outputs) == len(layers)
    dormant = total = 0
    for output in outputs:
        activity = [sum(abs(float(x)) for x in output[:, i]) / len(output) for i in range(output.shape[1])]
        mean = sum(activity) / len(activity)
        dormant += sum(a < tau * mean for a in activity)
        total += len(activity)
    return dormant / total


class Around(DormantRatioPerturbation):
    """Keeps weights, ratio and step counts around each event."""

    def act(self, agent) -> str:
        before = {name: p.detach().clone() for name, p in agent.named_parameters()}
        ratio = slow_ratio(agent, self.observed, self.tau)
        text = super().act(agent)
        after = {name: p.detach().clone() for name, p in agent.named_parameters()}
        steps = {n: agent.optimizer_of(p) for n, p in agent.named_parameters() if agent.optimizer_of(p) is not None}
        steps = {n: int(o.state[agent.get_parameter(n)]["step"]) for n, o in steps.items()}
        logged = {tag.rpartition("/")[2]: float(v) for tag, v in agent.latest.items() if "/around/" in tag}
        self.seen = [*getattr(self, "seen", []), (before, after, ratio, logged, steps)]
        assert not any(module._forward_hooks for module in agent.modules())
        return text


@pytest.mark.parametrize(
    ("tau", "factor"), [(0.0, lambda _: 0.9), (0.4, lambda beta: 1 - 2 * beta), (0.99, lambda _: 0.2)]
)
def test_factor_follows_the_dormant_ratio(tau, factor, tmp_path):
    event = Around(tau=tau, at_frames=[100])
    fit_tiny(tmp_path, callbacks=[event])
    ((before, after, ratio, logged, _),) = event.seen
    a = min(max(factor(ratio), 0.2), 0.9)
    assert logged == {"dormant_ratio": pytest.approx(ratio), "factor": pytest.approx(a)}
    assert (ratio == 0) == (tau == 0)
    for name in ("critic.Q1.0", "critic_target.Q2.2", "actor.policy.2"):
        draw = (after[f"{name}.weight"].double() - a * before[f"{name}.weight"].double()) / (1 - a)
        gram = draw @ draw.T if draw.shape[0] <= draw.shape[1] else draw.T @ draw
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-4, rtol=0)


def test_linear_layers_move_and_all_optimizer_state_is_cleared(tmp_path):
    event = Around(at_frames=[100])
    agent = fit_tiny(tmp_path, callbacks=[event])
    ((before, after, _, _, steps),) = event.seen
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    linear = {
        f"{path}.{key}"
        for path, layer in agent.named_modules()
        if isinstance(layer, nn.Linear)
        for key in ("weight", "bias")
    }
    assert {name for name in linear if name.endswith("weight")} <= changed <= linear
    assert not any(name.startswith("encoder.") for name in changed)
    assert set(steps.values()) == {0}
    assert all(math.isfinite(agent.latest[tag]) for tag in ("loss/critic", "loss/actor"))


def test_the_target_moves_with_the_same_psi_and_two_events_differ(tmp_path):
    event = Around(modules=["critic"], max_factor=0.5, at_frames=[60, 120])
    fit_tiny(tmp_path, callbacks=[event])
    draws = []
    for before, after, _, logged, steps in event.seen:
        a = logged["factor"]
        online, target = (
            (after[f"{top}.Q1.0.weight"] - a * before[f"{top}.Q1.0.weight"]) / (1 - a)
            for top in ("critic", "critic_target")
        )
        torch.testing.assert_close(online, target, atol=1e-5, rtol=0)
        draws.append(online)
        assert {name for name, step in steps.items() if step == 0} == {n for n in steps if n.startswith("critic.")}
    assert (draws[0] - draws[1]).abs().max() > 0.01


def test_it_draws_from_a_generator_of_its_own_name():
    """Two with other arguments share no numbers."""
    event = DormantRatioPerturbation(modules=["critic"], at_frames=[10**9])
    agent = BareAgent(event)
    before = agent.rng.state_dict().keys()
    event.act(agent)
    assert agent.rng.state_dict().keys() - before == {f"intervention/{event.state_key}"}


def test_measuring_moves_no_estimate_of_a_norm(tmp_path):
    """A pass in training mode would take a power iteration in every layer behind spectral normalisation."""
    seen = []

    class Measure(RLCallback):
        def on_update_start(self, agent) -> None:
            before = {name: value.clone() for name, value in agent.named_buffers()}
            modes = {name: module.training for name, module in agent.named_modules()}
            perturbation.dormant_ratio(agent)
            assert modes == {name: module.training for name, module in agent.named_modules()}
            seen.append([name for name, value in agent.named_buffers() if not torch.equal(value, before[name])])

    perturbation = DormantRatioPerturbation(at_frames=[10**12])
    norm = SpectralNorm(modules=["actor"])
    agent = fit_tiny(tmp_path, callbacks=[perturbation, norm, Measure()], max_frames=60)
    assert list(agent.named_buffers())
    assert len(seen) == 5
    assert not any(seen)


def test_factor_one_moves_nothing(tmp_path):
    event = Around(rate=0.0, max_factor=1.0, at_frames=[100])
    fit_tiny(tmp_path, callbacks=[event])
    ((before, after, *_),) = event.seen
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_another_agent(tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=120, seed=1)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    event = DormantRatioPerturbation(modules=["torso", "value"], observed="policy", every_n_frames=50)
    make_trainer(tmp_path, callbacks=[event, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(agent, data)
    assert 0.2 <= agent.latest["intervention/dormant_ratio_perturbation/factor"] <= 0.9
    assert all(torch.isfinite(p).all() for p in agent.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_factor": -0.1}, r"^DormantRatioPerturbation.min_factor=-0.1 and max_factor=0.9 must be in \[0, 1\]"),
        ({"max_factor": 1.1}, "max_factor=1.1 must be in"),
        ({"min_factor": 0.95}, "the first not above the second"),
        ({"tau": 1.0}, r"tau=1.0 must be in \[0, 1\)"),
        ({"rate": -1}, "rate=-1 must be >= 0"),
        ({"modules": ["encoder"]}, r"\['encoder'\] have no linear layer"),
        ({"observed": "encoder"}, r"\['encoder'\] have no linear layer"),
        ({"modules": ["critics"]}, "no module 'critics' in DrQV2; there are .* Did you mean critic"),
        ({"every_n_frames": 0}, "the period is 0"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        fit_tiny(tmp_path, callbacks=[DormantRatioPerturbation(**{"at_frames": [50], **arguments})])
    assert "\n" not in str(error.value)
