"""Devices: what owns compute units and memory, and how launches travel to them and back."""
