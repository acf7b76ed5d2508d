"""Benchmarks: ratios of things measured in one run, side by side; no pass or fail. ``python -m tests.benchmarks`` runs them."""
