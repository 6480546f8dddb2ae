"""Law 9: a value means the same beside every other callback.

Generated from what callbacks declare that they read and write (``READS``, ``WRITES``), for all that are exported. Each
check asks for a value, found another way: by a network in which the thing that must not count cannot be seen, or by
hand. "It ran" is no value.
"""

from __future__ import annotations

import functools

import pytest
import torch
from bare import BareAgent, Jumps, hide_what_does_not_count
from built import some_batch
from callback_examples import given, that

from callbacks import ChurnReduction, PlasticityInjection, RandomPruning, SpectralNorm
from plasticity_rl import Intervention, Probe
from plasticity_rl.callback import Regularizer, RLCallback
from plasticity_rl.callback.declarations import READS, WRITES
from plasticity_rl.callback.dormant_unit_interventions import unit_activity
from plasticity_rl.nn.weight_transforms import FixedMask


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
