"""Interventions: one paper per file."""
