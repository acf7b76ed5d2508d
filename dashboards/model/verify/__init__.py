"""What a model's page shows of its verified writers."""
