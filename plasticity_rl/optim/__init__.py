"""Optimizers that torch does not have, and how an optimizer is replaced for a part of its parameters.

May import distributed, machine and what is below; nothing of nn and augment.
Start at ``parts.py``.
"""
