"""TRAC: an optimizer's way from a reference point, at a length that is found while learning."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from plasticity_rl.optim.parts import Parts, evaluate

FIRST_SUM = 1e-8
"""Where the sums of the tuners begin, as in the authors' code."""
NODES = 128
"""Of the quadrature of :func:`erfi`."""


class ScaledFromReference(Parts):
    """Steps to ``theta = reference + scale * displacement``, where the displacement is what another optimizer walked.

    The other optimizer steps on the displacement, by the gradient at theta. The scale is the sum of what the tuners
    put out, one for each discount, see :func:`tuned`; at scale 0 the weights are the reference.

    The reference follows whoever edits weights in place: what is not where the last step left it has been edited, and
    its reference moves by as much. Elements whose state was set to zero begin again where they are, with a
    displacement of zero; when that was done to all parameters, the tuners begin again as well. Parameters without a
    gradient are left alone.

    State of a parameter, zero at first, beside that of the other optimizer: ``reference``, ``displacement`` and
    ``displacement_steps``. In the first parameter group: ``scale``, ``sums`` and ``squares`` of the tuners, float64.

    Args:
        base: The optimizer that walks, without state yet. Its weight decay would be one of the displacement.
        discounts: Of the tuners, each in (0, 1].
        first_scale: The paper's epsilon, > 0: what a tuner puts out where its sum is one standard deviation.
        eps: Added to the standard deviations, > 0.

    Source:
        Muppidi et al. 2024 (arXiv 2405.16642), Algorithms 1 and 2.
    """

    kept = ("parts", "discounts", "first_scale", "eps")

    def __init__(self, base: Optimizer, *, discounts: Sequence[float], first_scale: float, eps: float) -> None:
        super().__init__([base])
        self.discounts, self.first_scale, self.eps = tuple(discounts), first_scale, eps

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Args:
            closure: Computes loss and gradients anew, and is called once.
        """
        loss = evaluate(closure)
        learning = {p: p.grad for group in self.param_groups for p in group["params"] if p.grad is not None}
        if not learning:
            return loss
        tuners = self._tuners(next(iter(learning)).device)
        walks = {p: self._walk(p, tuners["scale"]) for p in learning}
        products = [(gradient * walks[p][1]).sum() for p, gradient in learning.items()]
        for p, (_, displacement) in walks.items():
            p.copy_(displacement)
        self.parts[0].step()
        tuners = tuned(tuners, torch.stack(products).sum().double(), self.discounts, self.first_scale, self.eps)
        self.param_groups[0].update(tuners)
        for p, (reference, displacement) in walks.items():
            state = self.state[p]  # after the first step of the other optimizer, which asks for an empty one
            state["reference"], state["displacement"] = reference, displacement.copy_(p)
            state["displacement_steps"] = state.get("displacement_steps", torch.zeros((), device=p.device)) + 1
            p.copy_(_place(reference, displacement, tuners["scale"]))
        return loss

    def _walk(self, p: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return reference and displacement of a parameter, the former moved by what was edited since the last step."""
        state = self.state.get(p, {})
        if "displacement" not in state:
            return p.detach().clone(), torch.zeros_like(p)
        reference, displacement = state["reference"], state["displacement"]
        unedited = p == _place(reference, displacement, scale)
        reference.copy_(torch.where(unedited, reference, p - scale.to(p.dtype) * displacement))
        return reference, displacement

    def _tuners(self, device: torch.device) -> dict[str, Tensor]:
        """Return the state of the tuners: that of the last step, or the first where no displacement is left."""
        first = {
            "scale": torch.zeros((), dtype=torch.float64, device=device),
            "sums": torch.full((len(self.discounts),), FIRST_SUM, dtype=torch.float64, device=device),
            "squares": torch.zeros(len(self.discounts), dtype=torch.float64, device=device),
        }
        group = self.param_groups[0]
        if "scale" not in group:
            return first
        held = (self.state.get(p, {}) for group in self.param_groups for p in group["params"])
        go_on = torch.stack([state["displacement_steps"] for state in held if "displacement_steps" in state]).amax() > 0
        last = {name: group[name] for name in first}
        if last["scale"].device != device:  # restored: groups, unlike state, stay where a checkpoint was loaded
            last = {name: value.to(device) for name, value in last.items()}
        return {name: torch.where(go_on, last[name], value) for name, value in first.items()}


def _place(reference: Tensor, displacement: Tensor, scale: Tensor) -> Tensor:
    return reference + scale.to(reference.dtype) * displacement


def tuned(
    tuners: Mapping[str, Tensor], product: Tensor, discounts: Sequence[float], first_scale: float, eps: float
) -> dict[str, Tensor]:
    """Return the tuners after another product h: the scale grows while gradients and displacement oppose each other.

    With a discount b: ``sum <- b * sum - h``, ``square <- b^2 * square + h^2``, output ``first_scale *
    erfi(sum / (sqrt(2 * square) + eps)) / erfi(1 / sqrt(2))``. The scale is the sum of the outputs, but no less than 0.

    Args:
        tuners: ``scale`` (), ``sums`` and ``squares`` ``(n,)``, float64.
        product: h, a scalar, float64: the inner product of gradient and displacement.
        discounts: n of them.
        first_scale: Unit of the scale.
        eps: Added to the denominators.
    """
    decay = _constants(tuple(discounts), product.device)
    sums = decay * tuners["sums"] - product
    squares = decay.square() * tuners["squares"] + product.square()
    outputs = erfi(sums / ((2.0 * squares).sqrt() + eps)) * (first_scale / ERFI_OF_ONE_SIGMA)
    return {"scale": outputs.sum().clamp(min=0.0), "sums": sums, "squares": squares}


def erfi(x: Tensor) -> Tensor:
    """Return the imaginary error function ``2 / sqrt(pi) * int_0^x exp(t^2) dt``, which torch.special does not have.

    By Gauss-Legendre quadrature over all of [0, x], on the device of ``x``: every term is positive, so nothing cancels,
    and 128 nodes give eleven digits for x up to 26, where float64 ends; beyond it is infinite.

    Args:
        x: Any shape, float64.
    """
    nodes, weights = _quadrature(x.device)
    terms = weights * torch.exp((x.unsqueeze(-1) * nodes).square())
    return x * terms.sum(-1) * (2.0 / math.sqrt(math.pi))


@functools.cache  # so that nothing is copied to a GPU at a step
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)


@functools.cache
def _quadrature(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return nodes in (0, 1) and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return _constants(tuple((nodes + 1.0) / 2.0), device), _constants(tuple(weights / 2.0), device)


ERFI_OF_ONE_SIGMA = float(erfi(torch.tensor(math.sqrt(0.5), dtype=torch.float64)))
