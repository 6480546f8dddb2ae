"""How well a network can still be trained: the loss that a fixed budget of training reaches on random targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from plasticity_rl.measures.checks import refuse_not_finite

Weights = Mapping[str, Tensor]


def random_targets(outputs: Tensor, offset: Tensor, frequency: float = 1e5) -> Tensor:
    """Targets ``a + sin(frequency * f(x; w_0))``, a function of the input that is as good as random.

    Args:
        outputs: ``f(x; w_0)`` ``(n, k)`` of a network with fresh weights, finite.
        offset: a, ``(k,)``: the mean output of the network that will be trained, so that it need not learn a constant.
        frequency: Large, so that inputs close to each other get unrelated targets.

    Returns:
        ``(n, k)`` in ``a + [-1, 1]``.

    Raises:
        ValueError: When outputs or offset hold NaN or infinity.

    Source:
        Lyle et al. 2023 (arXiv 2303.01486), plasticity probe.
    """
    refuse_not_finite(outputs, "outputs")
    refuse_not_finite(offset, "offsets")
    return offset.detach() + torch.sin(frequency * outputs.detach())


def loss_after_training(
    forward: Callable[[Weights], Tensor], weights: Weights, targets: Tensor, *, num_steps: int, learning_rate: float
) -> Tensor:
    """Train a copy of ``weights`` on ``targets`` with Adam, all inputs at every step, and return the loss it reaches.

    Args:
        forward: Maps weights by name to outputs ``(n, k)``, differentiable.
        weights: Where training starts; left as they are, their gradients too.
        targets: ``(n, k)``.
        num_steps: Steps, >= 0.
        learning_rate: Of Adam, whose state starts from nothing.

    Returns:
        Mean squared error over the targets' variance (mean over columns), a scalar >= 0: 0 is a perfect fit, 1 that of
        the best constant. NaN where the targets are all alike or training diverged.

    Raises:
        ValueError: When the targets hold NaN or infinity.
    """
    refuse_not_finite(targets, "targets")
    copies = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    optimizer = torch.optim.Adam(list(copies.values()), lr=learning_rate)
    with torch.enable_grad():
        for _ in range(num_steps):
            loss = F.mse_loss(forward(copies), targets)
            gradients = torch.autograd.grad(loss, list(copies.values()), allow_unused=True)
            for copy, gradient in zip(copies.values(), gradients, strict=True):
                copy.grad = gradient
            optimizer.step()
    with torch.no_grad():
        error = F.mse_loss(forward(copies), targets)
        alike = (targets == targets[:1]).all()  # their variance may be rounding instead of 0
        return torch.where(alike, torch.full_like(error, math.nan), error / targets.var(dim=0, correction=0).mean())
