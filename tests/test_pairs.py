"""Law 9: a value means the same beside every other callback.

Generated from what callbacks declare that they read and write (``READS``, ``WRITES``), for all that are exported. Each
check asks for a value, found another way: by a network in which the thing that must not count cannot be seen, or by
hand. "It ran" is no value.
"""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from bare import BareAgent, Jumps, hide_what_does_not_count
from built import some_batch

import callbacks
from callbacks import ChurnReduction, PlasticityInjection, RandomPruning, SpectralNorm
from plasticity_rl import Intervention, Probe
from plasticity_rl.agents.jumps import watched
from plasticity_rl.callback import Regularizer, RLCallback
from plasticity_rl.callback.declarations import READS, WRITES
from plasticity_rl.callback.dormant_unit_interventions import unit_activity
from plasticity_rl.nn.weight_transforms import FixedMask

EXPORTED: list[type[RLCallback]] = [getattr(callbacks, name) for name in sorted(callbacks.__all__)]


def that(kind: type[RLCallback] = RLCallback, *, read: str = "", write: str = "") -> list:
    """Return the exported callbacks of a kind that read and write these, as parameters of a test."""
    return [
        pytest.param(cls, id=cls.__name__)
        for cls in EXPORTED
        if issubclass(cls, kind) and (not read or read in cls.reads) and (not write or write in cls.writes)
    ]


def given(cls: type[RLCallback], **arguments) -> RLCallback:
    """Return a callback that acts or measures at the next update."""
    arguments = {**cls.example_arguments, **arguments}
    if issubclass(cls, Probe):
        arguments["every_n_updates"] = 1
    return cls(**arguments)


@pytest.mark.parametrize("cls", that())
def test_every_callback_declares_what_it_reads_and_writes(cls):
    assert cls.reads is not None, "declare reads: see plasticity_rl.callback.declarations.READS"
    assert cls.writes is not None, "declare writes: see plasticity_rl.callback.declarations.WRITES"
    assert cls.reads <= READS.keys()
    assert cls.writes <= WRITES.keys()
    if issubclass(cls, Probe):
        assert not cls.writes
        assert cls.reads
    if issubclass(cls, Regularizer):
        assert "loss" in cls.writes
    assert ("copy" in cls.reads) == (cls.copies is not RLCallback.copies)


@pytest.mark.parametrize("cls", that(Intervention))
def test_what_is_declared_to_be_written_agrees_with_mutates(cls):
    mutation = given(cls).mutates(plain_agent())
    assert bool(mutation.parameters) == bool({"jump", "projection", "updates"} & cls.writes)
    assert bool(mutation.optimizer_slots) == bool({"optimizer", "updates"} & cls.writes)
    assert bool(mutation.trainable) == bool({"head"} & cls.writes)


@functools.cache
def plain_agent() -> BareAgent:
    return BareAgent()


# ---- an injected head: what reads units, features, weights, outputs or gradients


@functools.cache
def after_an_injection(cls: type[Probe], hidden: bool = False) -> dict[str, float]:
    agent = BareAgent(PlasticityInjection(at_frames=[8, 10**9]))
    for seed in range(3):
        agent.step(seed)  # injected at the second
    assert agent.critic.Q1.num_injections == 1
    if hidden:
        hide_what_does_not_count(agent)
    agent.use([given(cls)])
    agent.step(7)
    return dict(agent.latest)


@pytest.mark.parametrize("cls", that(Probe))
def test_what_is_subtracted_or_waits_is_not_measured(cls):
    seen, hidden = after_an_injection(cls), after_an_injection(cls, hidden=True)
    assert seen
    assert seen == pytest.approx(hidden, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    "cls", [p for r in ("units", "weights", "outputs") for p in that(Probe, read=r)], ids=lambda cls: cls.__name__
)
def test_what_describes_a_module_goes_on_over_an_injection(cls):
    """The output does not change, so nothing that is measured of the module does: both at a learning rate near 0."""
    values = []
    for frames in ([4], [10**9]):
        agent = BareAgent(PlasticityInjection(at_frames=frames), lr=1e-30)
        injection = agent._callbacks[0]
        agent.use([injection, given(cls)])
        agent.step()
        agent.step()
        assert agent.critic.Q1.num_injections == (frames == [4])
        values.append(dict(agent.latest))
    injected, plain = values
    assert plain
    assert {tag: injected[tag] for tag in plain} == pytest.approx(plain, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("cls", that(Probe, read="features"))
def test_features_are_those_of_the_head_that_learns(cls):
    """Against the same agent with the added head in the place of the whole."""
    values = []
    for alone in (False, True):
        agent = BareAgent(PlasticityInjection(at_frames=[4]))
        for seed in range(4):
            agent.step(seed)
        if alone:
            for name in ("Q1", "Q2"):
                for critic in (agent.critic, agent.critic_target):
                    setattr(critic, name, critic.get_submodule(name).injected[0]["added"])
        for optimizer in agent._own_optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.0
        agent.use([given(cls, **({"per_layer": False} if "per_layer" in vars(given(cls)) else {}))])
        agent.step()
        values.append({tag: value for tag, value in agent.latest.items() if "critic" in tag})
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert {tag.rpartition("/")[2] for tag in values[0]} == {"critic.Q1", "critic.Q2"}


def regularizers(*reads: str) -> list:
    found = {p.values[0]: p for read in reads for p in that(Regularizer, read=read)}
    return list(found.values())


def on_the_critic(cls: type[Regularizer]) -> Regularizer:
    return given(cls, modules=["critic.Q1", "critic.Q2"])


@pytest.mark.parametrize("cls", regularizers("features", "weights"))
@pytest.mark.parametrize("when", ["waiting", "injected"])
def test_a_penalty_is_that_of_what_learns(cls, when):
    values, gradients = [], []
    for hidden in (False, True):
        regularizer = on_the_critic(cls)
        agent = BareAgent(PlasticityInjection(at_frames=[8] if when == "injected" else [10**9]), regularizer)
        for seed in range(3):
            agent.step(seed)
        if hidden and "features" in cls.reads:
            continue  # it has a twin of the network, whose layers are not hidden
        if hidden:
            hide_what_does_not_count(agent)
        (term,) = agent.terms().values()
        values.append(float(term.detach()))
        head = agent.critic.Q1.injected[0]["added"] if when == "injected" else agent.critic.Q1
        gradients.append(torch.autograd.grad(term, head[0].weight)[0])
    assert values == pytest.approx([values[0]] * len(values), rel=1e-6)
    assert all(bool(gradient.any()) for gradient in gradients), "it does not reach what learns"


# ---- pruned and rescaled weights: what reads weights


def pollute(agent: BareAgent) -> None:
    """Write into the pruned weights: they have no effect."""
    for layer in agent.modules():
        for transform in getattr(layer, "transforms", ()):
            if isinstance(transform, FixedMask):
                layer.weight.data[~transform.mask] = 3.0


def rescale(agent: BareAgent) -> None:
    """Multiply weights that a spectral norm divides by their size; 4 is exact."""
    for layer in agent.modules():
        if hasattr(layer, "transforms"):
            layer.weight.data.mul_(4.0)


WITHOUT_EFFECT = {
    "mask": (lambda: RandomPruning(sparsity=0.5), pollute),
    "scale": (lambda: SpectralNorm(modules=["critic"]), rescale),
}


def probes_of_weights(write: str) -> list[tuple[str, type]]:
    """Of the gradient by a weight the scale of the weight is a part."""
    return [p.values[0] for p in that(Probe) if write == "mask" or "gradients" not in p.values[0].reads]


@pytest.mark.parametrize(
    ("write", "cls"), [pytest.param(w, c, id=f"{w}-{c.__name__}") for w in WITHOUT_EFFECT for c in probes_of_weights(w)]
)
def test_what_has_no_effect_is_not_measured(write, cls):
    make, change = WITHOUT_EFFECT[write]
    values = []
    for changed in (False, True):
        agent = BareAgent(make())
        agent.step()
        if changed:
            change(agent)
        agent.use([given(cls)])
        for optimizer in agent._own_optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.0
        agent.step(1)
        agent.step(1)
        values.append(dict(agent.latest))
    assert values[0]
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("cls", regularizers("features", "weights", "outputs"))
@pytest.mark.parametrize("write", WITHOUT_EFFECT)
def test_what_has_no_effect_is_not_penalised(write, cls):
    make, change = WITHOUT_EFFECT[write]
    module = {"module": "critic", "coefficient": 1.0} if cls is ChurnReduction else {"modules": ["critic.Q1"]}
    values = []
    for changed in (False, True):
        regularizer = given(cls, **module)
        agent = BareAgent(make(), regularizer)
        agent.step()
        if changed:
            change(agent)
            if cls is ChurnReduction:
                agent.dispatch("on_weights_jumped", _everything(agent))
        (term,) = agent.terms().values()
        values.append(float(term.detach()))
        weight = agent.critic.Q1[2].weight
        (gradient,) = torch.autograd.grad(term, weight, allow_unused=True)
        if write == "mask":
            (mask,) = (transform.mask for transform in agent.critic.Q1[2].transforms)
            assert gradient is None or not gradient[~mask].any(), "a pruned weight gets a gradient"
    if cls is not ChurnReduction:
        assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-9)


def _everything(agent: BareAgent):
    from plasticity_rl.agents.jumps import Jump, live_tensors

    elements = {name: torch.ones_like(p, dtype=torch.bool) for name, p in agent.named_parameters()}
    return Jump("test", live_tensors(agent), elements)


# ---- weights that jump: what keeps copies, records and estimates


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
        with watched(agent, writer, "on_update_start"):
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
    moved = max(
        float((value - dict(agent.named_parameters())[name]).detach().abs().max()) for name, value in older.items()
    )
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


# ---- losses: what reads a loss of the agent


@pytest.mark.parametrize("reader", that(read="own loss"))
@pytest.mark.parametrize("writer", that(Regularizer, write="loss"))
def test_the_agents_own_loss_is_without_terms(writer, reader):
    values = []
    for coefficient in (0.0, 1e4):
        other = given(writer, coefficient=coefficient) if writer is not reader else Jumps()
        agent = BareAgent(reader(decay=0.0), other, augment=False)
        agent.step(0)
        own = agent.own_loss("critic", torch.zeros(()))
        values.append(float(own))
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    averages = agent._callbacks[[type(c) for c in agent._callbacks].index(reader)]
    agent.step(1)
    assert float(averages._averages[0]) == pytest.approx(float(agent.own_loss("critic", torch.zeros(()))), rel=1e-6)


# ---- activations: what acts on a quantity that they pin


@pytest.mark.parametrize("writer", that(Intervention, write="activations"))
@pytest.mark.parametrize("reader", [p for p in that(Intervention) if p.values[0].acts_on])
def test_what_acts_on_a_pinned_quantity_is_refused(writer, reader):
    arguments = {"module": "critic"} if reader.__name__ == "AdaptiveReplayRatio" else {"modules": ["critic"]}
    activations, acting = given(writer, modules=["critic"]), given(reader, **arguments)
    plain = BareAgent()
    pinned = any(acting.acts_on in quantities for quantities in activations.pins(plain).values())
    reasons = [acting.conflict_with(plain, activations), activations.conflict_with(plain, acting)]
    assert bool(reasons[0]) == pinned
    assert reasons[1] is None
    built = BareAgent(activations)
    values = unit_values(built)
    if acting.acts_on == "fraction of active units":
        assert pinned == (values["active"] == 0.5)
    if acting.acts_on == "silence":
        assert not pinned or values["fires"] == 1.0
    if acting.acts_on == "dormancy" and pinned:
        assert values["dormant"] == 0.0


@torch.no_grad()
def unit_values(agent: BareAgent) -> dict[str, float]:
    outputs = list(agent.probe_activations("critic", 32).values())
    fires = []
    for layer in agent.units("critic"):
        seen: list[torch.Tensor] = []
        handle = layer.activation.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        agent.forward_all(some_batch(agent))
        handle.remove()
        fires.append((seen[0] > 0).view(len(seen[0]), layer.copies, -1).any(1).any(0))
    mean = [activity for _, activity in unit_activity(agent, "critic", 32)]
    return {
        "active": float(torch.cat([o.flatten() for o in outputs]).gt(0).double().mean()),
        "fires": float(torch.cat(fires).double().mean()),
        "dormant": max(float((a <= 0.5 * a.mean()).double().mean()) for a in mean),
    }
