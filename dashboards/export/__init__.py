"""Figures of finished sweeps as image files."""
