"""Removing what earlier runs left."""
