"""Random sparse masks."""

from __future__ import annotations

import pytest
import torch

from plasticity_rl.surgery import erdos_renyi_densities, random_mask


def test_a_mask_has_the_exact_number_of_elements():
    mask = random_mask((4, 5), 0.25, torch.Generator().manual_seed(0))
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == 5
    assert torch.equal(mask, random_mask((4, 5), 0.25, torch.Generator().manual_seed(0)))
    assert not torch.equal(mask, random_mask((4, 5), 0.25, torch.Generator().manual_seed(1)))
    assert bool(random_mask((3,), 1.0, torch.Generator()).all())
    assert not bool(random_mask((3,), 0.0, torch.Generator()).any())


def test_erdos_renyi_by_hand():
    """Shapes (10, 10) and (20, 80): raw densities 20/100 = 0.2 and 100/1600 = 0.0625, kept 0.1 * 1700 = 170 weights.

    scale * (20 + 100) = 170, so scale = 17/12: densities 0.28333 and 0.0885417.
    """
    densities = erdos_renyi_densities({"a": (10, 10), "b": (20, 80)}, 0.1)
    assert densities == pytest.approx({"a": 17 / 60, "b": 1.7 / 19.2})
    assert densities["a"] * 100 + densities["b"] * 1600 == pytest.approx(170)


def test_a_layer_that_would_exceed_one_is_kept_whole():
    """(1, 4): raw density 5/4, so whole; then b keeps the rest, 0.5 * 404 - 4 = 198 of its 400 weights."""
    assert erdos_renyi_densities({"a": (1, 4), "b": (20, 20)}, 0.5) == pytest.approx({"a": 1.0, "b": 198 / 400})
    assert erdos_renyi_densities({"a": (1, 4), "b": (20, 20)}, 1.0) == pytest.approx({"a": 1.0, "b": 1.0})


def test_kernels_count_with_their_size():
    """(8, 4, 3, 3) has 18 / 288 and (16, 16) 32 / 256, a ratio of 1 to 2."""
    densities = erdos_renyi_densities({"conv": (8, 4, 3, 3), "linear": (16, 16)}, 0.1)
    assert densities["linear"] / densities["conv"] == pytest.approx(2.0)
