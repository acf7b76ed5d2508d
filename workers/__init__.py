"""What is measured, next to the accelerator."""
