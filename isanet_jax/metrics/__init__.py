"""Metrics of masks and probabilities, NumPy."""
