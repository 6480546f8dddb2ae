"""Losses of action values: cases by hand, slow loops, and TorchRL's losses on the same weights."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import OneHot
from torchrl.modules import DistributionalQValueActor, QValueActor
from torchrl.objectives import DistributionalDQNLoss, DQNLoss

from plasticity_rl.agents.dqn import losses
from plasticity_rl.losses import expectation


def test_the_values_taken_are_those_of_the_action_in_every_head():
    """Two heads of three actions; what is no multiple of three, and values of continuous actions, are as they were."""
    outputs = torch.tensor([[1.0, 2.0, 3.0, 10.0, 20.0, 30.0], [4.0, 5.0, 6.0, 40.0, 50.0, 60.0]])
    action = torch.tensor([[2], [0]])
    assert losses.values_taken(outputs, action, 3).tolist() == [[3.0, 30.0], [4.0, 40.0]]
    assert losses.values_taken(outputs[:, :3], action, 3).tolist() == [[3.0], [4.0]]
    assert losses.values_taken(outputs[:, :1], action, 3).tolist() == [[1.0], [4.0]]
    assert losses.values_taken(outputs[:, :2], torch.rand(2, 1), 0).tolist() == [[1.0, 2.0], [4.0, 5.0]]


def test_td_target_takes_the_value_of_the_action_chosen():
    values = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    target = losses.td_target(
        torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.0]]), values, torch.tensor([[0], [1]])
    )
    assert target.tolist() == [[1.5], [2.0]]  # 1 + 0.5 * 1; a termination leaves the reward


def test_losses_of_values_by_hand():
    values, target = torch.tensor([[0.5], [3.0]]), torch.tensor([[0.0], [0.0]])
    assert losses.value_losses(values, target, "huber").tolist() == [0.125, 2.5]  # 0.5^2 / 2; 3 - 1 / 2
    assert losses.value_losses(values, target, "mse").tolist() == [0.125, 4.5]


def test_projection_by_hand():
    """Support -1, 0, 1; reward 0.25, discount 0.5: the atoms move to -0.25, 0.25 and 0.75."""
    support = torch.tensor([-1.0, 0.0, 1.0])
    projected = losses.project(torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[0.25]]), torch.tensor([[0.5]]), support)
    # -0.25: a quarter to -1; 0.25: a quarter to 1; 0.75: a quarter to 0.
    by_hand = [0.25 * 0.2, 0.75 * 0.2 + 0.75 * 0.3 + 0.25 * 0.5, 0.25 * 0.3 + 0.75 * 0.5]
    assert projected[0].tolist() == pytest.approx(by_hand)


def slow_projection(p, reward, discount, support):
    """The loops of Bellemare et al.'s algorithm 1, with floor and ceiling."""
    spacing, n = float(support[1] - support[0]), len(support)
    out = torch.zeros_like(p)
    for b in range(len(p)):
        for j in range(n):
            moved = min(
                max(float(reward[b]) + float(discount[b]) * float(support[j]), float(support[0])), float(support[-1])
            )
            place = (moved - float(support[0])) / spacing
            low = min(int(place), n - 2)
            out[b, low] += p[b, j] * (low + 1 - place)
            out[b, low + 1] += p[b, j] * (place - low)
    return out


def test_projection_equals_the_slow_one():
    g = torch.Generator().manual_seed(0)
    p = torch.rand(16, 11, generator=g, dtype=torch.float64).softmax(-1)
    reward = 8 * torch.rand(16, 1, generator=g, dtype=torch.float64) - 4
    discount = torch.rand(16, 1, generator=g, dtype=torch.float64) * (torch.arange(16) % 4 > 0)[:, None]
    support = torch.linspace(-2.0, 2.0, 11, dtype=torch.float64)
    mine = losses.project(p, reward, discount, support)
    assert torch.allclose(mine, slow_projection(p, reward, discount, support))
    assert torch.allclose(mine.sum(-1), torch.ones(16, dtype=torch.float64))


def batch_of(g, num_actions, size=32):
    action = torch.randint(num_actions, (size, 1), generator=g)
    return {
        "state": torch.randn(size, 4, generator=g),
        "next": torch.randn(size, 4, generator=g),
        "action": action,
        "reward": torch.randn(size, 1, generator=g),
        "done": torch.rand(size, 1, generator=g) < 0.3,
    }


def for_torchrl(batch, num_actions):
    one_hot = nn.functional.one_hot(batch["action"].squeeze(1), num_actions)
    ended = {"reward": batch["reward"], "done": batch["done"], "terminated": batch["done"]}
    return TensorDict(
        {"observation": batch["state"], "action": one_hot, "next": {"observation": batch["next"], **ended}}, [32]
    )


def give_target(loss, weights):
    """Let the target network of TorchRL's loss have these weights; of the distributional one a support comes too."""
    theirs = [p for p in loss.target_value_network_params.values(True, True) if p.shape != (7,)]
    own = {tuple(p.shape): p for p in weights.values()}
    assert len(own) == len(weights)  # told apart by their shapes
    for parameter in theirs:
        parameter.data.copy_(own.pop(tuple(parameter.shape)))
    assert not own


@pytest.mark.filterwarnings("ignore:No target network updater")
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("name", "theirs"), [("huber", "smooth_l1"), ("mse", "l2")])
def test_the_loss_is_that_of_torchrl(double, name, theirs):
    g = torch.Generator().manual_seed(1)
    net, slow = (nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)) for _ in range(2))
    actor = QValueActor(TensorDictModule(net, ["observation"], ["action_value"]), spec=OneHot(3))
    loss = DQNLoss(actor, loss_function=theirs, delay_value=True, double_dqn=double)
    loss.make_value_estimator(gamma=0.9)
    give_target(loss, slow.state_dict())
    batch = batch_of(g, 3)
    torchrl = loss(for_torchrl(batch, 3))["loss"]

    discount = 0.9 * (~batch["done"]).float()
    best = (net if double else slow)(batch["next"]).argmax(1, keepdim=True)
    target = losses.td_target(batch["reward"], discount, slow(batch["next"]), best).detach()
    taken = losses.values_of(net(batch["state"])[:, :, None], batch["action"])
    mine = losses.value_losses(taken, target, name).mean()
    assert mine.item() == pytest.approx(torchrl.item() * (1.0 if name == "huber" else 0.5), rel=1e-5)


@pytest.mark.filterwarnings("ignore:No target network updater")
def test_the_distributional_loss_is_that_of_torchrl():
    """Theirs is always double; logits with the atoms in front of the actions."""
    g = torch.Generator().manual_seed(2)
    support = torch.linspace(-3.0, 3.0, 7)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3 * 7))

        def forward(self, x):
            return self.layers(x).unflatten(-1, (3, 7)).transpose(-1, -2).log_softmax(-2)

    net, slow = Net(), Net()
    actor = DistributionalQValueActor(
        TensorDictModule(net, ["observation"], ["action_value"]), spec=OneHot(3), support=support
    )
    loss = DistributionalDQNLoss(actor, gamma=0.9, delay_value=True)
    give_target(loss, slow.state_dict())
    batch = batch_of(g, 3)
    torchrl = loss(for_torchrl(batch, 3))["loss"]

    discount = 0.9 * (~batch["done"]).float()
    best = expectation(net(batch["next"]).transpose(-1, -2), support).argmax(1, keepdim=True)
    probabilities = losses.values_of(slow(batch["next"]).transpose(-1, -2), best).softmax(-1)
    target = losses.project(probabilities, batch["reward"], discount, support).detach()
    taken = losses.values_of(net(batch["state"]).transpose(-1, -2), batch["action"])
    assert losses.categorical_losses(taken, target).mean().item() == pytest.approx(torchrl.item(), rel=1e-5)


def test_importance_weights_multiply_each_loss():
    each = torch.tensor([1.0, 2.0])
    assert losses.mean_weighted(each, None) == 1.5
    assert losses.mean_weighted(each, torch.tensor([[1.0], [0.5]])) == 1.0
