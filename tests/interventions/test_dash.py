"""DASH: the factors by hand, the directions by a slow loop, and what shrinks with them."""

from __future__ import annotations

import copy

import pytest
import torch
from bare import seen_beside
from helpers import fit_tiny, fit_with_maps
from torch.nn import functional as F

from callbacks import DASH, ContinualTasks, RandomFrozenEncoder
from plasticity_rl import UserError
from plasticity_rl.callback.gradient_probes import probe_generator
from plasticity_rl.surgery import direction_factors


@pytest.fixture
def agent(tmp_path):
    return fit_with_maps(tmp_path)


def test_factors_by_hand():
    weight = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    direction = torch.tensor([[6.0, 8.0], [3.0, 4.0], [-1.0, 0.0], [1.0, 1.0]])
    factors = direction_factors(weight, direction, least=0.3)
    assert factors.flatten().tolist() == pytest.approx([1.0, 0.6, 0.3, 0.3])
    assert factors.shape == (4, 1), "a row of a linear layer is one vector"
    kernels = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    factors = direction_factors(kernels, torch.tensor([[[[0.8, 0.6]], [[1.0, 0.0]]]]), least=0.1)
    assert factors.shape == (1, 2, 1, 1), "a kernel is one vector"
    assert factors.flatten().tolist() == pytest.approx([0.8, 0.1])
    bias = direction_factors(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]), least=0.0)
    assert bias.tolist() == pytest.approx([2**-0.5]), "a bias is one vector"
    lost = direction_factors(torch.ones(2, 2), torch.tensor([[float("nan"), 1.0], [1.0, 1.0]]), least=0.3)
    assert lost.flatten().tolist() == pytest.approx([1.0, 1.0]), "nothing shrinks by what is not finite"


def slow_directions(agent, dash: DASH) -> dict[str, torch.Tensor]:
    """Average the negative gradients of the critic's loss, written out, by the names of parameters in the agent."""
    draws = type(agent.rng)(agent.rng.seed).get(f"intervention/{dash.state_key}")
    noise = probe_generator(agent, f"intervention/{dash.state_key}")
    network = copy.deepcopy(torch.nn.ModuleDict({"encoder": agent.encoder, "critic": agent.critic}))
    found = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for _ in range(dash.num_batches):
        batch = agent.data.replay.peek(dash.batch_size, draws)
        target = agent.td_targets(batch, noise)
        network.zero_grad()
        values = network["critic"](network["encoder"](batch["pixels"]), batch["action"])
        sum(F.mse_loss(value, target) for value in values).backward()
        for name, p in network.named_parameters():
            found[name] = (1 - dash.alpha) * found[name] - dash.alpha * p.grad
    return found


def cosine(one: list[float], other: list[float]) -> float:
    sizes = [sum(x * x for x in values) ** 0.5 for values in (one, other)]
    return sum(x * y for x, y in zip(one, other, strict=True)) / max(sizes[0] * sizes[1], 1e-12)


def test_every_vector_shrinks_by_its_cosine_in_online_network_and_target(agent):
    dash = DASH(modules=["encoder", "critic"], num_batches=3, batch_size=16, at_frames=[0], floor=0.05)
    directions = slow_directions(agent, dash)
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    slots = {id(p): copy.deepcopy(o.state[p]) for o in agent.trainer.optimizers for p in o.state}
    dash.act(agent)
    after, seen = dict(agent.named_parameters()), []
    for name in [n for n in before if n.startswith(("encoder.", "critic."))]:
        old, direction, new = before[name], directions[name], after[name].detach()
        if name.startswith("critic.trunk.1"):  # a LayerNorm
            assert torch.equal(new, old)
            continue
        rows = {1: lambda t: [t], 2: list, 4: lambda t: [kernel for unit in t for kernel in unit]}[old.dim()]
        for was, towards, now in zip(rows(old), rows(direction), rows(new), strict=True):
            factor = max(0.05, cosine(was.flatten().tolist(), towards.flatten().tolist()))
            seen.append(factor)
            torch.testing.assert_close(now, was * factor, rtol=1e-3, atol=1e-6)
        if name.startswith("critic."):
            twin = name.replace("critic.", "critic_target.")
            ratio = torch.where(old != 0, new / old, 1.0)
            torch.testing.assert_close(after[twin].detach(), before[twin] * ratio, rtol=1e-3, atol=1e-6)
    assert max(seen) > 0.3 > 0.05 == min(seen), "some point with the gradient, some away"
    assert all(torch.equal(after[n], before[n]) for n in before if n.startswith("actor."))
    state = {id(p): o.state[p] for o in agent.trainer.optimizers for p in o.state}
    assert all(torch.equal(value, state[p][key]) for p, own in slots.items() for key, value in own.items())


def test_the_mean_factor_is_logged_for_every_module(agent):
    dash = DASH(modules=["actor", "critic"], num_batches=1, batch_size=16, at_frames=[0], floor=0.25)
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    text = dash.act(agent)
    for module in ("actor", "critic"):
        names = [n for n in before if n.startswith(f"{module}.") and ".trunk.1." not in n]
        ratios = torch.cat([(dict(agent.named_parameters())[n].detach() / before[n]).flatten() for n in names])
        mean = float(ratios[ratios.isfinite()].mean())
        assert agent.latest[f"intervention/dash/factor/{module}"] == pytest.approx(mean, rel=2e-2)
        assert f"{module} by {agent.latest[f'intervention/dash/factor/{module}']:.2f}" in text


def test_with_a_floor_of_one_nothing_shrinks(agent):
    before = [p.detach().clone() for p in agent.parameters()]
    DASH(floor=1.0, at_frames=[0], num_batches=1, batch_size=8).act(agent)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.parameters(), strict=True))


def test_batches_come_from_a_generator_of_its_own(agent):
    dash = DASH(at_frames=[0], num_batches=2, batch_size=8)
    before = agent.rng.state_dict()
    dash.act(agent)
    after = agent.rng.state_dict()
    assert after.keys() - before.keys() == {f"intervention/{dash.state_key}"}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is None or p.grad.isfinite().all() for p in agent.parameters())


def test_what_is_frozen_stays(agent):
    agent.encoder.requires_grad_(False)
    before = [p.clone() for p in agent.encoder.parameters()]
    dash = DASH(at_frames=[0], num_batches=1, batch_size=8)
    assert not any(name.startswith("encoder.") for name in dash.mutates(agent).parameters)
    dash.act(agent)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.encoder.parameters(), strict=True))
    assert "intervention/dash/factor/critic" in agent.latest
    assert "intervention/dash/factor/encoder" not in agent.latest


def test_beside_a_frozen_encoder_the_others_are_to_be_named(tmp_path):
    with pytest.raises(UserError, match="RandomFrozenEncoder cannot run beside DASH: it would overwrite frozen"):
        fit_tiny(tmp_path, callbacks=[DASH(at_frames=[60]), RandomFrozenEncoder()])


def test_it_acts_where_the_task_changes(tmp_path):
    tasks = ContinualTasks(tasks=["tiny", "tiny_away"], every_n_frames=60)
    dash = DASH(at_task_switches=True, num_batches=1, batch_size=8)
    agent = fit_tiny(tmp_path, callbacks=[dash, tasks], max_frames=150, data_options={"eval_every_n_frames": 50})
    assert 0.3 <= agent.latest["intervention/dash/factor/critic"] < 1.0
    assert dash.events.seen == 0


@pytest.mark.parametrize("order", [1, -1])
def test_what_reads_the_training_batch_does_not_see_its_passes(order):
    looking = DASH(floor=1.0, every_n_frames=4, num_batches=2, batch_size=8)
    assert seen_beside([looking], order) == seen_beside([], order)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, r"DASH.alpha=0.0 must be in \(0, 1\]"),
        ({"floor": 1.5}, r"DASH.floor=1.5 must be in \[0, 1\]"),
        ({"num_batches": 0}, "DASH.num_batches=0 must be a whole number >= 1"),
        ({"batch_size": 0}, "DASH.batch_size=0 must be a whole number >= 1"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        DASH(at_frames=[1], **arguments)


def test_without_any_schedule_it_is_refused():
    with pytest.raises(UserError, match="DASH.every_n_frames / at_frames"):
        DASH()
