"""DrQ-v2: the agent and its networks; its losses are in ``plasticity_rl/losses.py``.

May import what agents may.
Start at ``agent.py``.
"""
