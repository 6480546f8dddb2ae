"""From the environment into the replay: the data module and its options, the collector, evaluation.

May import replay, envs, distributed, machine and what is below; neither agents nor callbacks.
Start at ``module.py``.
"""
