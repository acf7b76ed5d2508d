"""From the name of a model to staged weights and a forward pass."""
