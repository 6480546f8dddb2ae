"""Linear layers with learned noise (Fortunato et al. 2018, arXiv 1706.10295)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plasticity_rl.nn.layers import submodules


class NoisyLinear(nn.Linear):
    r"""A linear layer whose weights are means, to which factorised Gaussian noise is added inside :func:`noise_in`.

    Eq. 9 to 11: :math:`y = (\mu + \sigma \odot \epsilon) x + \mu_b + \sigma_b \odot \epsilon_b` with
    :math:`\epsilon_{ij} = f(\epsilon_i) f(\epsilon_j)`, :math:`f(x) = \mathrm{sgn}(x) \sqrt{|x|}`, one draw for a whole
    batch. ``weight`` and ``bias`` are the means, so that whatever reads or edits an ``nn.Linear`` finds them there.

    Not TorchRL's ``NoisyLinear``: its ``weight`` is computed, so it cannot be edited, and its noise comes from the
    process-wide generator.

    Args:
        in_features: Size of the input.
        out_features: Size of the output.
        sigma: :math:`\sigma_0`; every :math:`\sigma` starts as this divided by the root of ``in_features``.

    Attributes:
        weight_sigma: ``(out, in)``.
        bias_sigma: ``(out,)``.
    """

    def __init__(self, in_features: int, out_features: int, sigma: float) -> None:
        super().__init__(in_features, out_features)
        self.sigma = sigma
        self.weight_sigma = nn.Parameter(torch.empty_like(self.weight))
        self.bias_sigma = nn.Parameter(torch.empty_like(self.bias))
        self.noise: tuple[Tensor, Tensor] | None = None
        self.reset_sigma()

    @torch.no_grad()
    def reset_sigma(self) -> None:
        """Set the scale of the noise as at construction, in place."""
        start = self.sigma / math.sqrt(self.in_features)
        self.weight_sigma.fill_(start)
        self.bias_sigma.fill_(start)

    def draw(self, generator: torch.Generator) -> None:
        """Draw the noise that the layer adds until it is removed."""
        ends = [torch.randn(n, generator=generator, device=self.weight.device) for n in self.weight.shape[::-1]]
        into, out = (end.sign() * end.abs().sqrt() for end in ends)
        self.noise = (into, out)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``, with the noise that was drawn, or by the means alone."""
        if self.noise is None:
            return F.linear(inputs, self.weight, self.bias)
        into, out = self.noise
        # The noise is of rank one, so that the noisy weights need not be made: a decision takes a third of the time.
        noise = out * F.linear(inputs * into, self.weight_sigma, self.bias_sigma)
        return F.linear(inputs, self.weight, self.bias) + noise


@contextmanager
def noise_in(module: nn.Module, generator: torch.Generator | None) -> Iterator[None]:
    """Give the noisy layers of a module new noise meanwhile; without a generator, or noisy layers, nothing is drawn.

    Of a head with pairs to inject nothing is drawn for those that wait, nor for the part that is subtracted, which has
    the noise of the added one: until an injection the run draws what it would without them.

    Args:
        module: Module whose noisy layers are meant.
        generator: Source of the noise, on the module's device; None for the means alone.
    """
    if generator is None:
        yield
        return
    for layer in submodules(module).values():
        if isinstance(layer, NoisyLinear):
            layer.draw(generator)
    try:
        yield
    finally:
        for layer in module.modules():  # the subtracted part too, which was handed the noise of the added one
            if isinstance(layer, NoisyLinear):
                layer.noise = None
