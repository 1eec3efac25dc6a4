"""Figures of tidy tables: one file a figure family. Nothing here imports torch, and importing this package loads nothing."""
