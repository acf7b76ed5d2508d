"""What runs and where: a sweep from its config to its tables."""
