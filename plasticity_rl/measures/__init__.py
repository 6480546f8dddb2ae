"""Pure functions from tensors to scalars: what probes measure. No Lightning, no state, no I/O."""

from plasticity_rl.measures.activations import active_and_total, fraction_active_units, pooled_fraction
from plasticity_rl.measures.checks import NotFiniteError
from plasticity_rl.measures.dormancy import (
    any_input_rate,
    dormancy_scores,
    dormant_mask,
    mean_rate,
    overlap_coefficient,
)
from plasticity_rl.measures.spectra import (
    Spectrum,
    approximate_rank,
    effective_rank,
    feature_rank,
    spectrum,
    srank,
    stable_rank,
)
from plasticity_rl.measures.utility import debiased, outgoing_magnitude
from plasticity_rl.measures.weights import distance, l0_norm, l1_norm, l2_norm

__all__ = [
    "NotFiniteError",
    "Spectrum",
    "active_and_total",
    "any_input_rate",
    "approximate_rank",
    "debiased",
    "distance",
    "dormancy_scores",
    "dormant_mask",
    "effective_rank",
    "feature_rank",
    "fraction_active_units",
    "l0_norm",
    "l1_norm",
    "l2_norm",
    "mean_rate",
    "outgoing_magnitude",
    "overlap_coefficient",
    "pooled_fraction",
    "spectrum",
    "srank",
    "stable_rank",
]
