"""Metrics of generated drawings against real ones: definitions and computation, on plain NumPy arrays."""
