"""Random targets and training on them: by hand, against numpy, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticity_rl.measures import loss_after_training, random_targets


def linear(inputs: torch.Tensor):
    return lambda weights: inputs @ weights["w"]


def test_targets_by_hand():
    outputs = torch.tensor([[0.0, math.pi / 2], [-math.pi / 2, 1.0]], dtype=torch.float64)
    targets = random_targets(outputs, torch.tensor([10.0, 0.5], dtype=torch.float64), frequency=1.0)
    assert targets.tolist() == [[10.0, 1.5], [pytest.approx(9.0), pytest.approx(0.5 + math.sin(1.0))]]


def test_targets_of_near_inputs_are_unrelated():
    outputs = torch.rand(2000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64).sort(0).values / 10
    targets = random_targets(outputs, torch.zeros(1))[:, 0].numpy()
    assert np.abs(targets).max() <= 1.0
    assert abs(np.corrcoef(targets[1:], targets[:-1])[0, 1]) < 0.2
    assert targets.std() == pytest.approx(0.5**0.5, abs=0.05)


def test_without_steps_the_loss_is_that_of_the_weights_over_the_variance():
    # Outputs 1 and 3, targets 0 and 2: squared errors 1 and 1, variance of the targets 1.
    inputs, weights = torch.tensor([[1.0], [3.0]]), {"w": torch.tensor([[1.0]])}
    targets = torch.tensor([[0.0], [2.0]])
    assert float(loss_after_training(linear(inputs), weights, targets, num_steps=0, learning_rate=0.1)) == 1.0
    # The best constant, here the mean of the targets from a bias alone, has loss 1.
    bias = loss_after_training(
        linear(torch.ones(2, 1)), {"w": torch.ones(1, 1)}, targets * 5, num_steps=2000, learning_rate=0.05
    )
    assert float(bias) == pytest.approx(1.0, abs=1e-4)


def test_first_step_of_adam_by_hand():
    # Adam's first step is the learning rate against the sign of the gradient: w = 1 - 0.1, outputs 0.9 and 2.7.
    inputs, weights = torch.tensor([[1.0], [3.0]]), {"w": torch.tensor([[1.0]])}
    loss = loss_after_training(linear(inputs), weights, torch.tensor([[0.0], [2.0]]), num_steps=1, learning_rate=0.1)
    assert float(loss) == pytest.approx((0.9**2 + 0.7**2) / 2)


def test_training_reaches_the_least_squares_solution_of_numpy():
    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=(20, 4)), rng.normal(size=(20, 2))
    _, residuals, _, _ = np.linalg.lstsq(inputs, targets, rcond=None)
    expected = residuals.sum() / targets.size / targets.var(axis=0).mean()
    weights = {"w": torch.zeros(4, 2, dtype=torch.float64)}
    found = loss_after_training(
        linear(torch.from_numpy(inputs)), weights, torch.from_numpy(targets), num_steps=3000, learning_rate=0.01
    )
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert 0 < expected < 1


def test_a_network_with_dead_units_cannot_be_trained_any_more():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(40, 3, generator=generator)
    weights = {"a": torch.randn(3, 32, generator=generator), "b": torch.randn(32, 1, generator=generator) / 6}
    targets = torch.randn(40, 1, generator=generator)

    def loss(bias: float) -> float:
        forward = lambda w: (inputs @ w["a"] + bias).relu() @ w["b"]  # noqa: E731
        return float(loss_after_training(forward, weights, targets, num_steps=300, learning_rate=0.01))

    assert loss(0.0) < 0.4
    assert loss(-100.0) == pytest.approx(1.0, abs=0.05)  # all units dead: the constant 0


def test_weights_and_gradients_are_left_alone_and_unused_ones_are_allowed():
    used = torch.ones(1, 1, requires_grad=True)
    used.grad = torch.full((1, 1), 7.0)
    weights = {"w": used, "unused": torch.ones(3)}
    with torch.no_grad():
        loss = loss_after_training(
            linear(torch.ones(2, 1)), weights, torch.tensor([[0.0], [2.0]]), num_steps=5, learning_rate=0.1
        )
    assert not loss.requires_grad
    assert (float(used.detach()), float(used.grad)) == (1.0, 7.0)


def test_targets_that_are_all_alike_have_no_defined_loss():
    weights = {"w": torch.ones(1, 1)}
    loss = loss_after_training(linear(torch.ones(2, 1)), weights, torch.ones(2, 1), num_steps=1, learning_rate=0.1)
    assert math.isnan(float(loss))
    constant = torch.full((3, 1), 0.3)  # 0.3 three times has a mean that is not 0.3
    assert math.isnan(float(loss_after_training(linear(constant), weights, constant, num_steps=0, learning_rate=0.1)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="the outputs hold NaN or infinity"):
        random_targets(torch.tensor([[bad]]), torch.zeros(1))
    with pytest.raises(ValueError, match="the offsets hold NaN or infinity"):
        random_targets(torch.zeros(1, 1), torch.tensor([bad]))
    with pytest.raises(ValueError, match="the targets hold NaN or infinity"):
        loss_after_training(linear(torch.ones(1, 1)), {}, torch.tensor([[bad]]), num_steps=0, learning_rate=0.1)
