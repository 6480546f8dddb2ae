"""Timing in turns, tables, and what stands beside every number; knows no measurement."""
