"""Finished shards, and who may put them there."""
