"""SimBaV2's heads: the formula over a run, rows that are unit vectors whatever happens, and exact resume."""

from __future__ import annotations

import math

import pytest
import torch
from bare import BareAgent, Jumps
from built import assert_learns, assert_target_is_a_twin, changed, drqv2, shapes
from helpers import fit_tiny, tiny_agent, tiny_sac
from run_state import DieAt, Killed, differences, run_state
from slow_layers import slow_linear

from callbacks import (
    DASH,
    BroNet,
    CReLU,
    DistanceFromInit,
    FractionActiveUnits,
    HareAndTortoise,
    LayerNorm,
    NeuroplasticExpansion,
    NormalizeAndProject,
    PlasticityInjection,
    RandomPruning,
    ReDo,
    Reset,
    ShrinkAndPerturb,
    SimBaV2Blocks,
    SpectralNorm,
    WeightClipping,
    WiderNetwork,
)
from plasticity_rl import DQN, SAC, UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.nn.hypersphere import Scale
from plasticity_rl.nn.starts import start_of
from plasticity_rl.nn.weight_transforms import masks_of
from plasticity_rl.surgery import reinitialize

STATE = {"observation": "state"}


def spherical(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: m.weight for name, m in module.named_modules() if start_of(m) == "spherical"}


def assert_on_the_sphere(agent, *, target: bool = False) -> None:
    for top in ("actor", "critic", *(["critic_target"] if target else [])):
        found = spherical(agent.get_submodule(top))
        assert len(found) >= 5
        for name, weight in found.items():
            torch.testing.assert_close(weight.detach().norm(dim=1), torch.ones(len(weight)), msg=f"{top}.{name}")


def rows_of_norm_one(weight: torch.Tensor) -> torch.Tensor:
    return weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-8)


def unit(x: list[float]) -> list[float]:
    norm = max(math.sqrt(sum(value * value for value in x)), 1e-8)
    return [value / norm for value in x]


def slow_head(values: dict[str, list], num_blocks: int, width: int, x: list[float], rows: list[list[float]]) -> list:
    """SimBaV2 of one input in plain Python, from the weights by name and all observations that were acted on."""

    def dense(x: list[float], name: str) -> list[float]:
        weight = values[f"{name}.weight"]
        return slow_linear(x, weight, values.get(f"{name}.bias", [0.0] * len(weight)))

    def scaled(x: list[float], name: str, factor: float = 1.0) -> list[float]:
        return [value * weight * factor for value, weight in zip(x, values[f"{name}.weight"], strict=True)]

    for index in range(len(rows[0]) if rows else 0):
        column = [row[index] for row in rows]
        mean = sum(column) / len(column)
        x = [
            *x[:index],
            (x[index] - mean) / math.sqrt(sum((v - mean) ** 2 for v in column) / len(column)),
            *x[index + 1 :],
        ]
    stream = unit(scaled(dense(unit([*x, 3.0]), "1"), "2"))
    for block in range(4, 4 + num_blocks):
        inner = [max(value, 0.0) + 1e-8 for value in scaled(dense(stream, f"{block}.0"), f"{block}.1")]
        towards = unit(dense(inner, f"{block}.4"))
        away = [b - a for a, b in zip(stream, towards, strict=True)]
        step = scaled(away, f"{block}.step", math.sqrt(width) / (num_blocks + 1))
        stream = unit([a + b for a, b in zip(stream, step, strict=True)])
    last = 4 + num_blocks
    return dense(scaled(dense(stream, str(last)), str(last + 1)), str(last + 2))


class Seen(RLCallback):
    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def on_env_step(self, agent, step) -> None:
        self.rows += step["state"].double().tolist()


def test_a_slow_head_agrees_over_a_run(tmp_path):
    seen = Seen()
    given = [SimBaV2Blocks(hidden_dim=4), seen, Reset(at_frames=[100]), ReDo(tau=0.3, every_n_updates=5, batch_size=8)]
    agent = fit_tiny(tmp_path, callbacks=given, make_agent=tiny_sac, data_options=STATE)
    assert agent.num_updates > 30
    assert_on_the_sphere(agent)
    state = torch.tensor(seen.rows[7::30], dtype=torch.float32)
    action = torch.rand(len(state), agent.action_dim, generator=torch.Generator().manual_seed(0))
    inputs = torch.cat([state, action], -1)
    found = [(agent.actor.policy, 1, state)]
    found += [(net.get_submodule(q), 2, inputs) for net in (agent.critic, agent.critic_target) for q in ("Q1", "Q2")]
    for head, num_blocks, x in found:
        values = {name: p.detach().double().tolist() for name, p in head.named_parameters()}
        slow = [slow_head(values, num_blocks, 4, one, seen.rows) for one in x.double().tolist()]
        torch.testing.assert_close(head(x).detach().double(), torch.tensor(slow).double(), rtol=2e-3, atol=2e-4)


def test_first_values_are_those_of_the_code():
    agent = SAC((5,), 2)
    agent.build([SimBaV2Blocks()])
    assert_on_the_sphere(agent, target=True)
    assert_target_is_a_twin(agent)
    for head, blocks, width in ((agent.actor.policy, 1, 128), (agent.critic.Q1, 2, 512)):
        first, inner, step, last = (head.get_submodule(name) for name in ("2", "4.1", "4.step", str(4 + blocks + 1)))
        assert all(isinstance(layer, Scale) for layer in (first, inner, step, last))
        assert [len(layer.weight) for layer in (first, inner, step, last)] == [width, 4 * width, width, width]
        at_first = [(float(layer.weight.detach()[0]), layer.first) for layer in (first, inner, step, last)]
        assert at_first[0] == pytest.approx((math.sqrt(2 / width),) * 2)
        assert at_first[1] == pytest.approx((math.sqrt(2 / width) / 2,) * 2)
        assert at_first[2] == pytest.approx((1 / math.sqrt(width), 1 / (blocks + 1)))
        assert at_first[3] == (1.0, 1.0)
        assert not head.get_submodule(str(4 + blocks + 2)).bias.any()


def test_the_rest_of_the_agent_is_that_of_a_run_without_it():
    agent, plain = drqv2(SimBaV2Blocks(hidden_dim=8)), drqv2()
    assert {name.split(".")[1] for name in changed(agent, plain)} == {"policy", "Q1", "Q2"}
    assert_learns(agent)


class SeesEveryPass(RLCallback):
    """Sees the weights whenever a network computes in an update, and after it."""

    def __init__(self) -> None:
        self.passes = 0

    def on_fit_start(self, trainer, pl_module) -> None:
        self.agent = pl_module
        for net in (pl_module.actor, pl_module.critic):
            net.register_forward_pre_hook(lambda *_: self.check())

    def check(self) -> None:
        self.passes += 1
        assert_on_the_sphere(self.agent)

    def on_update_end(self, agent, batch, metrics) -> None:
        self.check()


def test_whatever_computes_in_an_update_has_projected_weights():
    """After resets, perturbations and recycled units as well: 7 passes and the end of every update."""
    given = [
        SimBaV2Blocks(hidden_dim=8),
        Reset(modules=["critic.Q1"], at_frames=[8]),
        ShrinkAndPerturb(modules=["actor", "critic"], at_frames=[12], shrink=0.5),
        ReDo(modules=["critic"], tau=0.5, every_n_updates=2, batch_size=8),
        look := SeesEveryPass(),
    ]
    agent = BareAgent(*given, lr=0.05)
    before = {name: w.detach().clone() for name, w in spherical(agent.critic).items()}
    for seed in range(8):
        agent.step(seed)
    assert look.passes > 40
    assert all(not torch.equal(w, before[name]) for name, w in spherical(agent.critic).items())


def test_the_target_is_the_moving_average_of_projected_weights():
    agent = BareAgent(SimBaV2Blocks(hidden_dim=8), lr=0.05)
    before = {name: w.detach().clone() for name, w in spherical(agent.critic_target).items()}
    agent.step()
    for name, weight in spherical(agent.critic_target).items():
        online = spherical(agent.critic)[name].detach()
        torch.testing.assert_close(weight, before[name] + 0.01 * (online - before[name]), atol=1e-6, rtol=1e-5)


def test_a_projection_after_a_jump_is_a_jump_that_scales_copies_alike():
    """Rows that shrink to a half are doubled again, in the average that HareAndTortoise keeps by the same factor."""
    average = HareAndTortoise(modules=["critic"], every_n_updates=10**9)
    heads, shrunk = (
        SimBaV2Blocks(modules=["critic"], hidden_dim=8),
        ShrinkAndPerturb(modules=["critic"], at_frames=[4], shrink=0.5),
    )
    name = "critic.Q1.4.0.weight"
    between: dict[str, list[torch.Tensor]] = {}

    class Between(RLCallback):
        def on_weights_jumped(self, agent, jump) -> None:
            weights = [agent.get_parameter(name), *(copy[name] for copy in average.copies())]
            between[jump.by] = [weight.detach().clone() for weight in weights]

    agent = BareAgent(heads, average, shrunk, told := Jumps(), Between(), lr=0.01)
    agent.step()
    agent.env_frames += 4
    agent.dispatch("on_update_start")
    assert [jump.by for jump in told.seen] == [shrunk.state_key, heads.state_key]
    halved, copied = between[shrunk.state_key]
    norms = halved.norm(dim=1, keepdim=True)
    assert float(norms.max()) < 0.99
    torch.testing.assert_close(agent.get_parameter(name).detach().norm(dim=1), torch.ones(len(norms)))
    (after,) = (copy[name] for copy in average.copies())
    torch.testing.assert_close(after, copied / norms)
    assert heads.state_dict()["jumped"] == []


@pytest.mark.parametrize("order", [1, -1])
def test_what_shrinks_rows_of_online_and_target_is_undone_in_both(order):
    """DASH multiplies a row by one factor: divided by its norm, it is the row that it was, of norm 1."""
    dash = DASH(modules=["critic"], num_batches=2, batch_size=8, at_frames=[8])
    agent = BareAgent(*[SimBaV2Blocks(hidden_dim=8), dash][::order], lr=0.05)
    for seed in range(2):
        agent.step(seed)
    nets = {"critic": agent.critic, "critic_target": agent.critic_target}
    before = {top: {name: w.detach().clone() for name, w in spherical(net).items()} for top, net in nets.items()}
    agent.env_frames += 4
    agent.dispatch("on_update_start")
    assert float(agent.latest["intervention/dash/factor/critic"]) < 0.9
    assert_on_the_sphere(agent, target=True)
    for top, net in nets.items():
        for name, weight in spherical(net).items():
            torch.testing.assert_close(weight.detach(), rows_of_norm_one(before[top][name]), msg=f"{top}.{name}")


def test_of_the_target_only_what_jumped_is_projected():
    """A fresh head has lost weights to its mask, in online and target network; the other head goes on as it was."""
    pruning = RandomPruning(modules=["critic"], sparsity=0.2, distribution="uniform")
    agent = BareAgent(SimBaV2Blocks(hidden_dim=8), pruning, Reset(modules=["critic.Q1"], at_frames=[8]), lr=0.05)
    for seed in range(2):
        agent.step(seed)
    kept = {name: p.clone() for name, p in agent.critic_target.Q2.named_parameters()}
    assert max(float((w.norm(dim=1) - 1).abs().max()) for w in spherical(agent.critic_target.Q2).values()) > 1e-5
    agent.env_frames += 4
    agent.dispatch("on_update_start")
    for name, weight in spherical(agent.critic_target.Q1).items():
        assert torch.equal(weight, spherical(agent.critic.Q1)[name])
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(len(weight)))
    assert all(torch.equal(p, kept[name]) for name, p in agent.critic_target.Q2.named_parameters())


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "pruning",
    [
        lambda: RandomPruning(modules=["actor", "critic"], sparsity=0.8),
        lambda: NeuroplasticExpansion(modules=["actor", "critic"], initial_sparsity=0.8, end_frame=10**9),
    ],
    ids=["RandomPruning", "NeuroplasticExpansion"],
)
def test_rows_that_others_have_thinned_out_are_unit_vectors_from_the_start(pruning, order):
    """They are the rows of the agent without masks, some of their elements gone and the rest divided by its norm."""
    probe = DistanceFromInit(every_n_updates=1, modules=["actor", "critic"], per_layer=False)
    agent = BareAgent(*[SimBaV2Blocks(hidden_dim=8), pruning(), probe][::order], lr=1e-30)
    plain = BareAgent(SimBaV2Blocks(hidden_dim=8))
    assert_target_is_a_twin(agent)
    for top in ("actor", "critic", "critic_target"):
        layers = dict(agent.get_submodule(top).named_modules())
        for name, weight in spherical(plain.get_submodule(top)).items():
            (mask,) = masks_of(layers[name])
            left = weight.detach() * mask.mask
            torch.testing.assert_close(layers[name].weight.detach(), rows_of_norm_one(left), msg=f"{top}.{name}")
    agent.step()
    assert agent.latest["distance_from_init/critic"] < 1e-5, "nothing is left to project at the first step"


def test_what_is_drawn_anew_under_a_mask_has_rows_of_norm_one():
    """So that who takes them as first weights (L2Init after a Reset, RandomTargetFit) takes those that are there."""
    agent = BareAgent(SimBaV2Blocks(hidden_dim=8), RandomPruning(modules=["critic"], sparsity=0.8))
    critic = agent.module("critic")
    before = {name: weight.detach().clone() for name, weight in spherical(critic).items()}
    reinitialize(critic, agent.init_layer, torch.Generator().manual_seed(0))
    for name, weight in spherical(critic).items():
        norms = weight.detach().norm(dim=1)
        assert not torch.equal(weight, before[name])
        assert torch.equal(weight == 0, before[name] == 0), "pruned weights stay zero"
        torch.testing.assert_close(norms[norms > 0], torch.ones_like(norms[norms > 0]))


def test_masks_that_hold_nothing_back_change_no_first_weight():
    agent = drqv2(SimBaV2Blocks(hidden_dim=8), RandomPruning(modules=["critic"], sparsity=0.0))
    plain = drqv2(SimBaV2Blocks(hidden_dim=8))
    assert not changed(agent, plain)


def test_dead_units_are_recycled_in_blocks_alone_and_rows_stay_unit_vectors():
    agent = BareAgent(SimBaV2Blocks(hidden_dim=8), redo := ReDo(modules=["critic"], tau=0.0, every_n_updates=1))
    layer = agent.units("critic.Q1")[-1]
    assert layer.name == "critic.Q1.5.2"
    (maker, scale), reader = layer.makers, layer.readers[0].layer
    with torch.no_grad():
        scale.weight[3] = 0.0
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    agent.num_updates = 1
    redo.on_update_start(agent)
    assert float(scale.weight[3].detach()) == pytest.approx(scale.start)
    assert not torch.equal(maker.weight[3], before["critic.Q1.5.0.weight"][3])
    assert not reader.weight[:, 3].any()
    agent._callbacks[0]._jumped |= agent._callbacks[0]._weights.keys()
    agent._callbacks[0].on_update_start(agent)
    assert_on_the_sphere(agent)
    assert not reader.weight[:, 3].any()
    moved = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    inside = ("critic.Q1.4.", "critic.Q1.5.", "critic.Q2.4.", "critic.Q2.5.")
    stream = [n for n in moved if n.startswith("critic.") and not n.startswith(inside)]
    assert all(torch.allclose(dict(agent.named_parameters())[n], before[n], atol=1e-6) for n in stream), (
        "rounding alone"
    )


def test_a_reset_of_the_last_layers_takes_their_scales_along():
    agent = drqv2(SimBaV2Blocks(hidden_dim=8))
    names = Reset(modules=["critic"], last_layers=2, at_frames=[0]).mutates(agent).optimizer_slots
    assert names == {f"critic.{q}.{n}" for q in ("Q1", "Q2") for n in ("8.weight", "8.bias", "7.weight", "6.weight")}


@pytest.mark.parametrize("make", [tiny_sac, tiny_agent])
def test_a_killed_run_goes_on_exactly(make, tmp_path):
    """A reset is due at the frame of the checkpoint that the run goes on from, whose projection comes after it."""

    def given() -> list[RLCallback]:
        return [
            SimBaV2Blocks(hidden_dim=4),
            Reset(at_frames=[60, 120]),
            ShrinkAndPerturb(modules=["critic"], at_frames=[118]),
            ReDo(tau=0.5, every_n_updates=4, batch_size=8),
            RandomPruning(modules=["actor"], sparsity=0.1),
        ]

    data = {**(STATE if make is tiny_sac else {}), "eval_every_n_frames": 60}
    run = {"make_agent": make, "data_options": data, "max_frames": 200}
    straight = fit_tiny(tmp_path / "straight", callbacks=given(), **run)
    with pytest.raises(Killed):
        fit_tiny(tmp_path / "resumed", callbacks=[*given(), DieAt(150)], **run)
    resumed = fit_tiny(tmp_path / "resumed", callbacks=given(), ckpt_path="last", **run)
    assert differences(run_state(straight), run_state(resumed)) == []
    assert_on_the_sphere(resumed)


def test_no_hook_is_left_behind(tmp_path):
    heads = SimBaV2Blocks(hidden_dim=4)
    agent = fit_tiny(tmp_path, callbacks=[heads], make_agent=tiny_sac, data_options=STATE, max_frames=60)
    assert heads._handles == []
    for optimizer in agent.trainer.optimizers:
        assert not optimizer._optimizer_step_post_hooks


def test_active_units_are_those_of_the_blocks():
    agent = BareAgent(SimBaV2Blocks(hidden_dim=8), FractionActiveUnits(every_n_updates=1))
    agent.step()
    layers = {tag for tag in agent.latest if tag.startswith("fau/critic/")}
    assert layers == {f"fau/critic/{q}.{block}.2" for q in ("Q1", "Q2") for block in (4, 5)}
    assert 0.2 < agent.latest["fau/critic"] < 0.8


def test_wider_blocks_and_crelu_fit():
    agent = drqv2(SimBaV2Blocks(modules=["critic"], hidden_dim=8), WiderNetwork(modules=["critic"], factor=2.0))
    assert [shapes(agent)[f"critic.Q1.4.{n}.weight"] for n in (0, 1, 4)] == [(64, 8), (64,), (8, 64)]
    agent = drqv2(SimBaV2Blocks(modules=["critic"], hidden_dim=8), CReLU(modules=["critic"]))
    assert [shapes(agent)[f"critic.Q1.4.{n}.weight"] for n in (0, 1, 4)] == [(32, 8), (32,), (8, 64)]
    for weight in spherical(agent.critic).values():
        torch.testing.assert_close(weight.detach().norm(dim=1), torch.ones(len(weight)))
    assert_learns(agent)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (BroNet(), "both build the head"),
        (LayerNorm(), "is normalised in places of its own architecture"),
        (NormalizeAndProject(), "is normalised in places of its own architecture"),
        (SpectralNorm(modules=["critic"]), "both normalise the weight of critic.Q1.0"),
        (WeightClipping(), "puts the rows of them back to norm 1"),
        (PlasticityInjection(at_frames=[50]), "it would move critic.Q1.0.weight, which the injection freezes"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_what_would_undo_it_is_refused(other, says, order):
    with pytest.raises(UserError, match=rf"cannot run beside \w+: .*{says}") as error:
        drqv2(*[SimBaV2Blocks(hidden_dim=8), type(other)(**other.arguments())][::order])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("agent", [lambda: DQN((5,), 3), lambda: DQN((4, 10, 10), 3, encoder="minatar")])
def test_heads_that_read_hidden_units_are_refused(agent):
    with pytest.raises(UserError, match=r"SimBaV2Blocks.modules: 'critic.advantage' reads the hidden units of encoder"):
        agent().build([SimBaV2Blocks()])


def test_bad_arguments_are_refused():
    with pytest.raises(UserError, match=r"SimBaV2Blocks.shift=0.0 must be"):
        SimBaV2Blocks(shift=0.0)
