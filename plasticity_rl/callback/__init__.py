"""Base classes of interventions and probes, and what several of the classes in ``callbacks/`` share.

May import agents, data, measures, surgery and what is below; ``callbacks/`` imports it.
Start at ``intervention.py`` and ``probe.py``.
"""

from plasticity_rl.agents.hooks import Mutation, RLCallback
from plasticity_rl.callback.intervention import Intervention
from plasticity_rl.callback.probe import Probe
from plasticity_rl.callback.regularizer import Regularizer
from plasticity_rl.callback.scheduled import ActsAtEvents, ScheduledIntervention, UpdateIntervention

__all__ = [
    "ActsAtEvents",
    "Intervention",
    "Mutation",
    "Probe",
    "RLCallback",
    "Regularizer",
    "ScheduledIntervention",
    "UpdateIntervention",
]
