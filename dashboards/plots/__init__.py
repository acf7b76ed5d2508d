"""Figures: from a table to what is shown, and from that to plotly."""
