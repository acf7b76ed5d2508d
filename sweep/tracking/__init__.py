"""MLflow: what is logged of a sweep, and what is read back."""
