"""Sizes of vectors, one for each input, and of values near the ends of a bounded activation."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticity_rl.measures.checks import refuse_not_finite

_ELEMENTS_AT_ONCE = 1 << 22


def mean_norm(vectors: Tensor) -> Tensor:
    """Mean Euclidean norm over the inputs, ``mean_i ||x_i||_2``, >= 0.

    Args:
        vectors: ``(n, ...)``, one row an input; what follows the first dimension is flattened. Not empty, finite.

    Returns:
        float64 scalar (float32 where the device lacks float64).

    Raises:
        ValueError: When there are none, or NaN or infinity.
    """
    if vectors.ndim < 2 or not vectors.numel():
        raise ValueError(f"vectors must be (inputs, ...) and not empty, got {tuple(vectors.shape)}")
    refuse_not_finite(vectors, "vectors")
    rows = vectors.detach().flatten(1)
    precise = torch.float64 if rows.device.type in ("cpu", "cuda") else torch.float32
    # By blocks of rows: a float64 copy of feature maps would be twice as large as they are.
    blocks = rows.split(max(_ELEMENTS_AT_ONCE // rows.shape[1], 1))
    return torch.cat([block.to(precise).norm(dim=1) for block in blocks]).mean()


def saturated_share(outputs: Tensor, threshold: float) -> Tensor:
    """Share of outputs of a tanh whose magnitude is above ``threshold``, in [0, 1].

    Args:
        outputs: Any shape, in [-1, 1], not empty, finite.
        threshold: In (0, 1). The derivative of the tanh beyond it is below ``1 - threshold^2``.

    Raises:
        ValueError: When there are none, or NaN or infinity.
    """
    if not outputs.numel():
        raise ValueError("there are no outputs")
    refuse_not_finite(outputs, "outputs")
    return (outputs.detach().abs() > threshold).double().mean()
