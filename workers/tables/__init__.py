"""The tables that a sweep writes: every column declared once, written and read by that, and what is drawn from them."""

SCHEMA_VERSION = "3"
"""Of the tables and of the manifest beside them; raised when a column changes."""
