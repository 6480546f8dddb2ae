"""Probes: one quantity per file."""
