"""Measurements of the bus; ``python -m benchmarks`` runs them. Not part of the package."""
