"""The version of the package and that of its results, for everything that writes them down."""

VERSION = "0.2.0"

RESULTS_VERSION = 7
"""Raised by hand whenever the same shard would give another result, or keep it in another way."""
