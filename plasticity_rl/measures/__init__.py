"""Pure functions from tensors to scalars: what probes measure. No Lightning, no state, no I/O.

``measure_module`` puts them together for any ``nn.Module`` and a batch.
"""

from plasticity_rl.measures.activations import (
    active_and_total,
    fraction_active_units,
    nan_unless_finite,
    pooled_fraction,
)
from plasticity_rl.measures.checks import NotFiniteError
from plasticity_rl.measures.curvature import Eigenvalue, top_eigenvalue
from plasticity_rl.measures.density import SpectralDensity, spectral_density
from plasticity_rl.measures.dormancy import (
    any_input_rate,
    dormancy_scores,
    dormant_mask,
    gradient_dormancy_scores,
    linearized_rate,
    mean_rate,
    overlap_coefficient,
    share_above,
    unit_rates,
)
from plasticity_rl.measures.fitting import loss_after_training, random_targets
from plasticity_rl.measures.kernels import (
    Interference,
    condition_number,
    cosine_similarities,
    covariance_spectrum,
    gram_matrix,
    interference,
)
from plasticity_rl.measures.modules import measure_module
from plasticity_rl.measures.norms import mean_norm, saturated_share
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
from plasticity_rl.measures.values import discounted_return, mean_absolute, mean_absolute_difference, spread
from plasticity_rl.measures.weights import distance, l0_norm, l1_norm, l2_norm, relative_change

__all__ = [
    "Eigenvalue",
    "Interference",
    "NotFiniteError",
    "SpectralDensity",
    "Spectrum",
    "active_and_total",
    "any_input_rate",
    "approximate_rank",
    "condition_number",
    "cosine_similarities",
    "covariance_spectrum",
    "debiased",
    "discounted_return",
    "distance",
    "dormancy_scores",
    "dormant_mask",
    "effective_rank",
    "feature_rank",
    "fraction_active_units",
    "gradient_dormancy_scores",
    "gram_matrix",
    "interference",
    "l0_norm",
    "l1_norm",
    "l2_norm",
    "linearized_rate",
    "loss_after_training",
    "mean_absolute",
    "mean_absolute_difference",
    "mean_norm",
    "mean_rate",
    "measure_module",
    "nan_unless_finite",
    "outgoing_magnitude",
    "overlap_coefficient",
    "pooled_fraction",
    "random_targets",
    "relative_change",
    "saturated_share",
    "share_above",
    "spectral_density",
    "spectrum",
    "spread",
    "srank",
    "stable_rank",
    "top_eigenvalue",
    "unit_rates",
]
