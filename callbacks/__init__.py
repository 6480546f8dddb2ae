"""Interventions and probes: one paper or one quantity per file. In YAML always ``callbacks.<Name>``."""

from callbacks.interventions.adaptive_replay_ratio import AdaptiveReplayRatio
from callbacks.interventions.l2_init import L2Init
from callbacks.interventions.replay_ratio_schedule import ReplayRatioSchedule
from callbacks.interventions.reset import Reset
from callbacks.interventions.toggle_augmentation import ToggleAugmentation
from callbacks.probes.fraction_active_units import FractionActiveUnits

__all__ = [
    "AdaptiveReplayRatio",
    "FractionActiveUnits",
    "L2Init",
    "ReplayRatioSchedule",
    "Reset",
    "ToggleAugmentation",
]
