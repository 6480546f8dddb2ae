"""NeuroplasticExpansion: which weights join and go, how many, and that the rest stays zero beside other callbacks."""

from __future__ import annotations

import math

import pytest
import torch
from bare import BareAgent
from built import drqv2, some_batch
from helpers import fit_tiny
from run_state import DieAt, Killed, differences, run_state
from weight_writers import WEIGHT_WRITERS

from callbacks import (
    UPGD,
    DeepFourierFeatures,
    FrozenEncoder,
    GradualPruning,
    NeuroplasticExpansion,
    PlasticityInjection,
    RandomPruning,
)
from plasticity_rl import UserError
from plasticity_rl.nn.weight_transforms import MovingMask, masks_of, weight_in_use
from plasticity_rl.surgery import cosine_growth, erdos_renyi_densities, exchanged_mask

FAST = {"end_frame": 40, "every_n_updates": 1, "batch_size": 8}


def masked_layers(agent) -> dict[str, torch.nn.Module]:
    """Layers with a mask that moves, of the target network too."""
    found = {name: layer for name, layer in agent.named_modules() if masks_of(layer)}
    return {name: layer for name, layer in found.items() if any(type(m) is MovingMask for m in masks_of(layer))}


def mask(layer: torch.nn.Module) -> torch.Tensor:
    (own,) = [one for one in masks_of(layer) if type(one) is MovingMask]
    return own.mask


def masks(agent) -> dict[str, torch.Tensor]:
    return {name: mask(layer).clone() for name, layer in masked_layers(agent).items()}


def in_use(agent, module: str) -> float:
    """Return the share of a module's weights that is in use."""
    own = [mask(layer) for name, layer in masked_layers(agent).items() if name.startswith(f"{module}.")]
    return sum(int(one.sum()) for one in own) / sum(one.numel() for one in own)


# ---- the formulas ----------------------------------------------------------------------------------------------------


def test_growth_is_the_integral_of_a_cosine():
    assert [cosine_growth(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.5 + 1 / math.pi, 1.0])
    steps = 10_000  # the rate, (1 + cos(pi p)) / 2, summed up and divided by its whole, 1/2
    rates = [(1 + math.cos(math.pi * (i + 0.5) / steps)) / 2 / steps for i in range(steps)]
    assert cosine_growth(0.3) == pytest.approx(sum(rates[: int(0.3 * steps)]) / sum(rates), rel=1e-6)


def test_an_exchange_by_hand():
    """Six weights, three in use; the first two may be pruned. One more is to be in use: two join, one is pruned."""
    before = torch.tensor([True, True, True, False, False, False])
    size = torch.tensor([-0.5, 0.2, 0.1, 0.0, 0.0, 0.0])
    gradient = torch.tensor([9.0, 9.0, 9.0, 0.3, -0.7, 0.1])
    candidates = torch.tensor([True, True, False, False, False, False])
    every = torch.ones(6, dtype=torch.bool)
    given = {"size": size, "gradient": gradient, "candidates": candidates, "allowed": every}
    after, pruned, grown = exchanged_mask(before, net=1, prune_at_most=1, **given)
    assert pruned.tolist() == [False, True, False, False, False, False], "0.1 is smaller, and no candidate"
    assert grown.tolist() == [False, False, False, True, True, False], "|-0.7| and 0.3"
    assert after.tolist() == [True, False, True, True, True, False]
    # nothing may be pruned: one joins
    assert exchanged_mask(before, net=1, prune_at_most=0, **given)[2].tolist() == [False] * 4 + [True, False]
    # three places and two to be filled: one pruned weight can be made up for, not two
    after, pruned, _ = exchanged_mask(before, net=2, prune_at_most=2, **given)
    assert pruned.tolist() == [False, True, False, False, False, False]
    assert int(after.sum()) == 5
    # what another holds back does not join, and what cannot be made up for is not pruned
    some = torch.tensor([True, True, True, True, False, False])
    after, pruned, grown = exchanged_mask(before, net=2, prune_at_most=1, **{**given, "allowed": some})
    assert not pruned.any()
    assert grown.nonzero().flatten().tolist() == [3]


def slow_gradient(agent, path: str, loss: str, batch_size: int) -> torch.Tensor:
    """Return the gradient of a layer's weight with every weight at liberty, from a second network without masks."""
    other = BareAgent()
    state = {name: value for name, value in agent.state_dict().items() if ".transforms." not in name}
    other.load_state_dict(state)
    other.env_frames = agent.env_frames + 4  # the policy's noise falls with them
    other.eval()
    weight = other.get_submodule(path).weight
    noise = torch.Generator().manual_seed(0)  # of the critic's loss: the policy's noise in the target
    value = other.loss_on(loss, some_batch(other, batch_size, seed=5), noise)
    return torch.autograd.grad(value, weight)[0]


@pytest.mark.parametrize("distribution", ["uniform", "erdos_renyi"])
def test_a_slow_version_agrees_over_a_run(distribution, monkeypatch):
    """One weight after the other, by sorting; of the encoder, whose gradient is that of the critic's loss."""
    fixed = lambda *_: torch.Generator().manual_seed(0)  # noqa: E731
    monkeypatch.setattr("callbacks.interventions.neuroplastic_expansion.probe_generator", fixed)
    growing = NeuroplasticExpansion(
        modules=["encoder"],
        initial_sparsity=0.7,
        final_sparsity=0.1,
        prune="magnitude",
        distribution=distribution,
        **FAST,
    )
    agent = BareAgent(growing)
    assert set(masked_layers(agent)) == {f"encoder.convnet.{i}" for i in (0, 2, 4, 6)}
    shapes = {path: tuple(layer.weight.shape) for path, layer in masked_layers(agent).items()}
    moved = 0
    for seed in range(11):
        expected = {}
        progress = min((agent.env_frames + 4) / 40, 1.0)
        share = progress + math.sin(math.pi * progress) / math.pi
        for path, layer in masked_layers(agent).items():
            own, size = mask(layer).flatten().tolist(), layer.weight.detach().abs().flatten().tolist()
            gradient = slow_gradient(agent, path, "critic", 8).abs().flatten().tolist()
            if distribution == "uniform":
                first, last = 0.3, 0.9
            else:
                first, last = (erdos_renyi_densities(shapes, density)[path] for density in (0.3, 0.9))
            wanted = len(own) - round((1 - first - (last - first) * share) * len(own))
            net = wanted - sum(own)
            free = sorted((i for i, used in enumerate(own) if not used), key=lambda i: -gradient[i])
            number = min(math.floor(net * 0.4 / 0.6), max(len(free) - net, 0))
            net, number = (net, number) if seed else (0, 0)  # a period ends with the first update
            gone = sorted((i for i, used in enumerate(own) if used), key=lambda i: (size[i], -i))[:number]
            expected[path] = [(own[i] and i not in gone) or i in free[: net + number] for i in range(len(own))]
            moved += number
        agent.step(seed)
        for path, layer in masked_layers(agent).items():
            assert mask(layer).flatten().tolist() == expected[path], (path, seed)
    assert moved > 20
    assert in_use(agent, "encoder") == pytest.approx(0.9, abs=0.01)


# ---- what happens at an event ----------------------------------------------------------------------------------------


def test_it_begins_with_the_largest_weights_in_online_and_target_network():
    growing = NeuroplasticExpansion(modules=["critic"], initial_sparsity=0.75, distribution="uniform")
    agent, plain = BareAgent(growing), BareAgent()
    for name, layer in masked_layers(agent).items():
        whole = plain.get_submodule(name).weight
        kept = whole.abs().flatten().sort(descending=True).indices[: whole.numel() - round(0.75 * whole.numel())]
        assert sorted(kept.tolist()) == mask(layer).flatten().nonzero().flatten().tolist()
        assert torch.equal(layer.weight, torch.where(mask(layer), whole, 0.0))
        assert torch.equal(weight_in_use(layer), layer.weight)
    assert {name.split(".")[0] for name in masked_layers(agent)} == {"critic", "critic_target"}


def test_what_joins_starts_at_zero_and_then_learns():
    growing = NeuroplasticExpansion(modules=["actor", "critic"], prune_ratio=0.0, initial_sparsity=0.6, **FAST)
    agent = BareAgent(growing)
    agent.step(0)
    before, weights = masks(agent), {n: layer.weight.detach().clone() for n, layer in masked_layers(agent).items()}
    agent.env_frames = 24
    growing.act(agent)
    for name, layer in masked_layers(agent).items():
        joined = mask(layer) & ~before[name]
        assert torch.equal(layer.weight, weights[name]), "the output is what it was"
        assert bool((mask(layer) | ~before[name]).all()), "nothing went"
        if "target" not in name and before[name].float().mean() < 0.5:
            assert joined.any()
    now = masks(agent)
    agent.update(some_batch(agent, seed=3))
    for name in ("critic.Q1.2", "critic.trunk.0"):
        weight, joined = agent.get_submodule(name).weight, now[name] & ~before[name]
        assert (weight[joined] != 0).float().mean() > 0.9
        assert not weight[~now[name]].any()


def test_only_weights_into_dormant_units_go():
    growing = NeuroplasticExpansion(
        modules=["critic"], initial_sparsity=0.5, final_sparsity=0.2, tau=0.0, distribution="uniform", **FAST
    )
    agent = BareAgent(growing)
    with torch.no_grad():  # unit 3 of the first hidden layer of Q1 is silent, whatever it reads
        agent.critic.Q1[0].bias[3] = -100.0
    silent: dict[str, torch.Tensor] = {}
    for head in ("Q1", "Q2"):
        for place, activation in ((0, 1), (2, 3)):
            name = f"critic.{head}.{place}"

            def keep(_, __, output, name=name) -> None:
                silent[name] = (output == 0).all(0)

            agent.get_submodule(f"critic.{head}.{activation}").register_forward_hook(keep)
    batch = some_batch(agent, 8, seed=5)
    with torch.no_grad():
        agent.critic(agent.encode(batch["pixels"]), batch["action"])
    assert silent["critic.Q1.0"][3]
    assert not silent["critic.Q1.0"].all()
    before = masks(agent)
    agent.env_frames = 20
    growing.act(agent)
    gone = {name: (before[name] & ~own) for name, own in masks(agent).items()}
    online = {name: one for name, one in gone.items() if name.startswith("critic.")}
    assert gone["critic.Q1.0"].any()
    for name, one in online.items():
        rows = silent.get(name, torch.zeros(len(one), dtype=torch.bool))  # trunk and outputs have no hidden units
        assert not one[~rows].any(), name
    assert torch.equal(gone["critic.Q1.0"], gone["critic_target.Q1.0"])
    assert agent.latest["intervention/neuroplastic_expansion/pruned/critic"] == sum(
        int(one.sum()) for one in online.values()
    )
    grown = sum(int((own & ~before[name]).sum()) for name, own in masks(agent).items() if name.startswith("critic."))
    assert agent.latest["intervention/neuroplastic_expansion/grown/critic"] == grown
    # at most two fifths of what joins in that layer
    joined = masks(agent)["critic.Q1.0"] & ~before["critic.Q1.0"]
    assert int(gone["critic.Q1.0"].sum()) <= 0.4 * int(joined.sum())


def test_the_number_in_use_follows_the_schedule_whatever_is_pruned():
    growing = NeuroplasticExpansion(initial_sparsity=0.8, final_sparsity=0.3, start_frame=8, tau=0.5, **FAST)
    agent, shares, events = BareAgent(growing), [], []
    for seed in range(12):
        agent.last_events.clear()
        agent.step(seed)
        shares.append(in_use(agent, "critic"))
        events.append("neuroplastic_expansion" in agent.last_events)
    progress = [min(max(4 * (i + 1) - 8, 0) / 32, 1.0) for i in range(12)]
    total = {
        m: sum(mask(la).numel() for n, la in masked_layers(agent).items() if n.startswith(f"{m}.")) for m in ("critic",)
    }
    assert shares[0] == shares[1] == pytest.approx(in_use(BareAgent(growing), "critic"))
    assert [after - before for before, after in zip(shares, shares[1:], strict=False)] == pytest.approx(
        [
            (cosine_growth(b) - cosine_growth(a)) * (shares[-1] - shares[0])
            for a, b in zip(progress, progress[1:], strict=False)
        ],
        abs=10 / total["critic"],
    )
    assert events == [False, False, *[True] * 8, False, False], "until frame 40, where growth is over"
    assert agent.latest["intervention/neuroplastic_expansion/sparsity/critic"] == pytest.approx(1 - shares[-1])


def test_moments_of_what_is_not_in_use_are_zero_and_no_others_are_touched():
    growing = NeuroplasticExpansion(
        modules=["critic"], initial_sparsity=0.5, prune="magnitude", **{**FAST, "every_n_updates": 10**9}
    )
    agent = BareAgent(growing)
    for seed in range(3):
        agent.step(seed)
    weight = agent.critic.Q1[2].weight
    state = {name: value.clone() for name, value in agent.optimizer_of(weight).state[weight].items()}
    before = mask(agent.critic.Q1[2]).clone()
    agent.env_frames = 20
    growing.act(agent)
    after, new = mask(agent.critic.Q1[2]), agent.optimizer_of(weight).state[weight]
    assert (before & ~after).any()
    assert float(new["step"]) == float(state["step"]) == 3
    for moment in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(new[moment], torch.where(after, state[moment], 0.0))
        assert not new[moment][after & ~before].any(), "what joined begins anew"


# ---- beside others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIGHT_WRITERS)
@pytest.mark.parametrize("order", [1, -1])
def test_what_is_not_in_use_stays_zero_beside_what_writes_weights(name, order):
    growing = NeuroplasticExpansion(initial_sparsity=0.8, final_sparsity=0.4, tau=0.5, **{**FAST, "every_n_updates": 3})
    agent = BareAgent(*[growing, WEIGHT_WRITERS[name]()][::order])
    for seed in range(14):
        agent.step(seed)
        for path, layer in masked_layers(agent).items():
            assert not layer.weight[~mask(layer)].any(), (path, seed)
            if "_target" in path:
                assert torch.equal(mask(layer), mask(agent.get_submodule(path.replace("_target", ""))))
    own = [layer.weight for path, layer in masked_layers(agent).items() if "target" not in path]
    used = [mask(layer) for path, layer in masked_layers(agent).items() if "target" not in path]
    assert sum(map(torch.Tensor.sum, used)) / sum(w.numel() for w in own) == pytest.approx(0.6, abs=0.01)


def test_what_random_pruning_holds_back_does_not_join():
    growing = NeuroplasticExpansion(
        modules=["critic"], initial_sparsity=0.8, final_sparsity=0.0, distribution="uniform", **FAST
    )
    agent = BareAgent(RandomPruning(modules=["critic"], sparsity=0.5, distribution="uniform"), growing)
    for seed in range(11):
        agent.step(seed)
    for layer in masked_layers(agent).values():
        fixed = next(one.mask for one in masks_of(layer) if type(one) is not MovingMask)
        assert torch.equal(mask(layer) & fixed, mask(layer))
        assert torch.equal(mask(layer), fixed), "all that may be in use is"
        assert not layer.weight[~fixed].any()


def test_it_begins_with_its_own_number_within_what_random_pruning_leaves():
    """The largest of those, not those of the largest that are left by chance."""
    growing = NeuroplasticExpansion(modules=["critic"], initial_sparsity=0.8, distribution="uniform")
    agent = BareAgent(growing, RandomPruning(modules=["critic"], sparsity=0.5, distribution="uniform"))
    assert len(masked_layers(agent)) > 4
    for layer in masked_layers(agent).values():
        assert int(mask(layer).sum()) == layer.weight.numel() - round(0.8 * layer.weight.numel())
        assert int((weight_in_use(layer) != 0).sum()) == int(mask(layer).sum())


def test_what_joins_starts_at_zero_beside_an_optimizer_with_noise():
    growing = NeuroplasticExpansion(prune_ratio=0.0, initial_sparsity=0.6, **{**FAST, "every_n_updates": 10**6})
    agent = BareAgent(growing, UPGD(adaptive=False, sigma=0.1))
    for seed in range(3):
        agent.step(seed)
    before = masks(agent)
    assert any(layer.weight[~before[name]].any() for name, layer in masked_layers(agent).items()), "noise moved them"
    agent.env_frames = 24
    growing.act(agent)
    joined = {name: mask(layer) & ~before[name] for name, layer in masked_layers(agent).items()}
    assert any(new.any() for new in joined.values())
    for name, layer in masked_layers(agent).items():
        assert not layer.weight[joined[name]].any(), name
        assert not layer.weight[~mask(layer)].any(), name


def test_a_frozen_copy_an_injection_and_a_second_mask_are_refused(tmp_path):
    arguments = {"initial_sparsity": 0.5, **FAST}
    with pytest.raises(UserError, match="both prune critic.Q1.0 gradually"):
        BareAgent(NeuroplasticExpansion(modules=["critic"]), GradualPruning(modules=["critic.Q1"]))
    with pytest.raises(UserError, match="PlasticityInjection cannot run beside NeuroplasticExpansion: it would move"):
        BareAgent(NeuroplasticExpansion(modules=["critic"], **arguments), PlasticityInjection(at_frames=[60]))
    given = [FrozenEncoder(layer="layer1", feature_dim=16), NeuroplasticExpansion(**arguments)]
    with pytest.raises(UserError, match="cannot run beside .*the layers of 'encoder' are replaced and frozen"):
        fit_tiny(tmp_path, callbacks=given, max_frames=60)


def test_where_no_unit_is_ever_dormant_only_magnitude_is_accepted():
    fourier = DeepFourierFeatures(modules=["critic"])
    with pytest.raises(UserError, match="acts on the dormancy of critic"):
        BareAgent(fourier, NeuroplasticExpansion(modules=["critic"], **FAST))
    growing = NeuroplasticExpansion(modules=["critic"], prune="magnitude", **FAST)
    agent = BareAgent(DeepFourierFeatures(modules=["critic"]), growing)
    for seed in range(2):
        agent.step(seed)
    assert agent.latest["intervention/neuroplastic_expansion/pruned/critic"] > 0


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_exactly(tmp_path):
    def fit(folder, *more, **options):
        growing = NeuroplasticExpansion(initial_sparsity=0.7, end_frame=140, every_n_updates=2, tau=0.3, batch_size=8)
        data = {"eval_every_n_frames": 60}
        return fit_tiny(folder, callbacks=[growing, *more], max_frames=150, data_options=data, **options)

    straight = fit(tmp_path / "straight")
    with pytest.raises(Killed):
        fit(tmp_path / "resumed", DieAt(90))
    resumed = fit(tmp_path / "resumed", ckpt_path="last")
    assert in_use(straight, "critic") > 0.7, "0.3 at first, 0.75 at frame 140"
    assert differences(run_state(straight), run_state(resumed)) == []
    assert all(torch.equal(one, masks(resumed)[name]) for name, one in masks(straight).items())


def test_without_sparsity_there_is_no_mask():
    agent = drqv2(NeuroplasticExpansion(initial_sparsity=0.0, final_sparsity=0.0))
    assert not any(hasattr(layer, "transforms") for layer in agent.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_sparsity": 1.0}, r"NeuroplasticExpansion.initial_sparsity=1.0 must be in \[0, 1\)"),
        ({"final_sparsity": -0.1}, r"NeuroplasticExpansion.final_sparsity=-0.1 must be in \[0, 1\)"),
        ({"final_sparsity": 0.9}, "final_sparsity=0.9 must be at most initial_sparsity=0.8: networks grow"),
        ({"start_frame": 9, "end_frame": 8}, r"NeuroplasticExpansion.end_frame=8 must be a whole number >= 9"),
        ({"every_n_updates": 0}, "NeuroplasticExpansion.every_n_updates: the period is 0"),
        ({"prune": "random"}, "NeuroplasticExpansion.prune='random' must be one of"),
        ({"prune_ratio": 1.0}, r"NeuroplasticExpansion.prune_ratio=1.0 must be in \[0, 1\)"),
        ({"tau": 1.0}, r"NeuroplasticExpansion.tau=1.0 must be in \[0, 1\)"),
        ({"batch_size": 0}, "NeuroplasticExpansion.batch_size=0 must be a whole number >= 1"),
        ({"distribution": "normal"}, "NeuroplasticExpansion.distribution='normal' must be one of"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        NeuroplasticExpansion(**arguments)
