"""Planted bugs: see `planted`. `python -m tests.mutants` shows which of them the tests find."""
