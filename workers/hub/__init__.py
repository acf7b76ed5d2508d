"""The Hugging Face hub: its files, and what its names were found to be."""
