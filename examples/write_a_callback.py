"""Write a probe and an intervention of your own, and run them together; under a minute on a CPU.

Run:  python examples/write_a_callback.py --max_frames 4000 --run_dir runs/own_callbacks
On the command line:  --trainer.callbacks+=my_module.LargestWeight --trainer.callbacks.every_n_updates=10
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning.pytorch as pl
import torch
from tensordict import TensorDictBase

from plasticity_rl import DrQV2, Mutation, Probe, RLDataModule, RLModule, ScheduledIntervention, make_trainer


class LargestWeight(Probe):
    """Measure the largest absolute weight of every module. A probe only watches."""

    cuda_graph = "stays"  # acts between updates, in place

    def measure(self, agent: RLModule, batch: TensorDictBase, metrics: TensorDictBase) -> dict[str, Any]:
        """Return scalars by tag; they are logged at the current env frame."""
        return {
            f"largest_weight/{name}": max(p.detach().abs().max() for p in agent.module(name).parameters())
            for name in agent.module_names
        }


class Shrink(ScheduledIntervention):
    """Multiply the critic's weights by a factor at given frames. An intervention says what it touches."""

    family = "soft_reset"
    cuda_graph = "stays"

    def __init__(self, *, factor: float, at_frames: list[int]) -> None:
        super().__init__(at_frames=at_frames)
        self.factor = factor  # arguments are stored under their own names: they make up the key in the checkpoint

    def mutates(self, agent: RLModule) -> Mutation:
        """Only the critic's parameters."""
        return Mutation(parameters=agent.parameter_names([agent.module("critic")]))

    @torch.no_grad()
    def act(self, agent: RLModule) -> str:
        """Edit in place, so that the optimizer and the target stay valid."""
        for parameter in agent.module("critic").parameters():
            parameter.mul_(self.factor)
        return f"critic times {self.factor} at frame {agent.env_frames}"


def main() -> None:
    """Train for a few thousand frames with both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max_frames", type=int, default=4_000)
    parser.add_argument("--run_dir", default="runs/own_callbacks")
    options = parser.parse_args()

    pl.seed_everything(1)
    data = RLDataModule(
        "cartpole_swingup",
        action_repeat=8,
        image_size=32,
        render="fast",
        batch_size=32,
        capacity=5_000,
        max_frames=options.max_frames,
        eval_every_n_frames=2_000,
        num_eval_episodes=1,
    )
    agent = DrQV2(data.obs_shape, data.action_dim, num_channels=8, hidden_dim=64, num_seed_frames=800)
    callbacks = [LargestWeight(every_n_updates=10), Shrink(factor=0.8, at_frames=[options.max_frames // 2])]
    make_trainer(options.run_dir, callbacks=callbacks).fit(agent, data)
    print(f"largest weight of the critic {float(agent.latest['largest_weight/critic']):.2f}")


if __name__ == "__main__":
    main()
