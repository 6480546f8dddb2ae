"""WeightDecay, SpectralRegularization, ParsevalRegularization: the term, its gradient, what counts, what it does."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from bare import BareAgent
from helpers import TINY_TRAINER, fit_tiny, tiny_data
from tensordict import TensorDict
from tiny_agent import TinyAgent
from torch import nn

from callbacks import ParsevalRegularization, Reset, ShrinkAndPerturb, SpectralRegularization, WeightDecay
from plasticity_rl import UserError, make_trainer
from plasticity_rl.agents.jumps import Jump
from plasticity_rl.callback import RLCallback
from plasticity_rl.run.video import EvalVideo

KINDS = [WeightDecay, SpectralRegularization, ParsevalRegularization]
OUTPUTS = ("actor.policy.4", "critic.Q1.4", "critic.Q2.4")


def matrices(agent, modules) -> dict[str, torch.Tensor]:
    return {
        f"{path}.weight": layer.weight
        for path, layer in agent.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and path.startswith(tuple(modules)) and "target" not in path
    }


def slow(regularizer, agent) -> torch.Tensor:
    """The formula as written, with an exact decomposition, over the layers that should count."""
    total = torch.zeros(())
    for name, weight in matrices(agent, regularizer.modules).items():
        w = weight.flatten(1)
        if isinstance(regularizer, WeightDecay):
            total = total + w.square().sum()
        elif isinstance(regularizer, SpectralRegularization):
            total = total + (torch.linalg.svdvals(w)[0] ** regularizer.exponent - 1).square()
        elif not name.startswith(OUTPUTS):
            total = total + (64 / len(w)) ** 2 * (w @ w.T - regularizer.scale * torch.eye(len(w))).square().sum()
    return total


class Look(RLCallback):
    """Compares the penalty and its gradient with the slow version at every update; keeps the logged terms.

    Args:
        regularizer: What is looked at.
        gradients: Whether gradients are compared.
    """

    def __init__(self, regularizer, gradients: bool = True) -> None:
        self.regularizer, self.gradients = regularizer, gradients
        self.values: list[tuple[float, float]] = []
        self.logged: list[float] = []
        self.frozen: set[str] = set()

    def on_update_start(self, agent) -> None:
        kept = {name: value.clone() for name, value in getattr(self.regularizer, "_left", {}).items()}
        ours, wanted = self.regularizer.penalty(agent, TensorDict()), slow(self.regularizer, agent)
        if kept:
            self.regularizer._left = kept
        self.values.append((ours.item(), wanted.item()))
        if self.gradients:
            names = [name for name, p in agent.named_parameters() if p.requires_grad]
            parameters = [agent.get_parameter(name) for name in names]
            for name, *pair in zip(
                names,
                torch.autograd.grad(ours, parameters, allow_unused=True),
                torch.autograd.grad(wanted, parameters, allow_unused=True),
                strict=True,
            ):
                assert (pair[0] is None) == (pair[1] is None), name
                if pair[0] is None:
                    self.frozen.add(name)
                else:
                    torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-3)

    def on_update_end(self, agent, batch, metrics) -> None:
        tag = f"intervention/{self.regularizer.name}/{'+'.join(self.regularizer.modules)}/loss"
        self.logged.append(float(metrics[tag]))


WHERE = [(["critic"], "critic"), (["encoder", "critic"], "critic"), (["critic.Q1"], "critic"), (["actor"], "actor")]


@pytest.mark.parametrize(("modules", "loss"), WHERE)
@pytest.mark.parametrize("cls", [WeightDecay, ParsevalRegularization])
def test_penalty_gradient_and_term_in_a_run(cls, modules, loss, tmp_path):
    regularizer = cls(coefficient=0.25, modules=modules, loss=loss)
    look = Look(regularizer)
    agent = fit_tiny(tmp_path, callbacks=[regularizer, look])
    assert len(look.values) >= 30
    for ours, wanted in look.values:
        assert ours == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    if loss == "critic":
        assert look.logged == [pytest.approx(0.25 * ours, rel=1e-5, abs=1e-7) for ours, _ in look.values]
    counted = {n for n in matrices(agent, modules) if cls is WeightDecay or not n.startswith(OUTPUTS)}
    trainable = {name for name, p in agent.named_parameters() if p.requires_grad}
    assert look.frozen == trainable - counted, "biases, norms and other modules have no gradient"


def test_every_matrix_has_the_parseval_coefficient_of_its_width():
    """Of r rows that are all zero ||-I||^2 is r, so (64 / r)^2 times that is 4096 / r.

    The trunk has 7 rows, each of the two heads twice 12: 1e-3 * (4096 / 7 + 4 * 4096 / 12) = 0.58514 + 1.36533.
    """
    agent = BareAgent(ParsevalRegularization(modules=["critic"]))
    for weight in matrices(agent, ["critic"]).values():
        weight.detach().zero_()
    (term,) = agent.terms().values()
    assert float(term.detach()) == pytest.approx(1.950476, rel=1e-6)


@pytest.mark.parametrize(("width", "expected"), [(32, 256.0), (64, 128.0), (128, 64.0)])
def test_at_width_64_the_parseval_penalty_is_the_formula_as_written(width, expected):
    """Two matrices of zeros: 2 * 4096 / 64 = 128 = 64 + 64 without a factor; half of that at twice the width."""
    agent = TinyAgent((9, 6, 6), 2, width=width)
    for weight in (agent.torso[1].weight, agent.value[0].weight):
        weight.detach().zero_()
    regularizer = ParsevalRegularization(modules=["torso", "value"], loss="td")
    assert float(regularizer.penalty(agent, TensorDict()).detach()) == expected


def test_gradient_of_weight_decay_is_twice_the_coefficient_times_the_weight(tmp_path):
    seen = []

    class Gradient(RLCallback):
        def on_update_start(self, agent) -> None:
            weight = agent.critic.Q1[2].weight
            (term,) = agent.loss_terms(
                "critic", TensorDict(), pixels=torch.zeros(1), next_pixels=torch.zeros(1), features=torch.zeros(1)
            ).values()
            (gradient,) = torch.autograd.grad(term, weight)
            torch.testing.assert_close(gradient, 2 * 0.3 * weight)
            seen.append(agent.num_updates)

    fit_tiny(tmp_path, callbacks=[WeightDecay(coefficient=0.3), Gradient()])
    assert len(seen) >= 30


@pytest.mark.parametrize(("modules", "loss"), WHERE)
def test_power_iteration_tracks_the_largest_singular_value(modules, loss, tmp_path):
    """Orthogonal matrices have no leading vector to find at first, so values are compared and gradients are not."""
    regularizer = SpectralRegularization(coefficient=1e-3, modules=modules, loss=loss)
    look = Look(regularizer, gradients=False)
    agent = fit_tiny(tmp_path, callbacks=[regularizer, look])
    assert regularizer.state_dict()["left"].keys() == {n.removesuffix(".weight") for n in matrices(agent, modules)}
    first, (ours, wanted) = look.values[0], look.values[-1]
    convolutions = 4 if "encoder" in modules else 0
    assert first == pytest.approx((convolutions, convolutions), abs=1e-3), "(2 - 1)^2 for each convolution"
    assert ours == pytest.approx(wanted, rel=0.25, abs=0.25)


def test_power_iteration_in_a_run_converges_when_the_weights_stand_still(tmp_path):
    regularizer = SpectralRegularization(coefficient=1e-3, modules=["encoder", "critic"], exponent=3.0)
    agent = fit_tiny(tmp_path, callbacks=[regularizer])
    for _ in range(2000):
        ours = regularizer.penalty(agent, TensorDict())
    assert float(ours.detach()) == pytest.approx(float(slow(regularizer, agent).detach()), rel=1e-3)


def strayed(cls, agent) -> float:
    return float(slow(cls(coefficient=1.0, modules=["critic"]), agent).detach())


@pytest.mark.parametrize("cls", KINDS)
def test_a_strong_pull_has_its_effect_and_the_losses_stay_finite(cls, tmp_path):
    distances = []
    for coefficient in (0.0, 3.0):
        agent = fit_tiny(
            tmp_path / str(coefficient), callbacks=[cls(coefficient=coefficient)], agent_options={"lr": 3e-3}
        )
        distances.append(strayed(cls, agent))
        assert all(math.isfinite(agent.latest[tag]) for tag in ("loss/critic", "loss/actor"))
    assert distances[1] < 0.9 * distances[0]


@pytest.mark.parametrize("cls", KINDS)
def test_coefficient_zero_adds_no_term_at_all(cls, tmp_path):
    agent = fit_tiny(tmp_path, callbacks=[cls(coefficient=0.0)])
    assert not any(tag.startswith("intervention/") for tag in agent.latest)


def test_singular_vectors_survive_resets_of_their_matrices(tmp_path):
    regularizer = SpectralRegularization(coefficient=0.1)
    events = [Reset(modules=["critic"], at_frames=[80]), ShrinkAndPerturb(modules=["critic"], at_frames=[120])]
    look = Look(regularizer, gradients=False)
    fit_tiny(tmp_path, callbacks=[regularizer, *events, look])
    assert all(math.isfinite(ours) for ours, _ in look.values)
    ours, wanted = look.values[-1]
    assert ours == pytest.approx(wanted, rel=0.25, abs=0.25)


def test_singular_vectors_catch_up_with_fresh_weights(tmp_path):
    """Of the one matrix that is announced as fresh; one power iteration from the old vector would be far off."""
    regularizer = SpectralRegularization(coefficient=0.1)
    agent = fit_tiny(tmp_path, callbacks=[regularizer], max_frames=60)
    before = {name: left.clone() for name, left in regularizer._left.items()}
    weight = agent.critic.Q1[2].weight.requires_grad_(False)
    with torch.no_grad():  # a leading singular value of 9, the others below 2, its vector orthogonal to the old one
        u, v = torch.linalg.svd(before["critic.Q1.2"][:, None])[0][:, 1], torch.full((16,), 0.25)
        weight.copy_(0.2 * torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) + 9 * torch.outer(u, v))
    regularizer.on_weights_jumped(agent, Jump("", {}, {"critic.Q1.2.weight": torch.ones(16, 16, dtype=torch.bool)}))
    assert [name for name in before if not torch.equal(before[name], regularizer._left[name])] == ["critic.Q1.2"]
    sigma = torch.linalg.svdvals(weight)[0]
    assert float((regularizer._left["critic.Q1.2"] @ weight).norm()) == pytest.approx(float(sigma), rel=1e-4)


def test_singular_vectors_are_saved():
    one, two = SpectralRegularization(), SpectralRegularization()
    one._left = {"critic.Q1.0": torch.tensor([0.6, 0.8])}
    two.load_state_dict(one.state_dict())
    assert two.state_dict() == one.state_dict()


@pytest.mark.parametrize("cls", KINDS)
def test_another_agent(cls, tmp_path):
    pl.seed_everything(1, verbose=False)
    data = tiny_data(max_frames=120, seed=1)
    agent = TinyAgent(data.obs_shape, data.action_dim, seed=1)
    regularizers = [
        cls(coefficient=0.1, modules=["torso", "value"], loss="td"),
        cls(coefficient=0.1, modules=["policy"], loss="dpg"),
    ]
    make_trainer(tmp_path, callbacks=[*regularizers, EvalVideo(every_n_evals=0)], **TINY_TRAINER).fit(agent, data)
    assert agent.num_updates > 10
    assert all(torch.isfinite(p).all() for p in agent.parameters())
    named = {name: p for name, p in agent.named_parameters() if p.requires_grad}
    gradients = [
        torch.autograd.grad(r.penalty(agent, TensorDict()), named.values(), allow_unused=True) for r in regularizers
    ]
    touched = [{n for n, g in zip(named, row, strict=True) if g is not None} for row in gradients]
    outputs = cls is not ParsevalRegularization
    assert touched[0] == {"torso.1.weight", "value.0.weight"} | ({"value.2.weight"} if outputs else set())
    assert touched[1] == {"policy.0.weight"} | ({"policy.2.weight"} if outputs else set())


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        *((cls, {"coefficient": -0.1}, rf"^{cls.__name__}.coefficient=-0.1 must be >= 0$") for cls in KINDS),
        *(
            (cls, {"modules": ["critics"]}, "no module 'critics' in DrQV2; there are .* Did you mean cr")
            for cls in KINDS
        ),
        *((cls, {"modules": ["critic.trunk.1"]}, "'critic.trunk.1' has no linear or conv") for cls in KINDS),
        *((cls, {"modules": []}, "names no module") for cls in KINDS),
        *((cls, {"modules": ["actor"]}, "the critic loss does not train 'actor'") for cls in KINDS),
        *((cls, {"loss": "critc"}, "no loss 'critc' in DrQV2") for cls in KINDS),
        (ParsevalRegularization, {"modules": ["critic.Q1.4"]}, r"modules=\['critic.Q1.4'\] have no hidden layer"),
        (ParsevalRegularization, {"scale": 0.0}, "^ParsevalRegularization.scale=0.0 must be > 0$"),
        (SpectralRegularization, {"exponent": 0}, "^SpectralRegularization.exponent=0 must be > 0$"),
    ],
)
def test_bad_arguments_are_refused_before_training(cls, arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        fit_tiny(tmp_path, callbacks=[cls(**arguments)])
    assert "\n" not in str(error.value)
