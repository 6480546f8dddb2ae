"""The kinds of agents that callbacks are tried on with their defaults: a further agent is a further line here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callback_examples import EXPORTED, INTERVENTIONS, compatible, moved_to
from helpers import TINY_DISCRETE, fit_tiny, tiny_agent, tiny_data, tiny_dqn, tiny_sac

import callbacks
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
        return cls(**self._arguments(cls))

    def _arguments(self, cls: type[RLCallback]) -> Mapping[str, Any]:
        return self.special.get(cls.__name__, _without_names(cls.example_arguments))

    def applicable(self, classes: list[type[RLCallback]]) -> list[type[RLCallback]]:
        """Return those that can work on it."""
        return [cls for cls in classes if cls.__name__ not in self.refused]

    def examples(self, frame: int | None = None) -> list[RLCallback]:
        """Return one of each, as many as go together; with ``frame`` their events happen there."""
        chosen = self._groups(self.applicable(EXPORTED), self.example)[0]
        return [cls(**moved_to(frame, cls, self._arguments(cls))) for cls in chosen]

    def all_inert(self) -> list[list[RLCallback]]:
        """Return those that do nothing, of all classes that have such: in groups that go together."""
        classes = [cls for cls in self.applicable(INTERVENTIONS) if cls.inert_arguments is not None]
        return [[self.inert(cls) for cls in group] for group in self._groups(classes, self.inert)]

    def _groups(
        self, classes: list[type[RLCallback]], make: Callable[[type[RLCallback]], RLCallback]
    ) -> list[list[type[RLCallback]]]:
        agent = self.make(tiny_data(max_frames=200, **self.data))
        groups: list[list[type[RLCallback]]] = []
        for cls in classes:
            fitting = [group for group in groups if all(compatible(cls, one, agent, make) for one in group)]
            if fitting:
                fitting[0].append(cls)
            else:
                groups.append([cls])
        return groups

    def inert(self, cls: Any) -> RLCallback:
        """Return one that does nothing, of a class that has such."""
        tasks = {"tasks": [self.data["task"]]} if "tasks" in cls.inert_arguments and "task" in self.data else {}
        return cls(**{**_without_names(cls.inert_arguments), **tasks})


def _without_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in NAMES_PARTS}


def with_donors(folder: Path, *names: str) -> dict[str, Kind]:
    """Return the kinds of these names, or all, each with a run of its own that ``WarmStartReplay`` finds."""
    found = {}
    for name in names or KINDS:
        kind = KINDS[name]
        kind.fit(folder / name, seed=9, max_frames=60, data_options={"eval_every_n_frames": 60})
        donor = {"WarmStartReplay": {"path": str(folder / name)}}
        found[name] = dataclasses.replace(kind, special={**kind.special, **donor})
    return found


_IN_SHORT_RUNS: dict[str, Mapping[str, Any]] = {
    "AdaptiveReplayRatio": {"high": 1.0, "every_n_updates": 4, "threshold": 1.0},
    # Of different modules, so that there may be both.
    "TRAC": {**callbacks.TRAC.example_arguments, "modules": ["actor"]},
    "UPGD": {**callbacks.UPGD.example_arguments, "modules": ["critic"]},
}
_ON_GAMES: dict[str, Mapping[str, Any]] = {
    **_IN_SHORT_RUNS,
    "TRAC": {**callbacks.TRAC.example_arguments, "modules": ["encoder"]},
    "ContinualTasks": {"tasks": ["tiny_discrete", "tiny_discrete_away"], "every_n_frames": 64},
    "ToggleAugmentation": {"at_frame": 60, "on": True},  # off by default there
}
_NOT_ON_DQN = {
    "SimBaV2Blocks": "^SimBaV2Blocks.modules: 'critic.advantage' reads the hidden units of encoder",
    "CURL": "^no module 'critic.trunk' in DQN; .* or null for the features themselves$",
    "TanhSaturation": "^TanhSaturation: nothing can saturate in a DQN",
}
_NOT_ON_NOISY_LAYERS = dict.fromkeys(
    ("GradualPruning", "NeuroplasticExpansion", "RandomPruning", "SpectralNorm"),
    "^the weights of a NoisyLinear cannot be pruned",
)
_NOT_ON_STATES = {cls.__name__: f"^{cls.__name__} works on images" for cls in EXPORTED if cls.needs_pixels}
KINDS = {
    "drqv2": Kind(tiny_agent, special={name: _IN_SHORT_RUNS[name] for name in ("TRAC", "UPGD")}),
    # Two environments, so that there is no intervention that does nothing with several.
    "sac": Kind(tiny_sac, {"observation": "state", "num_envs": 2}, _IN_SHORT_RUNS, _NOT_ON_STATES),
    "dqn": Kind(tiny_dqn, TINY_DISCRETE, _ON_GAMES, _NOT_ON_DQN),
    "rainbow": Kind(
        functools.partial(tiny_dqn, dueling=True, noisy_sigma=0.5, num_atoms=11),
        {**TINY_DISCRETE, "prioritized": True},
        _ON_GAMES,
        {
            **_NOT_ON_DQN,
            **_NOT_ON_NOISY_LAYERS,
            "HLGaussCritic": "^num_atoms=11: the values are distributions",
            "SampleWeightDecay": "^SampleWeightDecay: .*draws batches by priority",
        },
    ),
}
