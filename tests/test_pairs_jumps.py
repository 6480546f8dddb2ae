"""Law 9 where weights jump: what keeps copies, records and estimates; see ``test_pairs.py``."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from bare import BareAgent, Jumps
from built import some_batch
from callback_examples import given, that

from callbacks import ChurnReduction, RandomPruning, SpectralNorm
from plasticity_rl import Intervention, Probe
from plasticity_rl.agents.jumps import watched


def jumped(agent: BareAgent, writer: Intervention, updates: int = 12) -> None:
    """Train until ``writer`` has let weights jump, at the start of the last of these updates."""
    told = next(one for one in agent._callbacks if isinstance(one, Jumps))
    for seed in range(updates):
        agent.env_frames += 4
        for callback in agent._callbacks:
            if callback is not writer:
                callback.on_update_start(agent)
        agent.before = {name: p.detach().clone() for name, p in agent.named_parameters()}
        agent.kept = [
            [{name: value.clone() for name, value in kept.items()} for kept in callback.copies()]
            for callback in agent._callbacks
        ]
        with watched(agent, writer):
            writer.on_update_start(agent)
        if told.seen:
            return
        batch = some_batch(agent, seed=seed)
        metrics = agent.update(batch)
        agent.num_updates += 1
        agent.end_update(batch, metrics)
    raise AssertionError("its example arguments let nothing jump")


@pytest.mark.parametrize("writer", that(Intervention, write="jump"))
def test_a_jump_is_told_element_by_element(writer):
    callback, told = given(writer), Jumps()
    agent = BareAgent(callback, told)
    jumped(agent, callback)
    elements: dict[str, torch.Tensor] = {}
    for jump in told.seen:
        for name, mask in jump.elements.items():
            elements[name] = elements.get(name, torch.zeros_like(mask)) | mask
    for name, parameter in agent.named_parameters():
        different = parameter.detach() != agent.before[name]
        assert bool((elements.get(name, torch.zeros_like(different)) >= different).all()), f"{name} jumped in silence"
        renewed = any(name in jump.renewed for jump in told.seen)
        assert renewed or torch.equal(elements.get(name, torch.zeros_like(different)), different), name
    if "fresh units" in writer.writes:
        assert any(mask.any() for jump in told.seen for mask in jump.units.values())
    if "fresh weights" in writer.writes:
        assert any(jump.renewed for jump in told.seen)


KEEPS_A_PART = {
    "ShrinkAndPerturb": lambda kept, before, now, agent: now + 0.8 * (kept - before),
    "DormantRatioPerturbation": lambda kept, before, now, agent: (
        now + agent.latest["intervention/dormant_ratio_perturbation/factor"] * (kept - before)
    ),
    "ContinualBackprop": lambda kept, before, now, agent: kept + (now - before),  # nothing: what it replaces is dead
    "DASH": lambda kept, before, now, agent: kept * (now / before),
    "WeightClipping": lambda kept, before, now, agent: kept.clamp(-now.abs(), now.abs()),
}
"""What a value of a copy becomes where an intervention leaves a part of the old one; before and now: the agent's."""


@pytest.mark.parametrize("reader", that(read="copy"))
@pytest.mark.parametrize("writer", that(Intervention, write="jump"))
def test_copies_jump_too_and_only_where_weights_did(writer, reader):
    callback, told = given(writer), Jumps()
    other = given(reader, **({"decay": 0.5, "every_n_updates": 10**9} if reader is writer else {}))
    agent = BareAgent(callback, other, told)
    jumped(agent, callback)
    live = dict(agent.named_parameters())
    index = agent._callbacks.index(other)
    assert other.copies()
    for kept, copied in zip(agent.kept[index], other.copies(), strict=True):
        assert copied
        for name, value in copied.items():
            if name not in live:
                continue
            now, moved = live[name].detach(), live[name].detach() != agent.before[name]
            edited = torch.zeros_like(moved)
            for jump in told.seen:
                edited |= jump.edited.get(name, edited)
            taken, part = moved & ~edited, moved & edited
            assert torch.equal(value[taken], now[taken]), f"{name} was left behind"
            if part.any():
                own = KEEPS_A_PART[writer.__name__](kept[name], agent.before[name], now, agent)
                torch.testing.assert_close(value[part], own[part], rtol=1e-4, atol=1e-5, msg=name)
            renewed = any(name in jump.renewed for jump in told.seen)
            assert renewed or torch.equal(value[~moved], kept[name][~moved]), f"{name} jumped too far"


@pytest.mark.parametrize("writer", that(Intervention, write="jump"))
def test_churn_after_a_jump_is_that_of_learning_alone(writer):
    """With all weights of the step before put where they jumped to, nothing has changed but what learning did."""
    churn, callback, told = ChurnReduction(coefficient=1.0), given(writer), Jumps()
    agent = BareAgent(churn, callback, told)
    jumped(agent, callback)
    batch = agent.data.replay.peek(8, None)
    (term,) = agent.terms().values()
    older = copy.deepcopy({name: value.clone() for name, value in churn._older.items()})
    with torch.no_grad():
        now = agent.forward_all(batch)["critic"]
        past = torch.func.functional_call(agent, older, (batch,))["critic"]
        expected = (now - past).square().mean()
    assert float(term.detach()) == pytest.approx(float(expected), rel=1e-3, abs=1e-10)
    step = 10 * 1e-3  # Adam moves a weight by about the learning rate; a jump is of the size of the weights
    live = dict(agent.named_parameters())  # of the buffers, a mask is told by its weight
    moved = max(float((older[name] - p).detach().abs().max()) for name, p in live.items() if name in older)
    assert moved < step


@pytest.mark.parametrize("reader", that(Probe, read="origin"))
@pytest.mark.parametrize("writer", that(Intervention, write="jump"))
def test_a_distance_contains_the_jump(writer, reader):
    callback, told, probe = given(writer), Jumps(), given(reader, per_layer=False)
    agent = BareAgent(callback, told, probe)
    since = {"origin": {name: p.detach().clone() for name, p in agent.named_parameters()}}
    for seed in range(12):
        if reader.__name__ == "WeightChange":
            since["origin"] = {name: p.detach().clone() for name, p in agent.named_parameters()}
        agent.step(seed)
        if told.seen:
            break
    for module in ("encoder", "actor", "critic"):
        squares = [
            float((p.detach() - since["origin"][name]).double().square().sum())
            for name, p in agent.named_parameters()
            if name.startswith(f"{module}.")
        ]
        value = agent.latest[f"{probe.name}/{module}"]
        assert value == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)


@pytest.mark.parametrize("reader", that(Intervention, read="unit records"))
@pytest.mark.parametrize("writer", that(Intervention, write="fresh units"))
def test_records_of_units_start_over_where_units_are_replaced(writer, reader):
    if reader is writer:
        return
    modules = ["critic"]
    never = {"replacement_rate": 1e-9} if "replacement_rate" in reader.example_arguments else {"every_n_updates": 10**9}
    callback, told = given(writer, modules=modules), Jumps()
    other = reader(modules=modules, **never)
    agent = BareAgent(callback, other, told)
    jumped(agent, callback)
    replaced = {name: mask for jump in told.seen for name, mask in jump.units.items()}
    assert replaced
    for name, mask in replaced.items():
        if hasattr(other, "_utilities"):
            utility = other._utilities[name]
            assert not utility.age()[mask].any()
            assert utility.age()[~mask].all()
            assert sum(count for _, count in utility._young) + utility.mature == utility.size
        else:
            assert not other._records[name].counts[mask].any()
            assert not other._records[name].silence[mask].any()


@pytest.mark.parametrize("writer", that(Intervention, write="jump"))
def test_a_spectral_norm_is_one_right_after_a_jump(writer):
    agent = BareAgent(SpectralNorm(modules=["critic", "actor"]), callback := given(writer), Jumps())
    jumped(agent, callback)
    for layer in (agent.critic.Q1[2], agent.critic.trunk[0], agent.actor.policy[2]):
        layer.eval()
        size = torch.linalg.matrix_norm(layer.effective_weight.detach(), 2)
        assert float(size) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("writer", that(Intervention, write="jump"))
def test_pruned_weights_stay_pruned(writer):
    pruning = RandomPruning(sparsity=0.5)
    agent = BareAgent(pruning, callback := given(writer), Jumps())
    jumped(agent, callback)
    for layer in agent.modules():
        for transform in getattr(layer, "transforms", ()):
            assert not layer.weight[~transform.mask].any()
