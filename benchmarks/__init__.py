"""Benchmarks, each against the original implementation where it is given: ``python -m benchmarks --help``.

``measurements``: one file for each name on the command line; start there. ``harness``: timing in turns, tables, facts
about the machine. ``contestants``: what is measured. ``fingerprint``, ``coverage`` and ``soak`` are programs by
themselves.
"""
