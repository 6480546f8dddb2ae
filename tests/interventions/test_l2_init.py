"""L2Init: the penalty, its gradient, its origin, and what it leaves out."""

from __future__ import annotations

import pytest
import torch
from bare import BareAgent
from helpers import fit_tiny
from tensordict import TensorDict

from callbacks import GradualPruning, L2Init, NeuroplasticExpansion, PruneDormant, Reset
from plasticity_rl import UserError
from plasticity_rl.callback import RLCallback
from plasticity_rl.losses import squared_distance
from plasticity_rl.nn.weight_transforms import masks_of


def test_squared_distance_by_hand():
    theta = [torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), torch.tensor([5.0], requires_grad=True)]
    origin = [torch.tensor([[1.0, 0.0], [0.0, 4.5]]), torch.tensor([2.0])]
    value = squared_distance(theta, origin)
    assert float(value.detach()) == 4.0 + 9.0 + 0.25 + 9.0  # the formula: no root and no factor 1/2
    value.backward()
    assert torch.equal(theta[0].grad, 2 * torch.tensor([[0.0, 2.0], [3.0, -0.5]]))
    assert torch.equal(theta[1].grad, torch.tensor([6.0]))


class Look(RLCallback):
    """Compares the callback's term with one computed from weights copied by this observer.

    Args:
        regularizer: What is looked at.
        prefixes: Names of the parameters that should count.
    """

    def __init__(self, regularizer: L2Init, prefixes: tuple[str, ...]) -> None:
        self.regularizer, self.prefixes = regularizer, prefixes
        self.checked = 0
        self.values: list[float] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self.initial = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_weights_jumped(self, agent, jump) -> None:
        ids = {id(jump.live[name]) for name in jump.renewed}
        self.initial |= {name: p.detach().clone() for name, p in agent.named_parameters() if id(p) in ids}

    def on_update_start(self, agent) -> None:
        counted = {
            name: p
            for name, p in agent.named_parameters()
            if name.startswith(self.prefixes) and ".trunk.1." not in name  # the LayerNorm
        }
        expected = sum(float((p.detach() - self.initial[name]).double().square().sum()) for name, p in counted.items())
        penalty = self.regularizer.penalty(agent, TensorDict())
        self.values.append(float(penalty.detach()))
        assert self.values[-1] == pytest.approx(expected, rel=1e-5, abs=1e-12)
        names = [name for name, p in agent.named_parameters() if p.requires_grad]
        gradients = torch.autograd.grad(
            self.regularizer.coefficient * penalty, [agent.get_parameter(name) for name in names], allow_unused=True
        )
        for name, gradient in zip(names, gradients, strict=True):
            if name in counted:
                wanted = 2 * self.regularizer.coefficient * (counted[name] - self.initial[name])
                torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=0)
            else:
                assert gradient is None, f"{name} should not be regularised"
        self.checked += 1


@pytest.mark.parametrize(
    ("modules", "loss", "prefixes"),
    [
        (["critic"], "critic", ("critic.",)),
        (["critic.Q1"], "critic", ("critic.Q1.",)),
        (["encoder", "critic"], "critic", ("encoder.", "critic.")),
        (["actor"], "actor", ("actor.",)),
    ],
)
def test_penalty_and_gradient_in_a_run(modules, loss, prefixes, tmp_path):
    regularizer = L2Init(coefficient=0.3, modules=modules, loss=loss)
    look = Look(regularizer, prefixes)
    fit_tiny(tmp_path, callbacks=[regularizer, look])
    assert look.checked >= 30
    assert look.values[0] == 0.0, "theta_0 are the weights before the first update"
    assert min(look.values[1:]) > 0.0


class OneUpdate(RLCallback):
    """Keeps loss metrics and gradients of one update.

    Args:
        number: Which update, from 1.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def on_update_start(self, agent) -> None:
        if agent.num_updates + 1 == self.number:
            self.before = {name: p.detach().clone() for name, p in agent.named_parameters()}

    def on_update_end(self, agent, batch, metrics) -> None:
        if agent.num_updates == self.number:
            self.metrics = {tag: float(value) for tag, value in metrics.items()}
            self.after = {name: p.detach().clone() for name, p in agent.named_parameters()}


def test_term_is_added_to_the_loss_and_logged(tmp_path):
    """At update 1 the term is 0; at update 2 both runs are at the same weights, so they differ by the term alone."""
    runs = []
    for name, callbacks in [("without", []), ("with", [L2Init(coefficient=5.0)])]:
        second = OneUpdate(2)
        fit_tiny(tmp_path / name, callbacks=[*callbacks, second])
        runs.append(second)
    without, regularised = runs
    assert all(torch.equal(without.before[name], regularised.before[name]) for name in without.before)
    term = regularised.metrics["intervention/l2_init/critic/loss"]
    assert term > 0
    assert regularised.metrics["loss/critic"] == pytest.approx(without.metrics["loss/critic"] + term, rel=1e-5)
    moved = {n for n in without.after if not torch.equal(without.after[n], regularised.after[n])}
    assert {n for n in moved if n.startswith("encoder.")} == set(), "the term has no gradient for the encoder"
    assert {"critic.Q1.0.weight", "critic.trunk.0.weight"} <= moved


def test_actor_loss_is_another_loss(tmp_path):
    second = OneUpdate(2)
    fit_tiny(tmp_path, callbacks=[L2Init(modules=["actor"], loss="actor"), second])
    assert second.metrics["intervention/l2_init/actor/loss"] > 0


def test_strong_pull_keeps_the_weights_near_their_start(tmp_path):
    distances = []
    for coefficient in (0.0, 100.0):
        keep = OneUpdate(1)
        agent = fit_tiny(tmp_path / str(coefficient), callbacks=[L2Init(coefficient=coefficient), keep])
        weights = {n: p for n, p in agent.named_parameters() if n.startswith("critic.") and ".trunk.1." not in n}
        distances.append(sum(float((p.detach() - keep.before[name]).square().sum()) for name, p in weights.items()))
    assert distances[1] < 0.5 * distances[0]


def test_after_a_reset_the_origin_is_the_fresh_weight(tmp_path):
    """Look follows on_weights_jumped by itself and compares at every update; here: the origin really moved."""
    regularizer = L2Init(coefficient=0.3, modules=["encoder", "critic"])
    look = Look(regularizer, ("encoder.", "critic."))

    class Start(RLCallback):
        def on_train_start(self, trainer, pl_module) -> None:
            self.initial = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    start = Start()
    reset = Reset(modules=["critic.Q1"], at_frames=[100])
    fit_tiny(tmp_path, callbacks=[regularizer, reset, look, start])
    origin = regularizer.state_dict()["initial"]
    assert origin.keys() == {n for n in start.initial if n.startswith(("encoder.", "critic.")) and ".trunk.1." not in n}
    moved = {name for name, value in origin.items() if not torch.equal(value, start.initial[name])}
    assert moved == {"critic.Q1.0.weight", "critic.Q1.2.weight", "critic.Q1.4.weight"}
    assert look.checked >= 30


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (GradualPruning, {"sparsity": 0.5, "start_frame": 0}),
        (NeuroplasticExpansion, {"initial_sparsity": 0.6, "final_sparsity": 0.2, "prune": "magnitude"}),
    ],
)
def test_what_is_pruned_after_the_start_counts_for_nothing(cls, arguments, order):
    regularizer = L2Init(coefficient=2.0, modules=["critic"])
    pruning = cls(modules=["critic"], end_frame=100, every_n_updates=10**9, **arguments)
    agent = BareAgent(*[regularizer, pruning][::order])
    agent.env_frames = 50
    pruning.act(agent)
    layer, origin = agent.critic.Q1[2], regularizer.state_dict()["initial"]["critic.Q1.2.weight"]
    (mask,) = (one.mask for one in masks_of(layer))
    assert bool(origin[~mask].any()), "something was pruned that was in use"
    (term,) = agent.terms().values()
    assert float(term.detach()) == 0.0, "nothing in use has moved"
    with torch.no_grad():
        layer.weight[~mask] = 7.0  # whatever else writes there
        layer.weight[tuple(mask.nonzero()[0])] += 0.5
    (term,) = agent.terms().values()
    assert float(term.detach()) == pytest.approx(2.0 * 0.5**2)
    (gradient,) = torch.autograd.grad(term, layer.weight)
    assert gradient.abs().sum() == pytest.approx(2.0 * 2 * 0.5)


@pytest.mark.parametrize("order", [1, -1])
def test_units_that_are_pruned_count_for_nothing(order):
    regularizer = L2Init(coefficient=2.0, modules=["encoder", "critic"])
    prune = PruneDormant(modules=["encoder", "critic"], tau=0.9, every_n_updates=2, batch_size=8)
    agent = BareAgent(*[regularizer, prune][::order])
    agent.num_updates = 2
    first = {name: value.clone() for name, value in regularizer.state_dict()["initial"].items()}
    for _ in range(2):  # the second time after a reset, whose fresh weights are the new origin but for what is pruned
        agent.dispatch("on_update_start")
        (term,) = agent.terms().values()
        assert float(term.detach()) == 0.0, "nothing in use has moved"
        Reset(modules=["critic"], at_frames=[0]).act(agent)
    pruned, origin = prune.state_dict()["pruned"], regularizer.state_dict()["initial"]
    units = pruned["critic.Q1.1"]
    assert 0 < int(units.sum()) < len(units)
    assert first["critic.Q1.0.weight"][units].any()
    with torch.no_grad():
        agent.critic.Q1[0].weight[int((~units).nonzero()[0]), -1] += 0.5  # it reads an action, which nothing prunes
    agent.dispatch("on_update_start")
    (term,) = agent.terms().values()
    assert float(term.detach()) == pytest.approx(2.0 * 0.5**2, rel=1e-4)
    assert not origin["critic.Q1.2.weight"][:, units].any()
    assert origin["critic.Q1.2.weight"][:, ~units].any()


def test_origin_is_a_copy_and_is_saved(tmp_path):
    regularizer = L2Init()
    agent = fit_tiny(tmp_path, callbacks=[regularizer])
    origin = regularizer.state_dict()["initial"]
    pointers = {p.data_ptr() for p in agent.parameters()}
    assert origin
    assert not any(value.data_ptr() in pointers or value.requires_grad for value in origin.values())
    restored = L2Init()
    restored.load_state_dict({"initial": {name: value + 1 for name, value in origin.items()}})
    assert all(torch.equal(restored.state_dict()["initial"][n], v + 1) for n, v in origin.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coefficient": -0.1}, r"^L2Init.coefficient=-0.1 must be >= 0$"),
        ({"loss": "critc"}, r"^no loss 'critc' in DrQV2; there are \['critic', 'actor'\]$"),
        ({"modules": ["actor"]}, "the critic loss does not train 'actor', so the penalty would do nothing"),
        ({"modules": ["critics"]}, "no module 'critics' in DrQV2; there are .*'critic'.* Did you mean critic"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fit_tiny(tmp_path, callbacks=[L2Init(**arguments)])


def test_coefficient_zero_adds_no_term_at_all(tmp_path):
    first = OneUpdate(1)
    fit_tiny(tmp_path, callbacks=[L2Init(coefficient=0.0), first])
    assert not any(tag.startswith("intervention/") for tag in first.metrics)
