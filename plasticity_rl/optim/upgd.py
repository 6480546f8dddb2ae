"""Utility-based perturbed gradient descent: useful weights are protected, the others are perturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from plasticity_rl.optim.parts import evaluate

Scaling = Literal["global", "local"]
"""What utilities are compared with: the largest of all parameters, or the norm of those that one unit reads."""


class UtilityGatedDescent(Optimizer):
    """Steps by ``w <- (1 - lr * weight_decay) * w - 2 * lr * gate * (direction + noise)``.

    The gate of a weight is one minus the sigmoid of its scaled utility, in (0.27, 1), where the utility is a moving
    average of ``-g * w``: what the loss would grow by without the weight, to first order. The factor 2 makes up for a
    gate of one half, which a weight of utility 0 has. The direction is Adam's, or the gradient.

    State of a parameter, zero at first: ``step``, ``utility``, and with ``adaptive`` ``exp_avg`` and ``exp_avg_sq``.
    Parameters without a gradient are left alone, by noise and weight decay too.

    Args:
        params: As of any optimizer.
        generator: Source of the noise for a device.
        lr: Learning rate.
        scaling: How utilities are scaled, see :func:`scaled_utilities`.
        adaptive: Whether the direction is Adam's, not the gradient.
        sigma: Standard deviation of the Gaussian noise.
        beta_utility: Decay of the average of the utility, in [0, 1).
        weight_decay: Decoupled weight decay.
        betas: Decays of Adam's averages.
        eps: Adam's.

    Source:
        Elsayed & Mahmood 2024 (arXiv 2404.00781).
    """

    def __init__(
        self,
        params: Iterable[Any],
        generator: Callable[[torch.device], Generator],
        *,
        lr: float,
        scaling: Scaling = "global",
        adaptive: bool = True,
        sigma: float = 0.001,
        beta_utility: float = 0.999,
        weight_decay: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        options = {"scaling": scaling, "adaptive": adaptive, "sigma": sigma, "beta_utility": beta_utility}
        super().__init__(params, {"lr": lr, **options, "weight_decay": weight_decay, "betas": betas, "eps": eps})
        self.generator = generator

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes a copy, or a pickle."""
        return {**super().__getstate__(), "generator": self.generator}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Args:
            closure: Computes loss and gradients anew.
        """
        loss = evaluate(closure)
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            if not learning:
                continue
            for p in learning:
                self._average(p, group)
            averages = [self._corrected(p, "utility", group["beta_utility"]) for p in learning]
            for p, utility in zip(learning, scaled_utilities(averages, group["scaling"]), strict=True):
                self._move(p, 1.0 - torch.sigmoid(utility), group)
        return loss

    def _average(self, p: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[p], p.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros((), device=p.device)
            for name in ("utility", *(("exp_avg", "exp_avg_sq") if group["adaptive"] else ())):
                state[name] = torch.zeros_like(p)
        state["step"] += 1
        state["utility"].lerp_(-gradient * p, 1.0 - group["beta_utility"])
        if group["adaptive"]:
            first, second = group["betas"]
            state["exp_avg"].lerp_(gradient, 1.0 - first)
            state["exp_avg_sq"].lerp_(gradient.square(), 1.0 - second)

    def _corrected(self, p: Tensor, name: str, decay: float) -> Tensor:
        """Return a moving average without its bias towards the zero where it began."""
        state = self.state[p]
        corrected: Tensor = state[name] / (1.0 - decay ** state["step"])
        return corrected

    def _move(self, p: Tensor, gate: Tensor, group: dict[str, Any]) -> None:
        direction = p.grad
        assert direction is not None
        if group["adaptive"]:
            first, second = group["betas"]
            spread = self._corrected(p, "exp_avg_sq", second).sqrt_()
            direction = self._corrected(p, "exp_avg", first) / (spread + group["eps"])
        if group["sigma"] > 0:
            noise = torch.randn(p.shape, generator=self.generator(p.device), device=p.device, dtype=p.dtype)
            direction = direction + group["sigma"] * noise
        p.mul_(1.0 - group["lr"] * group["weight_decay"])
        p.add_(gate * direction, alpha=-2.0 * group["lr"])


def scaled_utilities(utilities: list[Tensor], scaling: Scaling) -> list[Tensor]:
    """Return utilities on a scale of their own.

    Args:
        utilities: Of every element of some parameters, each of the parameter's shape.
        scaling: ``global``: divided by the largest of all of them, so at most 1; all 0 where none is above 0.
            ``local``: of every row, what one unit reads, divided by its Euclidean norm, so in [-1, 1]; of parameters
            with fewer than two dimensions as a whole.
    """
    if scaling == "local":
        return [F.normalize(u.reshape(len(u) if u.ndim > 1 else 1, -1), dim=1).view_as(u) for u in utilities]
    largest = torch.stack([u.amax() for u in utilities]).amax()
    scale = torch.where(largest > 0, largest, torch.inf)
    return [u / scale for u in utilities]
