"""Layers of one input in plain Python."""

from __future__ import annotations

import math


def slow_norm(x: list[float], weight: list[float], bias: list[float], epsilon: float = 1e-6) -> list[float]:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return [(v - mean) / math.sqrt(variance + epsilon) * w + b for v, w, b in zip(x, weight, bias, strict=True)]


def slow_linear(x: list[float], weight: list[list[float]], bias: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
