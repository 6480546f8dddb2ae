"""Benchmarks, each against the original implementation where it is given: ``python -m benchmarks --help``."""
