"""Run folders read back: curves and events, arms of runs, their statistics and pictures.

May import callback and what is below, but nothing that trains.
Start at ``runs.py``.
"""
