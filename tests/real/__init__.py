"""Trials on a real model, trained by others: fetched by whoever runs them, never committed."""
