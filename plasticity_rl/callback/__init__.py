"""Base classes of interventions and probes, and what several of the classes in ``callbacks/`` share.

May import agents, data, measures, surgery and what is below; ``callbacks/`` imports it.
Start at ``bases.py``.
"""

from plasticity_rl.callback.bases import (
    Intervention,
    Mutation,
    Probe,
    Regularizer,
    RLCallback,
    ScheduledIntervention,
    UpdateIntervention,
)

__all__ = [
    "Intervention",
    "Mutation",
    "Probe",
    "RLCallback",
    "Regularizer",
    "ScheduledIntervention",
    "UpdateIntervention",
]
