"""Pure functions from tensors to scalars: what probes measure. No Lightning, no state, no I/O."""

from plasticity_rl.measures.activations import active_and_total, fraction_active_units, pooled_fraction

__all__ = ["active_and_total", "fraction_active_units", "pooled_fraction"]
