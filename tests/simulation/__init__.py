"""Deterministic simulation of the scheduler: see `world`. `python -m tests.simulation` runs it."""
