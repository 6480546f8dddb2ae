"""Compose an agent, an intervention and a probe in Python; about two minutes on 2 CPU cores.

Run:  python examples/train_drqv2.py --max_frames 12000 --run_dir runs/example
"""

from __future__ import annotations

import argparse

import lightning.pytorch as pl

from callbacks import FractionActiveUnits, Reset
from plasticity_rl import DrQV2, RLDataModule, make_trainer


def main() -> None:
    """Train cartpole swing-up from small pixels and reset actor and critic once, half way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max_frames", type=int, default=12_000)
    parser.add_argument("--run_dir", default="runs/example")
    options = parser.parse_args()

    pl.seed_everything(1)
    data = RLDataModule(
        "cartpole_swingup",
        action_repeat=8,
        image_size=48,
        render="fast",
        batch_size=64,
        capacity=10_000,
        max_frames=options.max_frames,
        eval_every_n_frames=2_000,
        num_eval_episodes=2,
        seed=1,
    )
    agent = DrQV2(data.obs_shape, data.action_dim, num_channels=8, hidden_dim=128, num_seed_frames=1_000, seed=1)
    trainer = make_trainer(
        options.run_dir,
        callbacks=[
            FractionActiveUnits(every_n_updates=25),
            Reset(modules=["actor", "critic"], at_frames=[options.max_frames // 2]),
        ],
    )
    trainer.fit(agent, data)


if __name__ == "__main__":
    main()
