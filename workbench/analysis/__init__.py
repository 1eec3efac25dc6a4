"""Measurements: a model and data in, tidy rows out. One idea a file; `sweep` runs them over checkpoints."""
