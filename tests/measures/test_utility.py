"""Outgoing magnitude and debiased averages, by hand and against loops."""

from __future__ import annotations

import pytest
import torch

from plasticity_rl.measures import debiased, outgoing_magnitude


def test_outgoing_magnitude_by_hand():
    """Unit 0: |1| + |-4| = 5; unit 1: |-2| + |0.5| = 2.5. The third input is an action."""
    weight = torch.tensor([[1.0, -2.0, 9.0], [-4.0, 0.5, 9.0]])
    assert outgoing_magnitude(weight, 2, 2).tolist() == [5.0, 2.5]


def test_outgoing_magnitude_behind_a_flattened_convolution():
    """Two channels of two pixels: inputs 0 and 1 are channel 0, inputs 2 and 3 channel 1."""
    assert outgoing_magnitude(torch.tensor([[1.0, -2.0, 3.0, -4.0]]), 2, 4).tolist() == [3.0, 7.0]


def test_outgoing_magnitude_of_a_convolution_against_a_loop():
    weight = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    slow = [sum(abs(float(v)) for v in weight[:, unit].flatten()) for unit in range(4)]
    assert outgoing_magnitude(weight, 4, 4).tolist() == pytest.approx(slow, rel=1e-6)


def test_debiased_by_hand():
    """Averages of the constant 8 with decay 0.5: after 1 value 4, after 2 values 6, after 3 values 7."""
    average, age = torch.tensor([0.0, 4.0, 6.0, 7.0]), torch.tensor([0, 1, 2, 3])
    assert debiased(average, 0.5, age).tolist() == [0.0, 8.0, 8.0, 8.0]


def test_without_decay_there_is_nothing_to_undo():
    assert debiased(torch.tensor([3.0, 0.0]), 0.0, torch.tensor([2, 0])).tolist() == [3.0, 0.0]
