"""The replay buffer: each frame stored once, n-step transitions built when they are sampled, files that last.

May import nn, machine and what is below; nothing of envs.
Start at ``buffer.py``.
"""
