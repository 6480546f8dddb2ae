"""Sizes of weights and of gradients, over all tensors together."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from plasticity_rl.measures.checks import refuse_not_finite


def l2_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all entries, ``sqrt(sum_i x_i^2)``; 0 for no tensors. Waits for a GPU once.

    Args:
        tensors: Any shapes, on one device.

    Returns:
        float64 scalar on that device.

    Raises:
        ValueError: When an entry is NaN or infinite.
    """
    return _combined(tensors, 2)


def l1_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Sum of absolute values, ``sum_i |x_i|``; 0 for no tensors. Arguments and errors as in :func:`l2_norm`."""
    return _combined(tensors, 1)


def l0_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Number of entries that are not zero; 0 for no tensors. Arguments and errors as in :func:`l2_norm`.

    Source:
        Abbas et al. 2023 (arXiv 2303.07507), which finds the l2 norm of gradients misleading beside l0 and l1.
    """
    tensors = list(map(_plain, tensors))
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    if not bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()):
        refuse_not_finite(torch.tensor(math.nan), "values")
    return torch.stack([torch.count_nonzero(tensor) for tensor in tensors]).sum().double()


def distance(tensors: Iterable[Tensor], origins: Iterable[Tensor]) -> Tensor:
    """Euclidean distance ``sqrt(sum_i (x_i - o_i)^2)``; 0 for no tensors.

    Args:
        tensors: Any shapes, on one device.
        origins: As many, of the same shapes.

    Returns:
        float64 scalar.

    Raises:
        ValueError: When their number or shapes differ, or an entry is NaN or infinite.
    """
    differences = []
    for tensor, origin in zip(tensors, origins, strict=True):
        if tensor.shape != origin.shape:
            raise ValueError(f"shapes differ: {tuple(tensor.shape)} and {tuple(origin.shape)}")
        now = _plain(tensor).double()
        differences.append(now - origin.detach().to(now.device).double())
    return l2_norm(differences)


def relative_change(tensors: Iterable[Tensor], origins: Iterable[Tensor]) -> Tensor:
    """Distance over the norm of the origin, ``||x - o|| / ||o||``; 0 where nothing moved, infinite from zero.

    Arguments and errors as in :func:`distance`.

    Source:
        Lyle et al. 2024 (arXiv 2407.01800), effective learning rate of scale-invariant layers.
    """
    origins = list(origins)
    moved, size = distance(tensors, origins), l2_norm(origins)
    return torch.where(moved > 0, moved / size.to(moved.device), torch.zeros_like(moved))


def _combined(tensors: Iterable[Tensor], order: int) -> Tensor:
    """Norm of all entries from the norms of the tensors: no copy in float64, and nothing leaves the device before."""
    tensors = list(map(_plain, tensors))
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    parts = [torch.linalg.vector_norm(tensor, order, dtype=torch.float64) for tensor in tensors]
    norm = torch.linalg.vector_norm(torch.stack(parts), order)
    if not math.isfinite(norm):  # float64 overflows too: from finite entries the norm then is infinite, and said so
        for tensor in tensors:
            refuse_not_finite(tensor, "values")
    return norm


def _plain(tensor: Tensor) -> Tensor:
    """Without gradient, of a floating type, and on the CPU where a device lacks float64."""
    tensor = tensor.detach() if tensor.device.type in ("cpu", "cuda") else tensor.detach().cpu()
    return tensor if tensor.is_floating_point() else tensor.double()
