"""The page on which models are compared."""
