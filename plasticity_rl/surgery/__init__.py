"""Pure edits of weights and optimizer state, in place: what interventions do. No Lightning, no schedule."""

from plasticity_rl.surgery.clipping import clip_weights, clipping_bound
from plasticity_rl.surgery.direction_shrink import direction_factors
from plasticity_rl.surgery.optimizer_state import StatePart, clear_elements, clear_state
from plasticity_rl.surgery.reinit import copy_parameters, reinitialize
from plasticity_rl.surgery.resize import insert_after, insert_first, refill, resized, size_of
from plasticity_rl.surgery.shrink_perturb import draw_fresh, shrink_and_perturb
from plasticity_rl.surgery.sparsity import (
    cosine_growth,
    erdos_renyi_densities,
    exchanged_mask,
    largest_mask,
    polynomial_sparsity,
    random_mask,
)
from plasticity_rl.surgery.units import (
    absorb_units,
    copy_units,
    fresh_layer,
    read_on_average,
    redraw_units,
    unit_columns,
    unit_rows,
    write_units,
    zero_columns,
    zero_units,
)

__all__ = [
    "StatePart",
    "absorb_units",
    "clear_elements",
    "clear_state",
    "clip_weights",
    "clipping_bound",
    "copy_parameters",
    "copy_units",
    "cosine_growth",
    "direction_factors",
    "draw_fresh",
    "erdos_renyi_densities",
    "exchanged_mask",
    "fresh_layer",
    "insert_after",
    "insert_first",
    "largest_mask",
    "polynomial_sparsity",
    "random_mask",
    "read_on_average",
    "redraw_units",
    "refill",
    "reinitialize",
    "resized",
    "shrink_and_perturb",
    "size_of",
    "unit_columns",
    "unit_rows",
    "write_units",
    "zero_columns",
    "zero_units",
]
