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


def test_squared_norm_by_hand_and_its_gradient():
    theta = [torch.tensor([[1.0, -2.0]], requires_grad=True), torch.tensor([[3.0]], requires_grad=True)]
    value = losses.squared_norm(theta)
    assert float(value.detach()) == 1 + 4 + 9
    value.backward()
    assert [t.grad.tolist() for t in theta] == [[[2.0, -4.0]], [[6.0]]]


def test_largest_singular_value_of_a_diagonal_matrix():
    weight = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    sigma, left = losses.largest_singular_value(weight, torch.tensor([1.0, 0.0]))
    assert float(sigma.detach()) == 3.0
    assert left.tolist() == [1.0, 0.0]
    sigma.backward()
    assert weight.grad.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]  # u v^T
    assert not left.requires_grad


def test_largest_singular_value_converges_to_that_of_the_exact_decomposition():
    weight = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    exact = torch.linalg.svdvals(weight)[0]
    (wanted,) = torch.autograd.grad(exact, weight)
    left, seen = torch.ones(5, dtype=torch.float64) / 5**0.5, []
    for _ in range(300):
        sigma, left = losses.largest_singular_value(weight, left)
        seen.append(float(sigma.detach()))
    assert seen == sorted(seen[:20]) + seen[20:], "it only rises"
    assert max(seen) <= float(exact.detach()) + 1e-9
    torch.testing.assert_close(sigma, exact, rtol=1e-9, atol=0)
    (gradient,) = torch.autograd.grad(sigma, weight)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-6)


def test_largest_singular_value_of_zero_keeps_the_vector():
    left = torch.tensor([0.6, 0.8])
    sigma, following = losses.largest_singular_value(torch.zeros(2, 3), left)
    assert float(sigma) == 0.0
    assert torch.equal(following, left)


def test_spectral_penalty_by_hand():
    sigmas = [torch.tensor(2.0, requires_grad=True), torch.tensor(1.0), torch.tensor(0.5)]
    value = losses.spectral_penalty(sigmas)
    assert float(value.detach()) == 9.0 + 0.0 + 0.5625  # (4 - 1)^2, 0, (0.25 - 1)^2
    value.backward()
    assert float(sigmas[0].grad) == 24.0  # 2 (sigma^2 - 1) 2 sigma
    assert float(losses.spectral_penalty([torch.tensor(3.0)], exponent=1.0)) == 4.0


def test_parseval_penalty_by_hand():
    wide = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0]], requires_grad=True)
    # W W^T = [[2, 2], [2, 4]]; minus I: [[1, 2], [2, 3]]; squares: 1 + 4 + 4 + 9
    assert float(losses.parseval_penalty([wide]).detach()) == 18.0
    # minus 2 I: [[0, 2], [2, 2]]: 0 + 4 + 4 + 4
    assert float(losses.parseval_penalty([wide], scale=2.0).detach()) == 12.0
    assert float(losses.parseval_penalty([wide, wide]).detach()) == 36.0


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4), (1, 5)])
def test_parseval_penalty_equals_the_formula_as_written(shape):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    written = (weight @ weight.T - 1.5 * torch.eye(shape[0], dtype=torch.float64)).square().sum()
    ours = losses.parseval_penalty([weight], 1.5)
    torch.testing.assert_close(ours, written)
    torch.testing.assert_close(torch.autograd.grad(ours, weight), torch.autograd.grad(written, weight))
