"""Pure edits of weights and optimizer state, in place: what interventions do. No Lightning, no schedule."""

from plasticity_rl.surgery.optimizer_state import clear_state
from plasticity_rl.surgery.reinit import copy_parameters, reinitialize

__all__ = ["clear_state", "copy_parameters", "reinitialize"]
