"""Copies of weights go through what an intervention does to weights with values of their own, by hand."""

from __future__ import annotations

import pytest
import torch
from bare import BareAgent, Jumps

from callbacks import (
    CURL,
    ChurnReduction,
    ContinualBackprop,
    DormantRatioPerturbation,
    HareAndTortoise,
    NormalizeAndProject,
    PruneDormant,
    ReDo,
    Reset,
    SelfNormalizedReset,
    ShrinkAndPerturb,
    WeightClipping,
)


def bound(weight: torch.Tensor, kappa: float) -> float:
    """Return the bound of a layer, ``kappa / sqrt(fan_in)``."""
    return kappa / weight[0].numel() ** 0.5


# ---- a projection that has more to do than one step's worth


@pytest.mark.parametrize("order", [1, -1])
def test_the_first_clip_costs_no_churn(order):
    """Without learning, only the first clip moves a weight: outputs of an update ago are those of the clipped ones."""
    churn, clipping = ChurnReduction(coefficient=1.0), WeightClipping(kappa=0.3)
    agent = BareAgent(*[churn, clipping][::order], lr=1e-30)
    terms = [float(agent.step(seed)["intervention/churn_reduction/critic/loss"]) for seed in range(3)]
    assert float(agent.latest["intervention/weight_clipping/encoder+actor+critic/clipped_fraction"]) > 0.1
    assert terms == pytest.approx([0.0] * 3, abs=1e-12)


@pytest.mark.parametrize("make", [lambda: HareAndTortoise(every_n_updates=10**9), lambda: CURL(coefficient=0.1)])
def test_the_first_clip_is_in_averages_too(make):
    other = make()
    agent = BareAgent(other, WeightClipping(kappa=0.3), lr=1e-30)
    agent.step()
    (slow,) = other.copies()
    live = dict(agent.named_parameters())
    assert slow
    for name, value in slow.items():
        torch.testing.assert_close(value, live[name].detach(), rtol=1e-6, atol=1e-7, msg=name)


def test_a_clip_after_a_reset_is_in_the_average_and_later_clips_are_not():
    hare = HareAndTortoise(modules=["critic"], decay=0.5, every_n_updates=10**9)
    told, clipping = Jumps(), WeightClipping(kappa=0.3, modules=["critic"])
    agent = BareAgent(hare, clipping, Reset(modules=["critic"], at_frames=[12]), told, lr=1e-30)
    for seed in range(4):
        agent.step(seed)
    kinds = [jump.by.partition("{")[0] for jump in told.seen]
    assert kinds == ["WeightClipping", "Reset", "Reset", "WeightClipping"]  # a reset tells of online and target weights
    weight = agent.critic.Q1[2].weight
    assert float(weight.detach().abs().max()) == pytest.approx(bound(weight, 0.3))
    torch.testing.assert_close(hare._slow["critic.Q1.2.weight"], weight.detach())


def test_an_average_inside_the_bounds_is_not_clipped_with_the_weights():
    """The hare's element is at 9 and is cut to the bound b; the tortoise's, at b / 2, stays."""
    hare, clipping = HareAndTortoise(modules=["critic"], every_n_updates=10**9), WeightClipping(kappa=1.0)
    agent = BareAgent(hare, clipping, lr=1e-30)
    weight = agent.critic.Q1[2].weight
    b = bound(weight, 1.0)
    with torch.no_grad():
        weight[0, 0] = 9.0
        hare._slow["critic.Q1.2.weight"][0, 0] = b / 2
        hare._slow["critic.Q1.2.weight"][0, 1] = -7.0
    agent.step()
    assert float(weight[0, 0].detach()) == pytest.approx(b)
    assert float(hare._slow["critic.Q1.2.weight"][0, 0]) == pytest.approx(b / 2)
    assert float(hare._slow["critic.Q1.2.weight"][0, 1]) == pytest.approx(-b)


def test_what_a_run_goes_on_with_knows_whether_weights_jumped():
    clipping = WeightClipping()
    agent = BareAgent(clipping, Jumps())
    assert clipping.moves_weights(agent)
    agent.step()
    assert not clipping.moves_weights(agent)
    again = WeightClipping()
    BareAgent(again, Jumps())
    again.load_state_dict(clipping.state_dict())
    assert not again.moves_weights(agent)


def test_a_projection_after_a_jump_scales_the_average_as_well():
    """Shrinking by 0.5 is undone by the next projection, in the hare and, by the same factor, in the tortoise."""
    hare = HareAndTortoise(modules=["critic"], decay=0.5, every_n_updates=10**9)
    writer = ShrinkAndPerturb(modules=["critic"], shrink=0.5, perturb=0.0, at_frames=[4])
    agent = BareAgent(NormalizeAndProject(modules=["critic"]), hare, writer, lr=1e-30)
    agent.step()
    before = hare._slow["critic.Q1.2.weight"].clone()
    agent.step()
    torch.testing.assert_close(hare._slow["critic.Q1.2.weight"], 0.5 * before)
    agent.step()
    torch.testing.assert_close(hare._slow["critic.Q1.2.weight"], before)


# ---- edits that keep a part of the old value


def apart(agent: BareAgent, hare: HareAndTortoise) -> dict[str, torch.Tensor]:
    """Set the tortoise's weights apart from the hare's, and return them."""
    generator = torch.Generator().manual_seed(3)
    for value in hare._slow.values():
        value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return {name: value.clone() for name, value in hare._slow.items()}


def start(agent: BareAgent) -> dict[str, torch.Tensor]:
    """Return the weights before the interventions of an update, after these acted."""
    agent.env_frames += 8
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    agent.dispatch("on_update_start")
    return before


def test_soft_resets_shrink_the_average_by_its_own_weights():
    """slow <- 0.7 slow + 0.3 psi, where psi is what the hare's own move tells: (hare - 0.7 before) / 0.3."""
    for writer in (
        ShrinkAndPerturb(modules=["critic"], shrink=0.7, at_frames=[4]),
        DormantRatioPerturbation(modules=["critic"], rate=0.0, max_factor=0.7, at_frames=[4]),
    ):
        hare = HareAndTortoise(modules=["critic"], every_n_updates=10**9)
        agent = BareAgent(hare, writer)
        slow = apart(agent, hare)
        before, live = start(agent), dict(agent.named_parameters())
        for name in ("critic.trunk.0.weight", "critic.Q1.0.weight", "critic.Q1.2.bias", "critic.Q2.4.weight"):
            psi = (live[name].detach() - 0.7 * before[name]) / 0.3
            torch.testing.assert_close(hare._slow[name], 0.7 * slow[name] + 0.3 * psi, rtol=1e-4, atol=1e-5)
        assert torch.equal(hare._slow["critic.trunk.1.weight"], slow["critic.trunk.1.weight"]), "a norm does not move"


def replaced_once(hare: HareAndTortoise, writer: ContinualBackprop) -> tuple[BareAgent, torch.Tensor, torch.Tensor]:
    """Let the writer replace unit 4 of the first hidden layer of Q1, whose mean output is 2."""
    agent = BareAgent(writer, hare, Jumps())
    agent.num_updates = 0  # no step of the average
    utility = writer._utilities["critic.Q1.1"]
    utility.updates, utility.mature, utility.owed = 9, 12, 1.0
    utility._young.clear()
    utility._utility.fill_(1.0)
    utility._utility[4] = 0.1
    utility._mean.zero_()
    utility._mean[0, 4] = 2.0 * (1.0 - writer.decay**9)  # debiased: 2
    with torch.no_grad():
        agent.critic.Q1[0].bias.fill_(0.25)
    apart(agent, hare)
    return agent, hare._slow["critic.Q1.2.weight"].clone(), hare._slow["critic.Q1.2.bias"].clone()


def test_what_a_replaced_unit_fed_goes_into_the_biases_of_the_average_by_its_own_weights():
    """slow bias <- slow bias + 2 * slow weight of unit 4, in all rows; before, it became the hare's bias."""
    hare = HareAndTortoise(modules=["critic"], every_n_updates=10**9)
    writer = ContinualBackprop(modules=["critic"], replacement_rate=1e-9, decay=0.9, maturity_threshold=3)
    agent, weight, bias = replaced_once(hare, writer)
    before, live = start(agent), dict(agent.named_parameters())
    added = live["critic.Q1.2.bias"].detach() - before["critic.Q1.2.bias"]
    torch.testing.assert_close(added, 2.0 * before["critic.Q1.2.weight"][:, 4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hare._slow["critic.Q1.2.bias"], bias + 2.0 * weight[:, 4], rtol=1e-4, atol=1e-5)
    weight[:, 4] = 0.0
    assert torch.equal(hare._slow["critic.Q1.2.weight"], weight), "read with zero, and nothing else"
    assert torch.equal(hare._slow["critic.Q1.0.weight"][4], live["critic.Q1.0.weight"][4].detach()), "the new unit"
    assert float(hare._slow["critic.Q1.0.bias"][4]) == 0.0


def test_a_unit_that_reads_a_replaced_one_and_is_replaced_itself_is_new_in_the_average():
    hare = HareAndTortoise(modules=["critic"], every_n_updates=10**9)
    writer = ContinualBackprop(modules=["critic"], replacement_rate=1e-9, decay=0.9, maturity_threshold=3)
    agent, weight, bias = replaced_once(hare, writer)
    second = writer._utilities["critic.Q1.3"]
    second.updates, second.mature, second.owed = 9, 12, 1.0
    second._young.clear()
    second._utility.fill_(1.0)
    second._utility[7] = 0.1
    start(agent)
    expected = bias + 2.0 * weight[:, 4]
    expected[7] = 0.0
    torch.testing.assert_close(hare._slow["critic.Q1.2.bias"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", [ReDo, SelfNormalizedReset, PruneDormant])
def test_an_average_keeps_its_values_beside_the_units_that_are_edited(cls):
    """They write into rows and columns of single units only, and no bias of another unit moves."""
    hare, told = HareAndTortoise(every_n_updates=10**9, decay=1 - 1e-7), Jumps()
    modules = {"modules": ["critic"]} if cls is not SelfNormalizedReset else {}
    agent = BareAgent(hare, cls(**{**cls.example_arguments, **modules}), told, lr=1e-30)
    with torch.no_grad():
        for bias in (agent.critic.Q1[0].bias, agent.actor.policy[0].bias):
            bias[:3] = -100.0
    slow = apart(agent, hare)
    for seed in range(30):
        if told.seen:
            break
        agent.step(seed)
    assert told.seen
    for name, value in hare._slow.items():
        mask = told.seen[0].elements.get(name, torch.zeros_like(value, dtype=torch.bool))
        torch.testing.assert_close(value[~mask], slow[name][~mask], rtol=1e-4, atol=1e-4, msg=name)
        torch.testing.assert_close(value[mask], dict(agent.named_parameters())[name].detach()[mask])


# ---- two of one kind


def test_of_two_that_replace_units_of_one_layer_each_hears_of_the_other():
    """One replaces unit 4 of Q1; the other, whose modules are a part of the first's, starts its record anew."""
    outer = ContinualBackprop(modules=["critic"], replacement_rate=1e-9, decay=0.9, maturity_threshold=3)
    inner = ContinualBackprop(modules=["critic.Q1"], replacement_rate=1e-9, decay=0.9, maturity_threshold=3)
    hare = HareAndTortoise(modules=["critic"], every_n_updates=10**9)
    agent = BareAgent(outer, inner, hare, Jumps())
    for callback, owed in ((outer, 1.0), (inner, 0.0)):
        utility = callback._utilities["critic.Q1.1"]
        utility.updates, utility.mature, utility.owed = 9, 12, owed
        utility._young.clear()
        utility._utility.fill_(1.0)
        utility._utility[4] = 0.1
    start(agent)
    for callback in (outer, inner):
        utility = callback._utilities["critic.Q1.1"]
        assert utility.age().tolist() == [9] * 4 + [0] + [9] * 7
        assert utility.mature == 11
        assert float(utility.utility().nan_to_num(0.0)[4]) == 0.0


def test_of_two_that_prune_each_masks_what_the_other_touched():
    one = PruneDormant(modules=["critic"], every_n_updates=10**9)
    other = PruneDormant(modules=["critic.Q1"], every_n_updates=10**9)
    agent = BareAgent(one, other, Jumps())
    jump = lambda by: type("J", (), {"by": by})()  # noqa: E731
    one.on_weights_jumped(agent, jump(one.state_key))
    assert not one._touched
    one.on_weights_jumped(agent, jump(other.state_key))
    assert one._touched
