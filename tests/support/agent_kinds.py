"""The kinds of agents that callbacks are tried on with their defaults: a further agent is a further line here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import TINY_DISCRETE, fit_tiny, tiny_agent, tiny_dqn, tiny_sac

from plasticity_rl import RLModule
from plasticity_rl.callback import RLCallback

NAMES_PARTS = frozenset({"modules", "module", "observed", "encoder", "projection", "outputs", "output", "loss"})
"""Arguments that name parts of an agent: left out, so that the callback finds its own."""


@dataclass(frozen=True)
class Kind:
    """An agent, and how callbacks differ on it.

    Attributes:
        make: Makes a small one for a data module.
        data: What the data module needs.
        special: Class name of a callback -> arguments instead of its example's, where these do nothing here.
        refused: Class name of a callback that cannot work on it -> what the one line says.
    """

    make: Callable[..., RLModule]
    data: Mapping[str, Any] = field(default_factory=dict)
    special: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def fit(self, folder: Path, **options: Any) -> Any:
        """Do ``fit_tiny`` with this agent."""
        data = {**self.data, **options.pop("data_options", {})}
        return fit_tiny(folder, make_agent=self.make, data_options=data, **options)

    def example(self, cls: type[RLCallback]) -> RLCallback:
        """Return a callback that acts, or measures, within a few updates, on parts of the agent that it finds."""
        return cls(**self.special.get(cls.__name__, _without_names(cls.example_arguments)))

    def inert(self, cls: Any) -> RLCallback | None:
        """Return one that does nothing, or None where there is none."""
        if cls.inert_arguments is None or cls.__name__ in self.refused:
            return None
        tasks = {"tasks": [self.data["task"]]} if "tasks" in cls.inert_arguments and "task" in self.data else {}
        return cls(**{**_without_names(cls.inert_arguments), **tasks})


def _without_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in NAMES_PARTS}


_ON_GAMES: dict[str, Mapping[str, Any]] = {
    "AdaptiveReplayRatio": {"high": 1.0, "every_n_updates": 4, "threshold": 1.0},
    "ContinualTasks": {"tasks": ["tiny_discrete", "tiny_discrete_away"], "every_n_frames": 60},
    "ToggleAugmentation": {"at_frame": 60, "on": True},  # off by default there
}
_NOT_ON_DQN = {
    "CURL": "^no module 'critic.trunk' in DQN; .* or null for the features themselves$",
    "TanhSaturation": "^TanhSaturation: nothing can saturate in a DQN",
}
_NOT_ON_NOISY_LAYERS = dict.fromkeys(
    ("GradualPruning", "RandomPruning", "SpectralNorm"), "^the weights of a NoisyLinear cannot be pruned"
)
KINDS = {
    "drqv2": Kind(tiny_agent),
    "sac": Kind(tiny_sac, {"observation": "state"}),
    "dqn": Kind(tiny_dqn, TINY_DISCRETE, _ON_GAMES, _NOT_ON_DQN),
    "rainbow": Kind(
        functools.partial(tiny_dqn, dueling=True, noisy_sigma=0.5, num_atoms=11),
        TINY_DISCRETE,
        _ON_GAMES,
        {**_NOT_ON_DQN, **_NOT_ON_NOISY_LAYERS},
    ),
}
