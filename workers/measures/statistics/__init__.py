"""Mergeable statistics: quantiles, ratios, lines through points."""
