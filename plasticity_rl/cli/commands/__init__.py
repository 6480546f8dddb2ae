"""Subcommands of ``plasticity-rl`` that do not train: one module each, imported when it is run."""
