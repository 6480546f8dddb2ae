"""Layers and tools for networks that belong to no agent: units, activations, precision, compilation.

May import distributed, machine and what is below; nothing of augment and optim.
Start at ``layers.py``.
"""
