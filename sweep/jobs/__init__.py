"""Sweeps as jobs: on a Ray cluster, and the runs of this machine."""
