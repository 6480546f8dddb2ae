"""Hidden activations other than ReLU; units of a layer, or channels of a convolution, lie along dimension 1."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from plasticity_rl.nn.hooks import HiddenActivation

RationalInit = Literal["relu", "leaky_relu"]

RATIONAL_COEFFICIENTS: dict[str, tuple[list[float], list[float]]] = {
    "relu": (
        [0.0299638, 0.6168978, 2.3753476, 3.0659900, 1.5246832, 0.2528071],
        [-1.1915501, 4.4080488, 0.9110357, 0.3488498],
    ),
    "leaky_relu": (
        [0.0297928, 0.6183735, 2.3233091, 3.0519362, 1.4854203, 0.2510245],
        [-1.1419548, 4.3931600, 0.8714712, 0.3471966],
    ),
}
"""Numerators a_0..a_5 and denominators b_1..b_4 that fit a function on [-3, 3] within 0.031 (leaky slope 0.01)."""


class CReLU(HiddenActivation):
    """``[ReLU(x), ReLU(-x)]``: ``(B, n, ...)`` to ``(B, 2n, ...)`` (Shang et al. 2016, arXiv 1603.05201)."""

    copies = 2
    pinned = MappingProxyType(
        {
            "fraction of active units": "one of ReLU(x) and ReLU(-x) is above zero, so that it is one half at any time",
            "silence": "one of ReLU(x) and ReLU(-x) is above zero, so that no unit is ever silent",
        }
    )

    def forward(self, x: Tensor) -> Tensor:
        """Put the negative parts behind the positive ones."""
        return torch.cat([x, -x], 1).relu()


class SinCos(HiddenActivation):
    """``[sin(x), cos(x)]``: ``(B, n, ...)`` to ``(B, 2n, ...)`` (Lewandowski et al. 2024, arXiv 2410.20634)."""

    copies = 2
    pinned = MappingProxyType({"dormancy": "sine and cosine are never both near zero, so that no unit is ever dormant"})

    def forward(self, x: Tensor) -> Tensor:
        """Put the cosines behind the sines."""
        return torch.cat([x.sin(), x.cos()], 1)


class Rational(HiddenActivation):
    """``P(x) / Q(x)``, a trainable rational function shared by all units of a layer, of degrees 5 and 4.

    ``Q(x) = 1 + sum_j |b_j x^j|`` has no pole. Outside [-3, 3] the function soon stops looking like what it was fitted
    to: ``R(-10)`` is -2.7.

    Args:
        init: Function that the first coefficients approximate.

    Source:
        Delfosse et al. 2024 (arXiv 2102.09407), Eq. 2, "safe" version; Molina et al. 2020 (arXiv 1907.06732).
    """

    def __init__(self, init: RationalInit = "relu") -> None:
        super().__init__()
        self.init = init
        self.numerator = nn.Parameter(torch.empty(6))
        self.denominator = nn.Parameter(torch.empty(4))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the coefficients to those of ``init``."""
        for parameter, values in zip((self.numerator, self.denominator), RATIONAL_COEFFICIENTS[self.init], strict=True):
            parameter.copy_(torch.tensor(values))

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate both polynomials by Horner's rule."""
        top = _horner(self.numerator, x)
        size = x.abs()
        return top / (1.0 + size * _horner(self.denominator.abs(), size))


def _horner(coefficients: Tensor, x: Tensor) -> Tensor:
    value = coefficients[-1].expand_as(x)
    for coefficient in coefficients[:-1].flip(0):
        value = value * x + coefficient
    return value
