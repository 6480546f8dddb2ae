"""Hooks and modes for the time of a look."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plasticity_rl.nn.hooks import evaluation_mode, hooked


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_act_in_the_block_and_are_gone_after_it(fails):
    network, seen = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), []
    try:
        with hooked(layer.register_forward_hook(lambda *_: seen.append(1)) for layer in network):
            network(torch.zeros(1, 2))
            if fails:
                raise KeyError
    except KeyError:
        pass
    network(torch.zeros(1, 2))
    assert len(seen) == 2
    assert not any(module._forward_hooks for module in network.modules())


def test_a_hook_that_cannot_be_made_leaves_none_of_those_before_it():
    layer = nn.Linear(1, 1)

    def handles():
        yield layer.register_forward_hook(lambda *_: None)
        raise ValueError("no second one")

    with pytest.raises(ValueError, match="no second one"), hooked(handles()):
        pass
    assert not layer._forward_hooks


def test_evaluation_mode_gives_every_module_its_mode_back():
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    network[1].eval()
    with evaluation_mode(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == [True, True, False, False]
