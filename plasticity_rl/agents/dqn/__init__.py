"""DQN and what was added to it up to Rainbow: the agent, its networks, its losses.

May import what agents may.
Start at ``agent.py``.
"""
