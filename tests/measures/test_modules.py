"""Any module measured as a whole: by hand, and against the measures of its parts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from run_state import fingerprint
from torch import nn

from plasticity_rl.measures import fraction_active_units, linearized_rate, measure_module, srank
from plasticity_rl.nn.activations import CReLU


def test_any_module_by_hand():
    """Two inputs through the identity and ReLU: unit 0 is active on both, unit 1 on one, unit 2 on none."""
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3))
        network[0].bias.zero_()
        network[2].weight.fill_(2.0)
        network[2].bias.zero_()
    found = measure_module(network, torch.tensor([[1.0, 2.0, -1.0], [3.0, -1.0, -1.0]]), tau=0.0)
    assert found["fau"] == found["fau/1"] == pytest.approx(3 / 6)
    assert found["dormant/tau_0.0"] == found["dormant/1/tau_0.0"] == pytest.approx(1 / 3)
    # Features (1, 2, 0) and (3, 0, 0): squared singular values add up to 14, their product is 36 (determinant of the
    # Gram matrix (5, 3; 3, 9)): x^2 - 14 x + 36 = 0, the larger is 7 + sqrt(13).
    assert found["rank/stable_rank"] == pytest.approx(14 / (7 + 13**0.5), rel=1e-5)
    assert found["rank/srank"] == 2
    assert found["weight_norm"] == pytest.approx((3 + 3 * 4) ** 0.5)


def test_the_two_outputs_of_a_crelu_are_one_unit():
    """As the probe counts them: the first unit is positive on both inputs, the second is zero on both."""
    network = nn.Sequential(nn.Linear(2, 2), CReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.diag(torch.tensor([1.0, 0.0])))
        network[0].bias.zero_()
    found = measure_module(network, torch.tensor([[1.0, 2.0], [3.0, -1.0]]), tau=0.0)
    assert found["dormant/tau_0.0"] == found["dormant/1/tau_0.0"] == 0.5


def test_a_unit_that_either_output_of_a_crelu_passes_always_is_linear():
    """The first is always above zero, the second always below, the third is both: two of three, as of x itself."""
    network = nn.Sequential(nn.Linear(3, 3), CReLU(), nn.Linear(6, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3))
        network[0].bias.zero_()
    found = measure_module(network, torch.tensor([[1.0, -2.0, 1.0], [3.0, -1.0, -1.0]]))
    assert found["linearized"] == found["linearized/1"] == pytest.approx(2 / 3)


def test_any_module_is_left_as_it_was():
    network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 1))
    before, state = fingerprint(network.state_dict()), torch.get_rng_state()
    measure_module(network, torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    assert fingerprint(network.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_module_without_hidden_layers_is_refused():
    with pytest.raises(ValueError, match=r"Linear ran no hidden activation layer \(ReLU, HiddenActivation\)"):
        measure_module(nn.Linear(2, 1), torch.zeros(1, 2))


class Shared(nn.Module):
    """A block of a ResNet: one ReLU, in place, runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.relu = nn.Linear(3, 5), nn.Linear(5, 3), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(x + self.two(self.relu(self.one(x))))


def test_a_layer_that_runs_twice_counts_twice():
    network, x = Shared(), torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first = network.one(x).relu()
        second = (x + network.two(first)).relu()
    found = measure_module(network, x)
    assert found["fau/relu"] == pytest.approx(float((first > 0).float().mean()))
    assert found["fau/relu#2"] == pytest.approx(float((second > 0).float().mean()))
    assert found["fau"] == pytest.approx(float(fraction_active_units([first, second])))
    assert found["linearized"] == pytest.approx(float(linearized_rate([first, second])))
    assert found["rank/srank"] == srank(second)


def test_other_activations_are_named():
    network, x = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 1)), torch.randn(8, 3)
    with pytest.raises(ValueError, match="name others: activations="):
        measure_module(network, x)
    found = measure_module(network, x, activations=[nn.GELU])
    assert found["fau"] == pytest.approx(float((network[:2](x) > 0).float().mean()))


@pytest.mark.parametrize("dimension", [1, -1])
def test_units_of_three_dimensions_lie_where_it_is_said(dimension):
    """Eight of sixteen units are dead, on tokens (batch, tokens, units) as on a line (batch, channels, length)."""
    network = nn.Sequential(nn.Linear(8, 16) if dimension == -1 else nn.Conv1d(8, 16, 1), nn.ReLU())
    with torch.no_grad():
        network[0].weight[8:] = 0.0
        network[0].bias[8:] = -1.0
    x = torch.randn(64, 8, 5, generator=torch.Generator().manual_seed(0))
    x = x if dimension == 1 else x.mT
    found = measure_module(network, x, tau=0.0, unit_dimension=dimension)
    assert found["dormant/tau_0.0"] == 0.5
    with pytest.raises(ValueError, match=r"unit_dimension=None: layer '1' put out \(64, .*give unit_dimension=1 or"):
        measure_module(network, x)
    with pytest.raises(ValueError, match="unit_dimension=[03] must be a dimension of what layer '1' put out"):
        measure_module(network, x, unit_dimension=0 if dimension == 1 else 3)


def test_not_finite_is_refused_and_leaves_no_hook():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    nn.init.ones_(network[0].weight)  # where all weights of a row are negative, ReLU makes 0 of the infinity
    with pytest.raises(ValueError, match="the activations hold NaN or infinity"):
        measure_module(network, torch.full((3, 2), float("inf")))
    with pytest.raises(RuntimeError):
        measure_module(network, torch.ones(3, 7))
    assert not any(module._forward_hooks for module in network.modules())


def test_measures_need_neither_lightning_nor_an_environment():
    heavy = "[name for name in ('lightning', 'torchrl', 'tensordict', 'dm_control') if name in sys.modules]"
    code = f"import sys; import plasticity_rl.measures; sys.exit(str({heavy}) if {heavy} else 0)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
