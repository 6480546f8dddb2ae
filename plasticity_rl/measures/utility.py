"""How much a hidden unit matters to the layers that read it."""

from __future__ import annotations

from torch import Tensor


def outgoing_magnitude(weight: Tensor, units: int, inputs: int) -> Tensor:
    """Sum of the absolute weights with which a layer reads each unit: ``sum_k |w_ik|``.

    Args:
        weight: ``(out, in, ...)`` of a Linear or Conv2d layer.
        units: Number of units.
        inputs: Number of leading inputs made of the units, a multiple of ``units``: one each, or height * width each
            behind a flattened convolution, channel by channel.

    Returns:
        ``[units]``, >= 0.
    """
    by_input = weight.abs().transpose(0, 1).flatten(1).sum(1)
    return by_input[:inputs].view(units, -1).sum(1)


def debiased(average: Tensor, decay: float, age: Tensor) -> Tensor:
    """Undo the pull towards the zero at which a moving average started: ``average / (1 - decay^age)``.

    Args:
        average: Exponential moving averages with weight ``1 - decay`` for a new value.
        decay: In [0, 1).
        age: Number of values that each average has seen, >= 0, of the shape of ``average``. At age 0 the result is 0.
    """
    seen = 1.0 - decay ** age.to(average.dtype)
    return average / seen.where(age > 0, seen.new_ones(()))
