"""Grids of runs: what a study file means, who starts its runs, and the report about them.

May import results, run and what is below; the command line imports it.
Start at ``spec.py``, then ``runner.py`` and ``report.py``.
"""
