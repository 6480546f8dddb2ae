"""Sizes of weights and of gradients, over all tensors together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from plasticity_rl.measures.checks import refuse_not_finite


def l2_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all entries, ``sqrt(sum_i x_i^2)``; 0 for no tensors.

    Args:
        tensors: Any shapes, on one device.

    Returns:
        float64 scalar.

    Raises:
        ValueError: When an entry is NaN or infinite.
    """
    return torch.stack([_zero(), *(flat.square().sum() for flat in _flat(tensors))]).sum().sqrt()


def l1_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Sum of absolute values, ``sum_i |x_i|``; 0 for no tensors. Arguments and errors as in :func:`l2_norm`."""
    return torch.stack([_zero(), *(flat.abs().sum() for flat in _flat(tensors))]).sum()


def l0_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Number of entries that are not zero; 0 for no tensors. Arguments and errors as in :func:`l2_norm`.

    Source:
        Abbas et al. 2023 (arXiv 2303.07507), which finds the l2 norm of gradients misleading beside l0 and l1.
    """
    return torch.stack([_zero(), *(torch.count_nonzero(flat).double() for flat in _flat(tensors))]).sum()


def distance(tensors: Iterable[Tensor], origins: Iterable[Tensor]) -> Tensor:
    """Euclidean distance ``sqrt(sum_i (x_i - o_i)^2)``; 0 for no tensors.

    Args:
        tensors: Any shapes.
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
        differences.append(tensor.detach().cpu().double() - origin.detach().cpu().double())
    return l2_norm(differences)


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def _flat(tensors: Iterable[Tensor]) -> Iterable[Tensor]:
    for tensor in tensors:
        refuse_not_finite(tensor, "values")
        yield tensor.detach().cpu().double().flatten()
