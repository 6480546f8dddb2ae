"""SharpnessAware: one step against SAM written out, and weights that are back before anything steps."""

from __future__ import annotations

import copy

import pytest
import torch
from agent_kinds import KINDS
from bare import BareAgent
from built import some_batch
from helpers import fit_tiny
from torch.nn import functional as F

from callbacks import FractionActiveUnits, InFeR, SharpnessAware
from callbacks.interventions.sharpness_aware import move_along
from plasticity_rl import UserError
from plasticity_rl.callback.gradient_probes import probe_generator


def test_the_way_uphill_by_hand():
    one, two = torch.zeros(2), torch.ones(1, 1)
    move_along([one, two], torch.tensor([2.0, 0.0, -1.5]), 5.0)
    assert one.tolist() == pytest.approx([4.0, 0.0])
    assert two.tolist() == [[pytest.approx(-2.0)]]
    for direction in (torch.zeros(2), torch.tensor([float("nan"), 1.0]), torch.tensor([float("inf"), 1.0])):
        still = torch.ones(2)
        move_along([still], direction, 5.0)
        assert still.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("modules", [["encoder"], ["encoder", "critic"], ["critic.Q1"]])
def test_the_step_is_that_of_sam_written_out(modules):
    """Two passes of the critic's loss by hand, the second at the moved weights."""
    sam = SharpnessAware(modules=modules, rho=0.3)
    agent = BareAgent(sam)
    batch = some_batch(agent, seed=0)
    names = [n for n, _ in agent.named_parameters() if any(n.startswith(f"{m}.") for m in modules)]
    by_hand, start = copy.deepcopy(agent), {n: p.detach().clone() for n, p in agent.named_parameters()}

    def loss(noise: torch.Generator) -> torch.Tensor:
        target = by_hand.td_targets(batch, noise)
        values = by_hand.critic(by_hand.encoder(batch["pixels"]), batch["action"])
        return sum(F.mse_loss(value, target) for value in values)

    theirs = dict(by_hand.named_parameters())
    first = torch.autograd.grad(
        loss(probe_generator(agent, f"intervention/{sam.state_key}")), [theirs[n] for n in names]
    )
    norm = sum(float(g.double().square().sum()) for g in first) ** 0.5
    with torch.no_grad():
        for name, gradient in zip(names, first, strict=True):
            theirs[name].add_(gradient * (0.3 / norm))
    trained = [n for n in start if n.startswith(("encoder.", "critic."))]
    noise = torch.Generator()
    noise.set_state(agent.rng.get_own("update_noise").get_state())
    second = torch.autograd.grad(loss(noise), [theirs[n] for n in trained])

    seen: dict[str, torch.Tensor] = {}

    def note(stepping, *_) -> None:
        owned = {id(p) for group in stepping.param_groups for p in group["params"]}
        for name, p in agent.named_parameters():
            if id(p) in owned:
                seen[name] = p.grad.clone()
                assert torch.equal(p, start[name]), "the weights must be back before a step"

    agent.dispatch("on_batch", batch)
    for name in ("encoder", "critic"):
        agent.optimizer_by_name(name).register_step_pre_hook(note)
    agent.update(batch)
    for name, gradient in zip(trained, second, strict=True):
        torch.testing.assert_close(seen[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_weights_are_back_at_once_and_no_hook_stays():
    agent = BareAgent(SharpnessAware(rho=10.0), lr=1e-30)
    start = {n: p.detach().clone() for n, p in agent.named_parameters() if "target" not in n}
    for seed in range(2):
        agent.step(seed)
    after = dict(agent.named_parameters())
    assert max(float((after[n].detach() - value).abs().max()) for n, value in start.items()) < 1e-20
    assert not any(optimizer._optimizer_step_pre_hooks for optimizer in agent._optimizers())


def test_the_other_losses_see_the_weights_where_they_are():
    """At a learning rate near 0 the actor's loss is that without it."""
    metrics = [BareAgent(*given, lr=1e-30).step(1) for given in ([], [SharpnessAware(modules=["critic"], rho=3.0)])]
    values = [float(one["loss/actor"]) for one in metrics]
    critics = [float(one["loss/critic"]) for one in metrics]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert critics[1] > critics[0], "uphill"


def test_the_policy_is_moved_uphill_of_its_own_loss():
    metrics = [BareAgent(*given, lr=1e-30).step(1) for given in ([], [SharpnessAware(modules=["actor"], rho=1.0)])]
    plain, moved = (float(one["loss/actor"]) for one in metrics)
    assert moved > plain + 1e-6


@pytest.mark.parametrize(("kind", "expected"), [("drqv2", ["encoder"]), ("sac", ["critic"]), ("dqn", ["encoder"])])
def test_the_modules_of_every_agent(kind, expected, tmp_path):
    sam = SharpnessAware(rho=0.1)
    KINDS[kind].fit(tmp_path, callbacks=[sam], max_frames=70)
    assert sam.modules == expected


@pytest.mark.parametrize("order", [1, -1])
def test_what_reads_the_training_batch_reads_its_second_pass(order):
    """Its first pass is hidden from them: what they see are the moved weights on the training batch."""
    seen = FractionActiveUnits(every_n_updates=1), InFeR(coefficient=1.0)
    values = []
    for given in ([*seen], [*seen, SharpnessAware(rho=1e-30)]):
        agent = BareAgent(*[*given][::order])
        metrics = [agent.step(seed) for seed in range(3)]
        values.append((agent.latest["fau/encoder"], agent.latest["fau/critic"], *map(float, metrics[-1].values())))
    assert values[0] == values[1]


def test_two_of_them_put_their_own_weights_back():
    agent = BareAgent(
        SharpnessAware(modules=["encoder"], rho=1.0), SharpnessAware(modules=["critic"], rho=2.0), lr=1e-30
    )
    start = {n: p.detach().clone() for n, p in agent.named_parameters() if "target" not in n}
    agent.step()
    after = dict(agent.named_parameters())
    assert max(float((after[n].detach() - value).abs().max()) for n, value in start.items()) < 1e-20
    with pytest.raises(UserError, match="both move critic uphill"):
        BareAgent(SharpnessAware(modules=["critic"]), SharpnessAware(modules=["critic.Q1"]))


def test_modules_of_several_losses_are_refused(tmp_path):
    message = r"SharpnessAware.modules=\['actor', 'critic'\] are trained by the losses \['actor', 'critic'\]"
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[SharpnessAware(modules=["actor", "critic"])])


def test_a_negative_rho_is_refused():
    with pytest.raises(UserError, match=r"SharpnessAware.rho=-1.0 must be >= 0"):
        SharpnessAware(rho=-1.0)
