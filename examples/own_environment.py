"""Train SAC on a Gymnasium environment of your own, from states; under a minute on a CPU. Needs gymnasium.

Run:  python examples/own_environment.py --max_frames 4000 --run_dir runs/own_environment
On the command line, in the folder of this file:  --config sac_state --data.task gym:own_environment:Reach-v0
"""

from __future__ import annotations

import argparse

import gymnasium
import lightning.pytorch as pl
import numpy as np

from plasticity_rl import SAC, RLDataModule, make_trainer


class Reach(gymnasium.Env):
    """Push a mass along a line to a goal that is drawn anew in every episode; it ends early when the mass is lost."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)  # scaled: agents here act in [-1, 1]

    def reset(self, *, seed=None, options=None):
        """Begin an episode. Random numbers come from ``self.np_random``, which is saved with the run."""
        super().reset(seed=seed)
        self.position, self.velocity = 0.0, 0.0
        self.goal = float(self.np_random.uniform(-1, 1))
        return self._observation(), {}

    def step(self, action):
        """Return observation, reward, whether nothing follows (it is lost), whether it is cut short (never), and {}."""
        self.velocity = 0.9 * self.velocity + 0.1 * float(action[0])
        self.position += 0.1 * self.velocity
        lost = abs(self.position) > 2
        return self._observation(), 1.0 - min(1.0, abs(self.position - self.goal)), lost, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.position, self.velocity, self.goal])


if "Reach-v0" not in gymnasium.registry:
    gymnasium.register("Reach-v0", Reach, max_episode_steps=100)  # a time limit: the value goes on after it


def main() -> None:
    """Train for a few thousand frames."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max_frames", type=int, default=4_000)
    parser.add_argument("--run_dir", default="runs/own_environment")
    options = parser.parse_args()

    pl.seed_everything(1)
    data = RLDataModule(
        "gym:Reach-v0",
        observation="state",
        n_step=1,
        batch_size=64,
        capacity=10_000,
        max_frames=options.max_frames,
        eval_every_n_frames=1_000,
        num_eval_episodes=3,
    )
    agent = SAC(data.obs_shape, data.action_dim, hidden_dim=64, lr=1e-3, num_seed_frames=500)
    make_trainer(options.run_dir).fit(agent, data)


if __name__ == "__main__":
    main()
