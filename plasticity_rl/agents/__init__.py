"""What learns: the training loop that all agents share, and a package for each agent.

May import data, replay, envs, nn, augment and what is below; it knows hooks (``hooks.py``), not callbacks.
Start at ``base.py``, then ``drqv2/agent.py``.
"""
