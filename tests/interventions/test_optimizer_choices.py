"""UPGD and TRAC on agents: which parameters they step on, beside whom, and what is edited while they do."""

from __future__ import annotations

import copy

import pytest
import torch
from agent_kinds import KINDS
from bare import BareAgent
from built import other_agent, some_batch
from helpers import fit_tiny, tiny_agent, tiny_data
from run_state import Watcher, differences, optimizer_state, run_state
from tiny_agent import TinyAgent

from callbacks import (
    CURL,
    TRAC,
    UPGD,
    ContinualBackprop,
    GradualPruning,
    HareAndTortoise,
    OptimizerReset,
    PlasticityInjection,
    RandomFrozenEncoder,
    ReDo,
    Reset,
    SharpnessAware,
    ShrinkAndPerturb,
    WeightClipping,
    WiderNetwork,
)
from plasticity_rl import UserError
from plasticity_rl.optim.parts import Parts, part_that_steps_on
from plasticity_rl.optim.trac import ScaledFromReference
from plasticity_rl.optim.upgd import UtilityGatedDescent

LIVELY = {"first_scale": 0.1}
"""TRAC with which weights move from the first update on."""
BOTH = [lambda **more: UPGD(**more), lambda **more: TRAC(**LIVELY, **more)]
each = pytest.mark.parametrize("make", BOTH, ids=["UPGD", "TRAC"])


def stepper(agent, name: str) -> type:
    """Return the class of what steps on a parameter in the end."""
    parameter = dict(agent.named_parameters())[name]
    optimizer = agent.optimizer_of(parameter)
    for kind in (UtilityGatedDescent, ScaledFromReference, torch.optim.Adam, torch.optim.SGD):
        if part_that_steps_on(optimizer, parameter, kind) is not None:
            return kind
    raise AssertionError(name)


# ---- which parameters


@each
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("drqv2", ["encoder", "actor", "critic"]),
        ("sac", ["actor", "critic"]),
        ("dqn", ["encoder", "critic"]),
        ("rainbow", ["encoder", "critic"]),
    ],
)
def test_all_networks_of_every_agent_by_default(make, kind, expected, tmp_path):
    callback = make()
    agent = KINDS[kind].fit(tmp_path, callbacks=[callback], max_frames=70)
    assert callback.modules == expected
    assert agent.num_updates > 0
    for name, parameter in agent.named_parameters():
        if agent.optimizer_of(parameter) is not None:
            replaced = name.partition(".")[0] in expected
            assert (stepper(agent, name) is callback.kind) == replaced, name
            assert torch.isfinite(parameter).all()


def test_a_part_of_a_module_and_the_rest_of_it():
    agent = BareAgent(UPGD(modules=["critic.Q1"]), TRAC(modules=["critic.Q2", "actor"], **LIVELY))
    agent.step()
    found = {name: stepper(agent, name) for name, p in agent.named_parameters() if agent.optimizer_of(p) is not None}
    assert {found[name] for name in found if name.startswith("critic.Q1.")} == {UtilityGatedDescent}
    assert {found[name] for name in found if name.startswith(("critic.Q2.", "actor."))} == {ScaledFromReference}
    assert {found[name] for name in found if name.startswith(("critic.trunk.", "encoder."))} == {torch.optim.Adam}


def test_the_rest_is_stepped_on_as_before():
    """The first update of the trunk beside UPGD on the heads is that without it, bit for bit."""
    agents = [BareAgent(*given) for given in ([], [UPGD(modules=["critic.Q1", "critic.Q2"])])]
    for agent in agents:
        agent.step()
    plain, other = (dict(agent.named_parameters()) for agent in agents)
    for name in plain:
        same = torch.equal(plain[name], other[name])
        if name.startswith(("encoder.", "critic.trunk.")):
            assert same, name
        if name.startswith("critic.Q1.0."):
            assert not same, name


@each
def test_two_modules_in_one_optimizer_and_one_that_has_momentum(make):
    """Of the second agent: torso and value share an Adam, the policy has SGD."""
    callback = make(modules=["value", "policy"])
    agent = other_agent(callback)
    callback.on_fit_start(None, agent)  # type: ignore[arg-type]
    for seed in range(3):
        agent.update(some_batch(agent, side=16, seed=seed))
    kinds = {name.partition(".")[0]: stepper(agent, name) for name, p in agent.named_parameters() if p.requires_grad}
    assert kinds == {"torso": torch.optim.Adam, "value": callback.kind, "policy": callback.kind}
    of_value, of_policy = agent._own_optimizers
    assert type(of_value) is Parts
    assert type(of_policy) is callback.kind


def test_every_module_has_a_scale_of_its_own_and_logs_it():
    agent = BareAgent(TRAC(modules=["actor", "critic.Q1", "critic.Q2"], log_every_n_updates=1, **LIVELY))
    agent.step()
    assert not agent.latest, "no scale before the first update"
    for seed in range(4):
        agent.step(seed)
    scales = [agent.latest[f"intervention/trac/scale/{name}"] for name in ("actor", "critic.Q1", "critic.Q2")]
    assert all(scale > 0 for scale in scales)
    assert len(set(scales)) == 3


@each
def test_what_callbacks_bring_along_is_stepped_on_as_before(make):
    agent = BareAgent(CURL(), make(modules=["encoder"]))
    agent.step()
    (name,) = [name for name, _ in agent.named_parameters() if name.startswith("extras.")]
    assert stepper(agent, name) is torch.optim.Adam


@each
def test_layers_that_others_build_are_stepped_on_too(make):
    agent = BareAgent(make(modules=["critic"]), WiderNetwork(modules=["critic"]), PlasticityInjection(at_frames=[8]))
    assert agent.critic.Q1[0].out_features > 12
    for seed in range(4):
        agent.step(seed)
    head = agent.critic.Q1.injected[0]["added"]
    first = copy.deepcopy(head.state_dict())
    agent.step(9)
    assert agent.critic.Q1.num_injections == 1
    assert not torch.equal(head[0].weight, first["0.weight"]), "what was injected does not learn"
    assert stepper(agent, "critic.Q1.injected.0.added.0.weight") in (UtilityGatedDescent, ScaledFromReference)


@each
def test_a_frozen_head_is_left_alone(make):
    """By noise, by decay, and by a scale that goes on changing."""
    agent = BareAgent(make(modules=["critic"]), PlasticityInjection(at_frames=[8]))
    for seed in range(3):
        agent.step(seed)
    assert agent.critic.Q1.num_injections == 1
    frozen = {n: p.detach().clone() for n, p in agent.critic.named_parameters() if not p.requires_grad}
    assert len(frozen) > 10
    for seed in range(3):
        agent.step(seed)
    assert all(torch.equal(dict(agent.critic.named_parameters())[name], value) for name, value in frozen.items())


@each
def test_a_frozen_encoder_stays(make, tmp_path):
    watcher = Watcher()
    freeze = RandomFrozenEncoder(layer="layer1", feature_dim=16)
    agent = fit_tiny(tmp_path, callbacks=[make(), freeze, watcher], max_frames=70)
    inside = {n: p for n, p in agent.named_parameters() if n.startswith("encoder.")}
    moved = {name for name, p in inside.items() if not torch.equal(p, watcher.initial[name])}
    assert moved == {name for name, p in inside.items() if p.requires_grad}
    assert 0 < len(moved) < len(inside)


# ---- edits of weights and of state


def names_of(agent, *starts: str) -> list[str]:
    return [name for name, _ in agent.named_parameters() if name.startswith(tuple(f"{start}." for start in starts))]


@each
@pytest.mark.parametrize("updates", [6, 12])
def test_a_reset_is_not_undone(make, updates):
    """The update after it moves fresh weights by a step, not back to where they were nor to where the run began."""
    reset = Reset(modules=["critic"], at_frames=[4 * updates])
    agent = BareAgent(make(modules=["critic"]), reset)
    first = {name: p.detach().clone() for name, p in agent.named_parameters()}
    for seed in range(updates):
        agent.step(seed)
    old = {name: p.detach().clone() for name, p in agent.named_parameters()}
    agent.env_frames += 4
    agent.dispatch("on_update_start")
    fresh = {name: p.detach().clone() for name, p in agent.named_parameters()}
    agent.update(some_batch(agent))
    for name in names_of(agent, "critic"):
        if not name.endswith("weight") or fresh[name].ndim < 2:
            continue
        now = agent.get_parameter(name).detach()
        moved = float((now - fresh[name]).norm())
        assert 0 < moved < 0.1 * float((fresh[name] - old[name]).norm()), name
        assert moved < 0.1 * float((fresh[name] - first[name]).norm()), name
        state = agent.optimizer_of(agent.get_parameter(name)).state[agent.get_parameter(name)]
        assert float(state["step"]) == 1


def test_after_a_reset_of_a_whole_module_its_tuners_begin_again():
    agent = BareAgent(TRAC(modules=["actor", "critic"], **LIVELY), Reset(modules=["critic"], at_frames=[40]))
    for seed in range(10):
        agent.step(seed)
    groups = {name: agent.optimizer_by_name(name).param_groups[0] for name in ("actor", "critic")}
    before = {name: group["squares"].clone() for name, group in groups.items()}
    agent.step(10)
    first = BareAgent(TRAC(modules=["critic"], **LIVELY))
    first.step()
    begun = first.optimizer_by_name("critic").param_groups[0]
    assert torch.equal(groups["critic"]["scale"], begun["scale"])
    assert torch.equal(groups["critic"]["squares"], begun["squares"])
    assert bool((groups["actor"]["squares"] > 0.5 * before["actor"]).all())


@each
@pytest.mark.parametrize("what", ["both", "moments", "step"])
def test_an_optimizer_reset_clears_the_slots_and_moves_nothing(make, what):
    agent = BareAgent(make(modules=["critic"]), OptimizerReset(modules=["critic"], what=what, at_frames=[24]))
    for seed in range(6):
        agent.step(seed)
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    agent.env_frames += 4
    agent.dispatch("on_update_start")
    for name in names_of(agent, "critic"):
        parameter = agent.get_parameter(name)
        assert torch.equal(parameter, before[name])
        for key, value in agent.optimizer_of(parameter).state[parameter].items():
            if what == "both" or (key == "step") == (what == "step"):
                assert not value.any(), (name, key)
    agent.update(some_batch(agent))
    for name in names_of(agent, "critic"):
        parameter = agent.get_parameter(name)
        assert float((parameter - before[name]).abs().max().detach()) < 0.02, name
        assert torch.isfinite(parameter).all()


@each
def test_recycled_units_start_from_nothing_and_stay_recycled(make):
    recycle = ReDo(modules=["critic"], tau=0.0, every_n_updates=6, batch_size=16)
    agent = BareAgent(make(modules=["critic"]), recycle)
    with torch.no_grad():
        agent.critic.Q1[0].bias[:3] = -100.0
    for seed in range(6):
        agent.step(seed)
    agent.dispatch("on_update_start")
    assert agent.last_events == {"redo": 6}
    incoming, reads = agent.critic.Q1[0].weight, agent.critic.Q1[2].weight
    fresh = incoming[:3].detach().clone()
    assert not reads[:, :3].detach().any(), "recycled"
    for weight, place in ((incoming, (slice(0, 3),)), (reads, (slice(None), slice(0, 3)))):
        slots = agent.optimizer_of(weight).state[weight]
        shaped = {key: value for key, value in slots.items() if value.shape == weight.shape}
        assert len(shaped) >= 3
        assert not any(value[place].any() for value in shaped.values()), shaped.keys()
        assert any(value.any() for value in shaped.values()), "others keep theirs"
    agent.update(some_batch(agent))
    assert float((incoming[:3].detach() - fresh).abs().max()) < 0.02
    assert float(reads[:, :3].detach().abs().max()) < 0.02
    assert float(reads[:, :3].detach().abs().max()) > 0, "and learn"


@each
@pytest.mark.parametrize(
    "editor",
    [
        ShrinkAndPerturb(modules=["critic"], shrink=0.3, perturb=0.7, at_frames=[20], reset_optimizer=False),
        HareAndTortoise(modules=["critic"], decay=0.5, every_n_updates=5),
        WeightClipping(modules=["critic"], kappa=0.2),
        ContinualBackprop(modules=["critic"], maturity_threshold=2, replacement_rate=0.2),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_what_others_move_stays_moved(make, editor):
    """Every update moves weights by no more than steps do, from where the other has put them."""
    editor = type(editor)(**editor.arguments())
    agent = BareAgent(make(modules=["critic"]), editor)
    edited = 0
    for seed in range(12):
        before = {name: p.detach().clone() for name, p in agent.critic.named_parameters()}
        agent.env_frames += 4
        agent.dispatch("on_update_start")
        put = {name: p.detach().clone() for name, p in agent.critic.named_parameters()}
        edited += any(float((put[name] - before[name]).abs().max()) > 1e-3 for name in put)
        batch = some_batch(agent, seed=seed)
        metrics = agent.update(batch)
        agent.num_updates += 1
        agent.end_update(batch, metrics)
        for name, parameter in agent.critic.named_parameters():
            assert float((parameter.detach() - put[name]).abs().max()) < 0.05, (seed, name)
    assert edited, "nothing was edited"


@each
def test_pruned_weights_stay_out_of_use(make):
    pruning = GradualPruning(modules=["critic"], sparsity=0.8, start_frame=0, end_frame=24, every_n_updates=2)
    agent = BareAgent(make(modules=["critic"]), pruning)
    for seed in range(10):
        agent.step(seed)
    layer = agent.critic.Q1[2]
    (transform,) = layer.transforms
    assert float((~transform.mask).double().mean()) > 0.5
    x = torch.randn(5, layer.in_features)
    by_hand = x @ (layer.weight * transform.mask).T + layer.bias
    torch.testing.assert_close(layer(x), by_hand)


@each
def test_sharpness_aware_puts_its_weights_back_before_a_step(make):
    agents = [BareAgent(make(modules=["critic"]), SharpnessAware(modules=["critic"], rho=rho)) for rho in (0.0, 5.0)]
    for agent in agents:
        agent.step()
    for one, other in zip(*(agent.critic.parameters() for agent in agents), strict=True):
        assert float((one - other).abs().max().detach()) < 0.01


# ---- the run: generators, resume, refusals


def test_the_noise_is_the_callbacks_own_and_in_the_checkpoint(tmp_path):
    runs = [
        run_state(fit_tiny(tmp_path / str(i), callbacks=[UPGD(modules=["actor"], sigma=sigma)]))
        for i, sigma in enumerate((0.0, 0.1, 0.1))
    ]
    assert differences(runs[1], runs[2]) == []
    assert differences(runs[0]["weights"], runs[1]["weights"]) != []
    own = [name for name in runs[1]["generators"] if name.startswith("intervention/UPGD")]
    assert len(own) == 1
    assert not [name for name in runs[0]["generators"] if name.startswith("intervention/")]
    for name, state in runs[0]["generators"].items():
        assert runs[1]["generators"][name] == state or name.startswith("explore"), name


def test_a_copy_of_an_agent_learns_what_it_learns():
    agent = BareAgent(UPGD(modules=["critic"], sigma=0.1), TRAC(modules=["actor"], **LIVELY))
    agent.step()
    twin = copy.deepcopy(agent)
    for one in (agent, twin):
        one.update(some_batch(one, seed=4))
    for one, other in zip(agent.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


@each
def test_it_goes_on_exactly_beside_another(make, tmp_path):
    """Both in one run, one of them on a part of an optimizer; a reset just before the checkpoint."""
    given = lambda: [  # noqa: E731
        UPGD(modules=["critic.Q1", "actor"]),
        TRAC(modules=["critic.Q2", "encoder"], **LIVELY),
        Reset(modules=["critic"], at_frames=[90]),
        make(modules=["critic.trunk"]),
    ]
    straight = fit_tiny(tmp_path / "straight", callbacks=given())
    fit_tiny(tmp_path / "resumed", callbacks=given(), max_frames=100)
    resumed = fit_tiny(tmp_path / "resumed", callbacks=given(), ckpt_path="last")
    one, other = run_state(straight), run_state(resumed)
    for part in ("weights", "optimizers", "optimizer settings", "generators", "replay", "evaluations"):
        assert differences(one[part], other[part]) == [], part
    assert any("displacement" in state for state in optimizer_state(resumed).values())


def test_a_run_cannot_take_one_up_or_lose_it(tmp_path):
    fit_tiny(tmp_path / "with", callbacks=[UPGD()], max_frames=100)
    fit_tiny(tmp_path / "without", max_frames=100)
    with pytest.raises(UserError, match=r"UPGD\(.*\) removed since the checkpoint was written: what it did is part"):
        fit_tiny(tmp_path / "with", ckpt_path="last")
    with pytest.raises(UserError, match=r"UPGD\(.*\) added .*it can only be there from the first frame on"):
        fit_tiny(tmp_path / "without", callbacks=[UPGD()], ckpt_path="last")


def test_the_learning_rate_of_a_run_that_goes_on_is_applied(tmp_path):
    given = lambda: [UPGD(modules=["actor"]), UPGD(modules=["critic.Q1"], lr=0.5), TRAC(modules=["encoder"])]  # noqa: E731
    fit_tiny(tmp_path, callbacks=given(), max_frames=100)
    agent = fit_tiny(tmp_path, callbacks=given(), ckpt_path="last", agent_options={"lr": 0.25})
    rates = {name: [g["lr"] for g in agent.optimizer_by_name(name).param_groups] for name in agent.optimizer_names}
    assert rates == {"encoder": [0.25], "actor": [0.25], "critic": [0.25, 0.5]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [UPGD(modules=["critic"]), TRAC(modules=["critic.Q1"])], "both choose the optimizer of critic.Q1"),
        (lambda: [UPGD(modules=["critics"])], r"no module 'critics' in BareAgent"),
        (lambda: [TRAC(modules=["critic", "critic.Q1"])], r"TRAC.modules=.*'critic' and 'critic.Q1' share parameters"),
        (lambda: [TRAC(modules=["actor", "actor"])], r"TRAC.modules=.*'actor' and 'actor' share parameters"),
        (lambda: [UPGD(scaling="globl")], r"UPGD.scaling='globl' must be one of \['global', 'local'\]. Did you mean"),
        (lambda: [UPGD(sigma=-1.0)], "UPGD.sigma=-1.0 must be >= 0"),
        (lambda: [UPGD(beta_utility=1.0)], r"UPGD.beta_utility=1.0 must be in \[0, 1\)"),
        (lambda: [UPGD(weight_decay=-0.1)], "UPGD.weight_decay=-0.1 must be >= 0"),
        (lambda: [UPGD(lr=0.0)], "UPGD.lr=0.0 must be > 0, or null for that of the agent"),
        (lambda: [TRAC(discounts=[])], "TRAC.discounts is empty; give at least one"),
        (lambda: [TRAC(discounts=[0.9, 1.5])], r"TRAC.discounts=1.5 must be in \(0, 1\]"),
        (lambda: [TRAC(first_scale=0.0)], "TRAC.first_scale=0.0 must be > 0"),
        (lambda: [TRAC(log_every_n_updates=0)], "TRAC.log_every_n_updates=0 must be"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as error:
        BareAgent(*make())
    assert "\n" not in str(error.value)


class Stubborn(TinyAgent):
    """Keeps the optimizers that it has."""

    def configure_optimizers(self):
        return [torch.optim.Adam([*self.torso.parameters(), *self.value.parameters()]), self._of_policy()]

    def _of_policy(self):
        return torch.optim.SGD(self.policy.parameters(), lr=1e-3)


class Still(TinyAgent):
    """Trains no torso."""

    def configure_optimizers(self):
        return self.with_choices([torch.optim.Adam(m.parameters()) for m in (self.value, self.policy)])


@each
@pytest.mark.parametrize(
    ("cls", "module", "message"),
    [
        (Stubborn, "value", r"cannot replace the optimizers of Stubborn: its configure_optimizers must return"),
        (Still, "torso", "no optimizer steps on 'torso'; leave it out"),
    ],
)
def test_an_agent_that_keeps_its_optimizers_is_refused(make, cls, module, message):
    agent, callback = cls((9, 16, 16), 2), make(modules=[module])
    agent.build([callback])
    with pytest.raises(UserError, match=message):
        callback.on_fit_start(None, agent)


def test_a_choice_for_a_part_that_was_chosen_is_refused():
    agent = tiny_agent(tiny_data(max_frames=200))
    agent.choose_optimizer("critic.Q1", lambda own: own)
    with pytest.raises(UserError, match=r"the optimizer of 'critic' is chosen twice, with that of 'critic.Q1'"):
        agent.choose_optimizer("critic", lambda own: own)
