"""Shards on Ray."""
