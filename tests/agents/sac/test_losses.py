"""SAC's losses: TorchRL's own SACLoss on stacked copies of the same weights, and numbers worked out by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor, TanhNormal
from torchrl.objectives import SACLoss, ValueEstimators

from plasticity_rl.agents.sac.losses import ModularSACLoss, SquashedGaussian

STATE, ACTIONS, BATCH = 5, 2, 16


class Actor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(STATE, 8), nn.ReLU(), nn.Linear(8, 2 * ACTIONS))

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.net(state).chunk(2, -1)
        return mean, log_std


class Value(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(STATE + ACTIONS, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.net(torch.cat([state, action], -1))


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Q1, self.Q2 = Value(), Value()

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.Q1(state, action), self.Q2(state, action)


class Temperature(nn.Module):
    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)))


class Networks:
    """An actor, two critics with different targets, a temperature of 0.3."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.actor, self.critic, self.target, self.temperature = Actor(), Twins(), Twins(), Temperature(0.3)

    def loss(self, generator: torch.Generator) -> ModularSACLoss:
        nets = (self.actor, self.critic, self.target, self.temperature)
        return ModularSACLoss(*nets, target_entropy=-1.5, observation_key="state", generator=generator)


def a_batch(seed: int = 0) -> TensorDict:
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(BATCH, *shape, generator=g)  # noqa: E731
    return TensorDict(
        {
            "state": draw(STATE),
            "action": draw(ACTIONS).tanh(),
            "reward": draw(1),
            "discount": torch.full((BATCH, 1), 0.97),
            "next": {"state": draw(STATE)},
        },
        batch_size=[BATCH],
    )


def stock_loss(nets: Networks) -> SACLoss:
    """TorchRL's loss as its documentation builds it: stacked critics, its own distribution, TD(0), one step."""

    class LocScale(nn.Module):
        def __init__(self, actor: nn.Module) -> None:
            super().__init__()
            self.actor = actor

        def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
            mean, log_std = self.actor(state)
            return mean, log_std.exp()

    actor = ProbabilisticActor(
        TensorDictModule(LocScale(copy.deepcopy(nets.actor)), ["state"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        return_log_prob=True,
    )
    keys = ["state", "action"], ["state_action_value"]
    critics = [TensorDictModule(copy.deepcopy(q), *keys) for q in (nets.critic.Q1, nets.critic.Q2)]
    targets = [TensorDictModule(q, *keys) for q in (nets.target.Q1, nets.target.Q2)]
    loss = SACLoss(actor, critics, loss_function="l2", alpha_init=0.3, target_entropy=-1.5)
    with torch.no_grad():
        stacked = TensorDict.from_modules(*targets, as_module=True)
        for key in loss.target_qvalue_network_params.keys(True, True):
            loss.target_qvalue_network_params[key].copy_(stacked[key])
    loss.make_value_estimator(ValueEstimators.TD0, gamma=0.97)
    return loss


@pytest.mark.filterwarnings("ignore:No target network updater")
def test_losses_and_gradients_are_those_of_torchrl(monkeypatch):
    nets, batch = Networks(), a_batch()
    ours, stock = nets.loss(torch.Generator().manual_seed(3)), stock_loss(nets)
    theirs = batch.clone()
    theirs["next", "reward"] = batch["reward"]
    theirs["next", "done"] = theirs["next", "terminated"] = torch.zeros(BATCH, 1, dtype=torch.bool)

    noise = torch.Generator().manual_seed(3)
    draw = lambda shape, dtype, device: torch.randn(shape, generator=noise)  # noqa: E731
    monkeypatch.setattr("torch.distributions.normal._standard_normal", draw)
    expected_critic, _ = stock.qvalue_v2_loss(theirs)
    expected_actor, meta = stock.actor_loss(theirs)
    expected_alpha = stock.alpha_loss(meta["log_prob"]).mean()

    critic, _ = ours.qvalue_v2_loss(batch)
    torch.testing.assert_close(critic, expected_critic)
    actor, metadata = ours.actor_loss(batch)
    torch.testing.assert_close(actor, expected_actor)
    alpha = ours.alpha_loss(metadata["log_prob"]).mean()
    torch.testing.assert_close(alpha, expected_alpha)

    (critic + expected_critic).backward()
    for name, parameter in nets.critic.named_parameters():
        head, _, rest = name.partition(".")
        stacked = stock.qvalue_network_params.get(("module", *rest.split(".")))
        torch.testing.assert_close(parameter.grad, stacked.grad[int(head[1]) - 1], msg=name)
    (actor + expected_actor).backward()
    for name, parameter in nets.actor.named_parameters():
        twin = stock.actor_network_params.get(("module", "0", "module", "actor", *name.split(".")))
        torch.testing.assert_close(parameter.grad, twin.grad, msg=name)
    (alpha + expected_alpha).backward()
    torch.testing.assert_close(nets.temperature.log_alpha.grad, stock.log_alpha.grad)


def constant(*values: float) -> nn.Module:
    class Constant(nn.Module):
        def forward(self, state: Tensor, *action: Tensor) -> tuple[Tensor, ...]:
            width = ACTIONS if not action else 1
            return tuple(torch.full((len(state), width), value) for value in values)

    return Constant()


def test_losses_by_hand():
    """Constant networks, and noise that is exactly zero, so every action is tanh(0.5)."""
    batch = a_batch()
    batch["reward"], batch["discount"] = torch.full((BATCH, 1), 2.0), torch.full((BATCH, 1), 0.5)
    temperature = Temperature(0.1)
    loss = ModularSACLoss(
        constant(0.5, 0.0),  # mean 0.5, log_std 0
        constant(1.0, 4.0),
        constant(3.0, 7.0),
        temperature,
        target_entropy=-2.0,
        observation_key="state",
        generator=torch.Generator(),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda shape, **_: torch.zeros(shape))
        critic, _ = loss.qvalue_v2_loss(batch)
        actor, metadata = loss.actor_loss(batch)
    # log pi = 2 dimensions * (-0.5 log(2 pi) - log(1 - tanh(0.5)^2)) = 2 * (-0.918939 + 0.240229) = -1.357419
    log_pi = 2 * (-0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(0.5) ** 2))
    assert log_pi == pytest.approx(-1.357419, abs=1e-6)
    # target = 2 + 0.5 * (min(3, 7) - 0.1 * log pi) = 3.567871; loss = (1 - y)^2 + (4 - y)^2
    y = 2 + 0.5 * (3 - 0.1 * log_pi)
    assert float(loss.target.mean()) == pytest.approx(y, rel=1e-6)
    assert float(critic.detach()) == pytest.approx((1 - y) ** 2 + (4 - y) ** 2, rel=1e-6)
    assert float(actor.detach()) == pytest.approx(0.1 * log_pi - 1, rel=1e-6)  # alpha log pi - min(1, 4)
    # -log(0.1) * (log pi - 2)
    assert float(loss.alpha_loss(metadata["log_prob"]).mean().detach()) == pytest.approx(
        -math.log(0.1) * (log_pi - 2), rel=1e-6
    )


def test_a_termination_cuts_the_value_behind_it():
    nets, batch = Networks(), a_batch()
    batch["discount"] = torch.zeros(BATCH, 1)
    loss = nets.loss(torch.Generator())
    loss.qvalue_v2_loss(batch)
    assert torch.equal(loss.target, batch["reward"])


def test_log_density_is_that_of_torchrl_and_its_integral_is_one():
    mean, log_std = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[-0.5]], dtype=torch.float64)
    actions, log_prob = SquashedGaussian(
        mean.expand(500, 1), log_std.expand(500, 1), torch.Generator().manual_seed(0)
    ).rsample_and_log_prob()
    reference = TanhNormal(mean, log_std.exp()).log_prob(actions)
    torch.testing.assert_close(log_prob, reference, rtol=1e-9, atol=1e-9)
    order = actions.squeeze(1).argsort()
    area = torch.trapezoid(log_prob[order].exp(), actions.squeeze(1)[order])
    assert 0.98 < float(area) < 1.01


def test_the_log_density_stays_finite_where_tanh_is_one():
    mean = torch.tensor([[30.0, -30.0]], requires_grad=True)
    action, log_prob = SquashedGaussian(
        mean, torch.zeros(1, 2), torch.Generator().manual_seed(0)
    ).rsample_and_log_prob()
    assert action.abs().max() == 1
    # -log(1 - tanh(u)^2) is 2 |u| - 2 log 2 for large u: about 58.6 a dimension.
    assert 110 < float(log_prob.detach()) < 125
    log_prob.sum().backward()
    assert torch.isfinite(mean.grad).all()


def test_noise_comes_from_the_generator_alone():
    nets, batch = Networks(), a_batch()
    before = torch.get_rng_state()
    losses = [nets.loss(torch.Generator().manual_seed(seed)).actor_loss(batch)[0] for seed in (1, 1, 2)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    assert torch.equal(before, torch.get_rng_state())


def test_it_owns_no_parameter_but_the_temperatures_and_hooks_see_each_critic():
    nets, seen = Networks(), []
    loss = nets.loss(torch.Generator())
    assert {id(p) for p in loss.parameters()} == {id(nets.temperature.log_alpha)}
    for name, module in {"Q1": nets.critic.Q1, "Q2": nets.critic.Q2, "target": nets.target.Q1}.items():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    loss.qvalue_v2_loss(a_batch())
    assert seen == ["target", "Q1", "Q2"]
    before = loss.qvalue_v2_loss(a_batch())[0]
    with torch.no_grad():
        nets.critic.Q2.net[0].weight.zero_()
    loss.generator = torch.Generator()
    assert not torch.equal(loss.qvalue_v2_loss(a_batch())[0], before)


@pytest.mark.parametrize("name", ["_make_vmap", "_compute_target_v2", "qvalue_v2_loss", "actor_loss", "alpha_loss"])
def test_what_we_override_and_call_in_torchrl_exists(name):
    assert callable(getattr(SACLoss, name, None)), (
        f"TorchRL changed SACLoss.{name}: see plasticity_rl/agents/sac/losses.py"
    )
