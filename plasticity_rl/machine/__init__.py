"""The computer: health checks, cores, memory and disk, rendering.

May import ``errors.py`` only, and torch inside functions: this file loads before torch and imports nothing.
Start at ``health.py``.
"""
