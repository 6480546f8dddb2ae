"""WeightClipping: every update, the bound of each layer, and a log now and then."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from tiny_agent import TinyAgent
from torch import nn

from callbacks import WeightClipping
from plasticity_rl import UserError, make_trainer
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo


class Look(RLCallback):
    """Compares the weights after the clipping with a slow version of it; acts behind it, as probes do.

    Args:
        clipping: What is looked at.
    """

    def __init__(self, clipping: WeightClipping) -> None:
        self.clipping, self.act = clipping, clipping.on_update_start
        self.kappa, self.modules = clipping.kappa, clipping.modules
        clipping.on_update_start = self.watch
        self.fractions: dict[int, float] = {}
        self.logged: dict[int, float] = {}

    def watch(self, agent) -> None:
        before = {name: p.detach().clone() for name, p in agent.named_parameters()}
        tag = f"intervention/weight_clipping/{'+'.join(self.modules)}/clipped_fraction"
        agent.latest.pop(tag, None)
        self.act(agent)
        outside = total = 0
        for path, layer in agent.named_modules():
            for key, parameter in layer.named_parameters(prefix=path, recurse=False):
                value = before[key]
                named = any(key.startswith(f"{module}.") for module in self.modules)
                if named and isinstance(layer, (nn.Linear, nn.Conv2d)):
                    bound = self.kappa / math.sqrt(layer.weight.numel() / layer.weight.shape[0])
                    outside += int((value.abs() > bound).sum())
                    total += value.numel()
                    value = value.clamp(-bound, bound)
                assert torch.equal(parameter, value), key
        self.fractions[agent.num_updates] = outside / total
        if tag in agent.latest:
            self.logged[agent.num_updates] = float(agent.latest[tag])


@pytest.mark.parametrize("modules", [["encoder", "actor", "critic"], ["critic.Q1"]])
def test_clips_at_every_update_and_logs_seldom(modules, tmp_path):
    clipping = WeightClipping(kappa=1.0, modules=modules, log_every_n_updates=7)
    look = Look(clipping)
    agent = fit_tiny(tmp_path, callbacks=[clipping, look])
    assert len(look.fractions) == agent.num_updates >= 30
    assert look.fractions[0] > 0
    assert min(look.fractions.values()) < 0.5 * look.fractions[0]
    assert look.logged == {n: pytest.approx(f) for n, f in look.fractions.items() if n % 7 == 0}
    assert "intervention/weight_clipping" not in agent.latest, "no event: it acts all the time"
    assert all(math.isfinite(agent.latest[tag]) for tag in ("loss/critic", "loss/actor"))


def test_kappa_three_leaves_nearly_all_of_the_initial_weights(tmp_path):
    clipping = WeightClipping()
    look = Look(clipping)
    fit_tiny(tmp_path, callbacks=[clipping, look], max_frames=60)
    assert look.fractions[0] < 0.05


def test_another_agent(tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=100, seed=1)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    clipping = WeightClipping(kappa=0.5, modules=["torso", "policy"])
    look = Look(clipping)
    make_trainer(tmp_path, callbacks=[clipping, look, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(agent, data)
    assert look.fractions[0] == pytest.approx(0.5, abs=0.05), "half of a uniform range"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kappa": 0}, "^WeightClipping.kappa=0 must be > 0$"),
        ({"kappa": float("nan")}, "^WeightClipping.kappa=nan must be > 0$"),
        ({"log_every_n_updates": 0}, "^WeightClipping.log_every_n_updates=0 must be a whole number >= 1$"),
        ({"modules": ["critics"]}, "no module 'critics' in DrQV2; there are .* Did you mean critic"),
        ({"modules": ["critic.trunk.1"]}, "module 'critic.trunk.1' has no linear or convolutional layer"),
        ({"modules": []}, r"modules=\[\] names no module"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        fit_tiny(tmp_path, callbacks=[WeightClipping(**arguments)])
    assert "\n" not in str(error.value)
