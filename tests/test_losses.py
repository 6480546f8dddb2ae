from __future__ import annotations

import pytest
import torch

from plasticity_rl import losses


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1)


def test_td_target_takes_the_smaller_value_per_sample():
    # 1 + 0.5 * min(4, 2) = 2; 0 + 0.9 * min(-1, 3) = -0.9; terminal: 3 + 0 * min(100, 200) = 3
    y = losses.td_target(column(1, 0, 3), column(0.5, 0.9, 0), column(4, -1, 100), column(2, 3, 200))
    torch.testing.assert_close(y, column(2, -0.9, 3))


def test_critic_loss_is_the_sum_of_two_means():
    # ((1-2)^2 + (3-0)^2) / 2 = 5 and ((2-2)^2 + (4-0)^2) / 2 = 8
    assert float(losses.critic_loss(column(1, 3), column(2, 4), column(2, 0))) == 13.0


def test_critic_loss_gradient():
    q1, q2 = column(1, 3).requires_grad_(), column(2, 4).requires_grad_()
    losses.critic_loss(q1, q2, column(2, 0)).backward()
    assert q1.grad.flatten().tolist() == [-1.0, 3.0]  # 2 (q - y) / 2
    assert q2.grad.flatten().tolist() == [0.0, 4.0]


def test_actor_loss_is_minus_the_mean_of_the_smaller_value():
    # min(1, 2) = 1, min(5, -3) = -3, min(0, 8) = 0
    loss = losses.actor_loss(column(1, 5, 0), column(2, -3, 8))
    assert float(loss) == pytest.approx(2 / 3)


def test_actor_loss_gradient_goes_to_the_smaller_value_only():
    q1, q2 = column(1, 5).requires_grad_(), column(2, -3).requires_grad_()
    losses.actor_loss(q1, q2).backward()
    assert q1.grad.flatten().tolist() == [-0.5, 0.0]
    assert q2.grad.flatten().tolist() == [0.0, -0.5]


def test_squared_distance_sums_over_all_elements_of_all_pairs():
    parameters = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    origins = [torch.tensor([0.0, 4.0]), torch.tensor([[0.5]])]
    assert float(losses.squared_distance(parameters, origins)) == 1 + 4 + 6.25


def test_squared_distance_gradient_is_twice_the_difference_and_spares_the_origin():
    p = torch.tensor([1.0, 2.0], requires_grad=True)
    origin = torch.tensor([0.0, 4.0])
    losses.squared_distance([p], [origin]).backward()
    assert p.grad.tolist() == [2.0, -4.0]
    assert origin.tolist() == [0.0, 4.0]


def test_squared_distance_refuses_lists_of_other_lengths():
    with pytest.raises(ValueError, match="shorter"):
        losses.squared_distance([torch.zeros(1), torch.zeros(1)], [torch.zeros(1)])
