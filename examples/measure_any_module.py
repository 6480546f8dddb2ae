"""Measure a plain PyTorch model with ``plasticity_rl.measures``: no agent, no Trainer; seconds on a CPU.

``measure_module`` is all measures of hidden units and weights at once; each is a function of plain tensors too, such as
``measures.srank(features)``.

Run:  python examples/measure_any_module.py --num_tasks 20
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn import functional as F

from plasticity_rl.measures import measure_module


def main() -> None:
    """Train a network on one task of random labels after another, and measure it before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_tasks", type=int, default=20)
    options = parser.parse_args()

    torch.manual_seed(1)
    inputs = torch.randn(256, 16)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = measure_module(model, inputs)
    for _ in range(options.num_tasks):
        labels = torch.randn(256, 1)
        for _ in range(50):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), labels).backward()
            optimizer.step()
    after = measure_module(model, inputs)
    for name in ("fau", "dormant/tau_0.025", "linearized", "rank/srank", "weight_norm"):
        print(f"{name:18} {before[name]:8.2f} before, {after[name]:8.2f} after {options.num_tasks} tasks")


if __name__ == "__main__":
    main()
