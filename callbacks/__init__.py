"""Interventions and probes: one paper or one quantity per file. In YAML always ``callbacks.<Name>``."""

from callbacks.interventions.l2_init import L2Init
from callbacks.interventions.reset import Reset
from callbacks.interventions.toggle_augmentation import ToggleAugmentation
from callbacks.probes.fraction_active_units import FractionActiveUnits

__all__ = ["FractionActiveUnits", "L2Init", "Reset", "ToggleAugmentation"]
