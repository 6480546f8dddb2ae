"""Plasticity injection in a run: output, what learns, what is frozen, resume, refusals."""

from __future__ import annotations

import pytest
import torch
from built import drqv2, other_agent, some_batch
from helpers import fit_tiny
from run_state import DieAt, Killed, differences, run_state

from callbacks import BroNet, HeavyPriming, PlasticityInjection, ReDo, Reset, WeightClipping, WeightDecay
from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback


class Look(PlasticityInjection):
    """Keeps outputs, gradients and weights around the injections."""

    def __init__(self, *, modules=("critic",), at_frames=(100,)) -> None:
        super().__init__(modules=modules, at_frames=at_frames)
        self.jumps, self.frozen, self.slots = [], {}, []

    def act(self, agent) -> str:
        batch = agent.probe_batch(16)
        before = agent.forward_all(batch)
        with torch.no_grad():
            target = agent.critic_target(before["encoder"], batch["action"])[0]
        learned = {n: p.detach().clone() for n, p in agent.named_parameters() if p.requires_grad}
        text = super().act(agent)
        self.jumps += [float((v - before[k]).abs().max().detach()) for k, v in agent.forward_all(batch).items()]
        with torch.no_grad():
            self.jumps.append(float((agent.critic_target(before["encoder"], batch["action"])[0] - target).abs().max()))
        still = {n for n, p in agent.named_parameters() if p.requires_grad}
        self.frozen |= {n: p for n, p in learned.items() if n not in still}
        fresh = [p for n, p in agent.named_parameters() if n in still - learned.keys()]
        self.slots.append([agent.optimizer_of(p).state.get(p) for p in fresh])
        return text


def test_an_injection_changes_no_output_and_what_it_freezes_never_moves(tmp_path):
    look = Look(modules=["actor", "critic"], at_frames=[100, 150])
    agent = fit_tiny(tmp_path, callbacks=[look, WeightDecay(coefficient=0.1, modules=["critic"])])
    assert max(look.jumps) < 1e-6
    assert {"critic.Q1.0.weight", "actor.policy.4.bias", "critic.Q2.injected.0.added.2.weight"} <= look.frozen.keys()
    now = dict(agent.named_parameters())
    for name, value in look.frozen.items():
        assert torch.equal(now[name], value), f"{name} has moved"
    assert all(state in (None, {}) for slots in look.slots for state in slots), "the fresh heads start without moments"
    for index in (0, 1):
        pair = agent.critic.Q1.injected[index]
        assert not torch.equal(pair["added"][0].weight, pair["removed"][0].weight), "the added head has learned"
    assert torch.equal(agent.critic.Q1.injected[1]["removed"][0].weight, pair["removed"][0].weight)


def test_the_number_of_trainable_weights_stays():
    plain, agent = drqv2(), drqv2(PlasticityInjection(at_frames=[10, 20]))
    count = lambda agent: sum(p.numel() for p in agent.parameters() if p.requires_grad)  # noqa: E731
    assert count(agent) == count(plain)
    agent.critic.Q1.inject()
    assert count(agent) == count(plain)


def test_before_the_injection_the_run_is_the_run_without_it(tmp_path):
    plain = fit_tiny(tmp_path / "plain", max_frames=138)
    waiting = fit_tiny(tmp_path / "waiting", callbacks=[PlasticityInjection(at_frames=[137])], max_frames=138)
    theirs = dict(waiting.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in plain.named_parameters())


def test_trunk_and_encoder_go_on_learning():
    agent = drqv2(PlasticityInjection(at_frames=[10]))
    agent.critic.Q1.inject()
    agent.critic.Q2.inject()
    before = {n: p.detach().clone() for n, p in agent.named_parameters()}
    for seed in range(3):
        agent.update(some_batch(agent, seed=seed))
    moved = {n for n, p in agent.named_parameters() if not torch.equal(p, before[n])}
    assert {"encoder.convnet.0.weight", "critic.trunk.0.weight", "critic.Q1.injected.0.added.0.weight"} <= moved
    assert not {n for n in moved if n.startswith(("critic.Q1.0", "critic.Q1.2", "critic.Q1.injected.0.removed"))}
    assert "critic_target.Q1.injected.0.added.0.weight" in moved
    assert "critic_target.Q1.injected.0.removed.0.weight" not in moved


def test_resume_after_an_injection_is_exact(tmp_path):
    def make():
        return [PlasticityInjection(modules=["critic", "actor"], at_frames=[70, 130])]

    options = {"max_frames": 200, "data_options": {"eval_every_n_frames": 60}}
    straight = fit_tiny(tmp_path / "straight", callbacks=make(), **options)
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "resumed", callbacks=[*make(), DieAt(125)], **options)
    resumed = fit_tiny(tmp_path / "resumed", callbacks=make(), ckpt_path="last", **options)
    assert differences(run_state(straight), run_state(resumed)) == []
    assert resumed.critic.Q1.num_injections == resumed.critic_target.Q2.num_injections == 2


def test_probes_see_the_heads_that_run(tmp_path):
    from callbacks import DormantUnits, FractionActiveUnits

    class Tags(RLCallback):
        def on_update_end(self, agent, batch, metrics) -> None:
            self.last = set(agent.latest)
            if agent.env_frames <= 100:
                self.before = set(agent.latest)

    tags = Tags()
    given = [PlasticityInjection(at_frames=[100]), FractionActiveUnits(every_n_updates=1)]
    fit_tiny(tmp_path, callbacks=[*given, DormantUnits(every_n_updates=1), tags])
    assert not [tag for tag in tags.before if "injected" in tag]
    assert "fau/critic/Q1.injected.0.added.1" in tags.last


@pytest.mark.parametrize(
    ("other", "moved"),
    [
        (ReDo(modules=["critic"]), "critic.Q1.0.bias"),
        (Reset(modules=["critic.Q2"], at_frames=[50]), "critic.Q2.0.bias"),
        (WeightClipping(), "critic.Q1.0.bias"),
    ],
)
def test_whatever_would_move_a_frozen_head_is_refused_by_name(other, moved):
    name = type(other).__name__
    message = f"PlasticityInjection cannot run beside {name}: it would move {moved}, which the injection freezes"
    for given in ([PlasticityInjection(), other], [other, PlasticityInjection()]):
        with pytest.raises(UserError, match=message):
            drqv2(*given)


def test_other_modules_and_a_control_without_injections_are_not_refused():
    drqv2(PlasticityInjection(), ReDo(modules=["encoder"]), Reset(modules=["actor"], at_frames=[50]))
    agent = drqv2(PlasticityInjection(at_frames=[]), ReDo())
    assert not hasattr(agent.critic.Q1, "injected")


def test_priming_moves_no_frozen_head_and_is_not_refused(tmp_path):
    """Primed behind an injection (of frame 0): the heads that it froze are as they were made."""
    initial = {}

    class First(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            initial.update({name: p.detach().clone() for name, p in pl_module.critic.Q1.named_parameters()})

    given = [PlasticityInjection(at_frames=[0]), HeavyPriming(num_transitions=16, num_updates=5), First()]
    agent = fit_tiny(tmp_path, callbacks=given, max_frames=60)
    same = {name for name, p in agent.critic.Q1.named_parameters() if torch.equal(p, initial[name])}
    assert same == {name for name in initial if "added" not in name}
    assert agent.num_updates > 5


def test_beside_a_reset_of_what_a_third_callback_builds(tmp_path):
    from callbacks import RandomFrozenEncoder

    frozen = RandomFrozenEncoder(**RandomFrozenEncoder.example_arguments)
    reset = Reset(modules=["encoder.projection"], at_frames=[50])
    agent = fit_tiny(tmp_path, callbacks=[PlasticityInjection(at_frames=[50]), frozen, reset], max_frames=60)
    assert agent.critic.Q1.num_injections == 1


def test_modules_without_a_head_and_doubles_are_refused():
    with pytest.raises(UserError, match="'encoder' has no head, an nn.Sequential that ends in a linear layer"):
        drqv2(PlasticityInjection(modules=["encoder"]))
    with pytest.raises(UserError, match="both inject into critic.Q1"):
        drqv2(PlasticityInjection(), PlasticityInjection(modules=["critic.Q1"], at_frames=[5]))
    with pytest.raises(UserError, match="modules is empty"):
        PlasticityInjection(modules=[])


def test_another_agent():
    """Its value is a head by itself, its policy ends in a tanh."""
    agent = other_agent(PlasticityInjection(modules=["value"]))
    agent.value.inject()
    agent.old_value.inject()
    agent.update(some_batch(agent, side=16))
    with pytest.raises(UserError, match="'policy' has no head"):
        other_agent(PlasticityInjection(modules=["policy"]))


@pytest.mark.parametrize(
    ("other", "moved"),
    [
        (Reset(modules=["critic.Q1.5"], at_frames=[50]), "critic.Q1.5.bias"),
        (WeightClipping(modules=["critic.Q1.injected.0.added"]), "critic.Q1.injected.0.added"),
    ],
    ids=["a block that is built", "what is added and waits"],
)
def test_parts_that_have_names_since_they_were_built_are_refused_too(other, moved, tmp_path):
    given = [BroNet(modules=["critic"], hidden_dim=8), PlasticityInjection(at_frames=[60]), other]
    with pytest.raises(UserError, match=f"PlasticityInjection cannot run beside .*: it would move {moved}"):
        fit_tiny(tmp_path, callbacks=given)
