"""The three answers that open a comparison."""
