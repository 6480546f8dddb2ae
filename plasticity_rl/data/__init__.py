"""From the environment into the replay: the data module, the collector, evaluation, limits of options.

May import replay, envs, distributed, machine and what is below; neither agents nor callbacks.
Start at ``module.py``.
"""
