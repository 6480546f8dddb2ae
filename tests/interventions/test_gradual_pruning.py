"""GradualPruning: how much, which weights, and that they stay pruned beside whatever writes weights."""

from __future__ import annotations

import pytest
import torch
from bare import BareAgent
from built import drqv2
from helpers import fit_tiny
from weight_writers import WEIGHT_WRITERS

from callbacks import (
    GradualPruning,
    PlasticityInjection,
    RandomPruning,
    SpectralNorm,
)
from plasticity_rl import UserError
from plasticity_rl.nn.weight_transforms import GrowingMask, masks_of, weight_in_use
from plasticity_rl.surgery import largest_mask, polynomial_sparsity


def test_the_ramp_by_hand():
    assert [polynomial_sparsity(p, 0.8) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.7, 0.8])
    assert polynomial_sparsity(0.25, 1.0) == pytest.approx(1 - 27 / 64)


def test_the_largest_are_kept_and_of_equal_ones_the_first():
    weight = torch.tensor([[0.3, -0.9, 0.1], [0.3, 0.0, -0.3]])
    every = torch.ones_like(weight, dtype=torch.bool)
    assert largest_mask(weight, 2, every).tolist() == [[True, True, False], [False, False, False]]
    assert largest_mask(weight, 3, every).tolist() == [[True, True, False], [True, False, False]]
    assert not largest_mask(weight, 0, every).any()
    allowed = torch.tensor([[True, False, True], [False, True, False]])
    assert largest_mask(weight, 2, allowed).tolist() == [[True, False, True], [False, False, False]]
    assert torch.equal(largest_mask(weight, 5, allowed), allowed)


def pruned_layers(agent) -> dict[str, torch.nn.Module]:
    """Layers with a mask that grows, of the target network too."""
    found = {name: layer for name, layer in agent.named_modules() if masks_of(layer)}
    return {name: layer for name, layer in found.items() if any(isinstance(m, GrowingMask) for m in masks_of(layer))}


def at(agent, pruning: GradualPruning, frame: int) -> dict[str, torch.Tensor]:
    """Let it act at an env frame and return the masks by layer."""
    agent.env_frames = frame
    pruning.act(agent)
    return {name: masks_of(layer)[0].mask.clone() for name, layer in pruned_layers(agent).items()}


def test_every_layer_loses_its_smallest_along_the_ramp():
    pruning = GradualPruning(
        modules=["actor"], sparsity=0.8, start_frame=100, end_frame=200, distribution="uniform", every_n_updates=1
    )
    agent = BareAgent(pruning)
    assert set(pruned_layers(agent)) == {"actor.trunk.0", "actor.policy.0", "actor.policy.2", "actor.policy.4"}
    first = {name: layer.weight.detach().clone() for name, layer in pruned_layers(agent).items()}
    expected = {}
    for frame, share in ((150, 0.7), (200, 0.8)):
        masks = at(agent, pruning, frame)
        for name, mask in masks.items():
            sizes = first[name].abs().flatten().tolist()
            by_size = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)
            kept = by_size[: mask.numel() - round(share * mask.numel())]
            assert sorted(kept) == mask.flatten().nonzero().flatten().tolist(), (name, frame)
            layer = agent.get_submodule(name)
            assert torch.equal(layer.weight, torch.where(mask, first[name], 0.0))
            assert torch.equal(weight_in_use(layer), layer.weight)
            assert bool((mask <= expected.get(name, mask)).all()), "a pruned weight came back"
            expected[name] = mask
        assert agent.latest["intervention/gradual_pruning/sparsity/actor"] == pytest.approx(share, abs=0.01)


def test_before_the_ramp_and_after_it_nothing_happens():
    pruning = GradualPruning(modules=["critic"], sparsity=0.5, start_frame=12, end_frame=20, every_n_updates=1)
    agent, events, shares = BareAgent(pruning), [], []
    for seed in range(8):
        agent.last_events.clear()
        agent.step(seed)
        events.append("gradual_pruning" in agent.last_events)
        shares.append(agent.latest.get("intervention/gradual_pruning/sparsity/critic", 0.0))
    assert events == [False, False, False, True, True, False, False, False], "the ramp is at 0 at frame 12, at 1 at 20"
    assert shares[3:5] == pytest.approx([0.5 * 7 / 8, 0.5], abs=0.01)


def test_densities_are_those_of_erdos_renyi_over_all_layers():
    pruning = GradualPruning(modules=["critic"], sparsity=0.75, start_frame=0, end_frame=0)
    agent = BareAgent(pruning)
    masks = {name: mask for name, mask in at(agent, pruning, 4).items() if name.startswith("critic.")}
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == pytest.approx(0.25 * total, abs=len(masks))
    assert bool(masks["critic.Q1.4"].all()), "a small layer is kept"
    assert masks["critic.trunk.0"].float().mean() < 0.25


def test_the_target_network_loses_the_same_weights():
    pruning = GradualPruning(modules=["critic"], sparsity=0.5, start_frame=0, end_frame=0)
    agent = BareAgent(pruning)
    masks = at(agent, pruning, 4)
    for name in [name for name in masks if name.startswith("critic.")]:
        twin = name.replace("critic.", "critic_target.")
        assert torch.equal(masks[name], masks[twin])
        assert not agent.get_submodule(twin).weight[~masks[name]].any()


def test_moments_of_pruned_weights_are_cleared_and_no_others():
    pruning = GradualPruning(modules=["critic"], sparsity=0.5, start_frame=0, end_frame=0, every_n_updates=10**9)
    agent = BareAgent(pruning)
    for seed in range(3):
        agent.step(seed)
    weight = agent.critic.Q1[2].weight
    state = {name: value.clone() for name, value in agent.optimizer_of(weight).state[weight].items()}
    mask = at(agent, pruning, 100)["critic.Q1.2"]
    new = agent.optimizer_of(weight).state[weight]
    assert float(new["step"]) == float(state["step"]) == 3
    for moment in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(new[moment], torch.where(mask, state[moment], 0.0))
    for seed in range(3):
        agent.step(seed)
    assert not weight[~mask].any(), "no step moves them"
    assert (weight[mask] != 0).all()


@pytest.mark.parametrize("name", WEIGHT_WRITERS)
@pytest.mark.parametrize("order", [1, -1])
def test_what_is_pruned_stays_pruned_beside_what_writes_weights(name, order):
    pruning = GradualPruning(sparsity=0.6, start_frame=0, end_frame=40, every_n_updates=3)
    agent = BareAgent(*[pruning, WEIGHT_WRITERS[name]()][::order])
    kept = []
    for seed in range(14):
        agent.step(seed)
        for layer in pruned_layers(agent).values():
            (mask,) = masks_of(layer)
            assert not layer.weight[~mask.mask].any()
        kept.append({path: int(masks_of(layer)[0].mask.sum()) for path, layer in pruned_layers(agent).items()})
    weights = {path: layer.weight.numel() for path, layer in pruned_layers(agent).items()}
    online = [path for path in weights if "target" not in path]
    assert 1 - sum(kept[-1][p] for p in online) / sum(weights[p] for p in online) == pytest.approx(0.6, abs=0.02)
    assert all(after[path] <= before[path] for before, after in zip(kept, kept[1:], strict=False) for path in after)


def test_zeros_of_random_pruning_count():
    pruning = GradualPruning(
        modules=["critic"], sparsity=0.75, start_frame=0, end_frame=0, distribution="uniform", every_n_updates=1
    )
    agent = BareAgent(RandomPruning(modules=["critic"], sparsity=0.5, distribution="uniform"), pruning)
    before = {name: layer.weight.detach().clone() for name, layer in pruned_layers(agent).items()}
    at(agent, pruning, 4)
    for name, layer in pruned_layers(agent).items():
        counts = torch.stack([mask.mask for mask in masks_of(layer)]).all(0)
        assert int(counts.sum()) == counts.numel() - round(0.75 * counts.numel())
        if "target" not in name:
            assert before[name][counts].abs().min() >= before[name][~counts].abs().max()


def test_a_spectral_norm_is_that_of_what_is_left():
    pruning = GradualPruning(
        modules=["critic"], sparsity=0.7, start_frame=0, end_frame=0, every_n_updates=4, distribution="uniform"
    )
    agent = BareAgent(SpectralNorm(modules=["critic"]), pruning)
    for seed in range(5):
        agent.step(seed)
    layer = agent.critic.Q1[2]
    assert not masks_of(layer)[0].mask.all()
    assert float(torch.linalg.matrix_norm(weight_in_use(layer).detach(), 2)) == pytest.approx(1.0, abs=0.02)


def test_an_injection_elsewhere_goes_on_and_into_a_pruned_head_is_refused(tmp_path):
    arguments = {"sparsity": 0.5, "start_frame": 0, "end_frame": 100, "every_n_updates": 3}
    agent = fit_tiny(
        tmp_path,
        callbacks=[GradualPruning(modules=["encoder", "actor"], **arguments), PlasticityInjection(at_frames=[60])],
    )
    assert agent.critic.Q1.num_injections == 1
    assert agent.latest["intervention/gradual_pruning/sparsity/encoder"] > 0.3
    message = "PlasticityInjection cannot run beside GradualPruning: it would move critic.Q1.0.weight"
    with pytest.raises(UserError, match=message):
        BareAgent(GradualPruning(modules=["critic"], **arguments), PlasticityInjection(at_frames=[60]))


def test_without_sparsity_there_is_no_mask():
    agent = drqv2(GradualPruning(sparsity=0.0))
    assert not any(hasattr(layer, "transforms") for layer in agent.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"GradualPruning.sparsity=1.0 must be in \[0, 1\)"),
        ({"start_frame": -1}, "GradualPruning.start_frame=-1 must be a whole number >= 0"),
        ({"start_frame": 9, "end_frame": 8}, r"GradualPruning.end_frame=8 must be a whole number >= 9"),
        ({"every_n_updates": 0}, "GradualPruning.every_n_updates: the period is 0"),
        ({"distribution": "normal"}, "GradualPruning.distribution='normal' must be one of"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        GradualPruning(**arguments)


def test_one_layer_is_pruned_by_one_of_them():
    with pytest.raises(UserError, match="both prune critic.Q1.0 gradually"):
        BareAgent(GradualPruning(modules=["critic"]), GradualPruning(modules=["critic.Q1"], sparsity=0.5))
