"""Soft actor-critic from states: the agent and its losses.

May import what agents may.
Start at ``agent.py``.
"""
